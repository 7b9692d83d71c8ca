"""Queries of a fitted estimator: imputation, conditional samples and anomaly scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound import queries
from lowerbound.data import Rows
from lowerbound.distributions import generator
from lowerbound.estimators import frames, inputs
from lowerbound.estimators.fitted import Fitted
from lowerbound.estimators.parameters import whole
from lowerbound.queries.row_streams import RowStreams
from lowerbound.schema import Encoded, Schema
from lowerbound.schema.column import Name


@dataclass(frozen=True, eq=False)
class Odd:
    """How odd rows are, in nats: ``score [N]`` = −log p(x).

    It is the sum of ``cells``, a frame of the columns' shares (0 where a cell is missing), and of ``latent [N]``, how
    far the row's latents lie from the prior.

    ``standard_error [N]``: Monte Carlo error of the score. ``ess [N]``: effective sample size of the draws behind it.
    """

    score: NDArray[np.float64]
    cells: Any
    latent: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    ess: NDArray[np.float64]


class Querying(Fitted):
    """Methods of an estimator about single cells: completions, conditional draws, anomaly scores, denoising."""

    def impute(
        self,
        X: Any,
        draws: int | None = None,
        *,
        samples: int = 200,
        refine: bool | None = None,
        random_state: int | None = None,
        keep: Sequence[Name] | None = None,
    ) -> Any:
        """Return ``X`` with missing cells filled: one best completion or, with ``draws``, a list of random completions.

        The best value is E[x|observed cells] of numbers (of positive numbers the expected median given z), the most
        probable class, and the median of ordered levels, each within the range of the fitted cells. Draws are from
        p(missing|observed); how far they spread says how far to trust them. Both come from importance sampling of the
        latents with ``samples`` draws per row. Rows with too few effective draws get a proposal of their own, then ten
        times as many draws, and then Hamiltonian chains, which are slow: by default only for ``draws``, otherwise as
        ``refine`` says. Warns of rows that
        are left with too few draws, and of cells that stay missing. Columns that the model was not fitted to are kept,
        or of them only those in ``keep``.

        A row's answer depends on the row, the model and ``random_state``, and on no row that differs from it. Equal
        rows get equal best values, and draws of their own.
        """
        coded, rows = self._table(X, "impute", kept=None)
        coded = coded if keep is None else frames.without(coded, keep)
        if draws is not None:
            whole("draws", draws, 1)
        seed = self.seed_ if random_state is None else random_state
        frames.count_unfilled(coded, self._schema().columns)
        found = self._completed(coded, rows, draws, samples, refine, seed)
        return found[0] if draws is None else found

    def _completed(
        self, coded: Encoded, rows: Rows, draws: int | None, samples: int, refine: bool | None, seed: int
    ) -> list[Any]:
        """Return the completed frames: one of the best values, or ``draws`` of them."""
        chains = self._chains() if refine or (refine is None and draws is not None) else None
        rng, of = generator(seed, "impute", device=self.device), self._schema()
        found = queries.complete(self.model_, self.posterior_, rows, rng, draws=draws, samples=samples, refine=chains)
        levels: list[NDArray[np.float64] | None] = [None] * (draws or 1)
        if any(column.pooled for column in of.modelled):
            rng = generator(seed, "levels", device=self.device)
            streams = RowStreams.of(rows, rng, apart=draws is not None)
            levels = [streams.uniform(len(of.modelled), number) for number in range(draws or 1)]
        if found.draws is None:
            return [frames.completed(found.best, of, coded, levels[0], best=True)]
        return [frames.completed(each, of, coded, own) for each, own in zip(found.draws, levels, strict=True)]

    def anomaly(self, X: Any, *, samples: int = 1000, keep: Sequence[Name] = ()) -> Odd:
        """How odd each row of the frame ``X`` is: −log p of its observed cells, and what each cell adds to it.

        ``keep``: columns of ``X`` that come before the others in the frame of ``cells``.
        """
        coded, rows = self._table(X, "anomaly", keep)
        rng = generator(self.seed_, "anomaly", device=self.device)
        found = queries.anomaly(self.model_, self.posterior_, rows, rng, samples=samples)
        cells = frames.shares(found.cells, self._schema(), coded)
        cells = frames.joined(X, keep, cells) if len(keep) else cells
        return Odd(found.score, cells, found.latent, found.standard_error, found.ess)

    def _sample_given(self, n_samples: int, given: Mapping[Name, Any], random_state: int | None) -> Any:
        if getattr(self, "schema_", None) is None:
            raise ValueError("given= names columns of a table, and this model was fitted to an array: fit a frame.")
        values, known = frames.row_given(given, self._schema())
        like = next(self.model_.parameters())
        x = torch.tensor(np.nan_to_num(self._schema().standardise(values)), dtype=like.dtype, device=like.device)
        mask = torch.tensor(known, device=like.device)
        seed = self.seed_ if random_state is None else random_state
        rng = generator(seed, "sample given", device=self.device)
        found = queries.condition(self.model_, self.posterior_, x, mask, n_samples, rng, refine=self._chains())
        if found.unlikely:
            frames.warn_of_condition(given, self._schema(), found.extreme.cpu().numpy())
        drawn = found.rows.cpu().double().numpy()
        return frames.decoded(drawn, self._schema(), np.random.default_rng(seed), exact=(values, known))

    def _chains(self) -> queries.Refine:
        """Those that the latents allow: Hamiltonian ones are of real numbers."""
        return "hmc" if self.posterior_.unconstrained else "gibbs"

    def _schema(self) -> Schema:
        assert self.schema_ is not None
        return self.schema_

    def _table(self, X: Any, asked: str, kept: Sequence[Name] | None = ()) -> tuple[Encoded, Rows]:
        inputs.check_fitted(self)
        if self.schema_ is None:
            raise ValueError(
                f"{asked} is of tables, and this model was fitted to an array: fit a frame, as pandas.DataFrame(X), "
                'with likelihood="auto".'
            )
        coded = self._encoded(X, kept)
        return coded, self._supported(frames.standardised(coded.values, self.schema_), "none", None)
