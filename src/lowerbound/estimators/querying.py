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
from lowerbound.data.row_arrays import RowArray
from lowerbound.data.rows import Binarise
from lowerbound.distributions import generator
from lowerbound.estimators import frames, inputs
from lowerbound.estimators.fitted import Fitted
from lowerbound.estimators.parameters import whole
from lowerbound.queries.row_streams import RowStreams
from lowerbound.schema import Encoded, Schema
from lowerbound.schema.column import Name


@dataclass(frozen=True, eq=False)
class Odd:
    """Anomaly scores in nats: ``score [N]`` = −log p(x), for the observed cells of each row.

    The score is the sum of the contributions of ``cells``, a frame with one column per modelled column, or an array
    ``[N, *X]`` (0 for missing cells), and of ``latent [N]``, the KL divergence between the row's latents and the prior.

    ``standard_error [N]``: the Monte Carlo error of the score. ``ess [N]``: its effective sample size.
    """

    score: NDArray[np.float64]
    cells: Any
    latent: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    ess: NDArray[np.float64]


class Querying(Fitted):
    """The estimator's methods for single cells: imputation, conditional samples, anomaly scores."""

    binarise: Binarise

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

        The best value of a number is E[x|observed cells], which minimises the squared error (for log-normal columns,
        with larger values counted as the largest fitted one); that of a class is the most probable one, which minimises
        the error rate; that of ordered levels is the median, which minimises the number of levels between it and the
        true one. Each is within the range of the fitted cells. Draws are from p(missing|observed); their
        spread measures the uncertainty.

        Both use importance sampling with ``samples`` draws of the latents per row. Rows with too few effective draws
        get a proposal fitted to the row, then more draws and a better proposal, then MCMC chains. Chains are slow;
        ``refine`` turns them on or off (default: on for ``draws``, off for best values). A warning is given for rows
        that still have too few effective draws, and for cells that stay missing. Without an encoder, q(z|x) is found by
        a local search for each row.

        ``keep``: which of the columns that the model was not fitted to are in the result (default: all).

        The result for a row depends on that row, the model and ``random_state``, not on other rows. Equal rows get
        equal best values, but different draws.
        """
        if draws is not None:
            whole("draws", draws, 1)
        seed = self.seed_ if random_state is None else random_state
        inputs.check_fitted(self)
        if self.schema_ is None:
            found = self._completed_arrays(X, draws, samples, refine, seed)
            return found[0] if draws is None else found
        coded, rows = self._table(X, kept=None)
        coded = coded if keep is None else frames.without(coded, keep)
        frames.count_unfilled(coded, self._schema().columns)
        found = self._completed(coded, rows, draws, samples, refine, seed)
        return found[0] if draws is None else found

    def _completed_arrays(
        self, X: Any, draws: int | None, samples: int, refine: bool | None, seed: int
    ) -> list[NDArray[Any]]:
        """Return the completed arrays: one of the best values, or ``draws`` of them."""
        x, rows = self._array(X)
        chains = self._chains() if refine or (refine is None and draws is not None) else None
        rng = generator(seed, "impute", device=self.device)
        found = queries.complete(self.model_, self.posterior_, rows, rng, draws=draws, samples=samples, refine=chains)
        given = x[:]
        filled = [found.best] if found.draws is None else found.draws
        return [np.where(np.isnan(given), each, given).astype(given.dtype) for each in filled]

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
        """Anomaly scores of the rows of ``X``: −log p of the observed cells, and each cell's contribution.

        ``samples``: importance samples per row. ``keep``: columns of a frame ``X`` to put first in that of ``cells``.
        """
        inputs.check_fitted(self)
        rng = generator(self.seed_, "anomaly", device=self.device)
        if self.schema_ is None:
            _, rows = self._array(X)
            return Odd(**vars(queries.anomaly(self.model_, self.posterior_, rows, rng, samples=samples)))
        coded, rows = self._table(X, keep)
        found = queries.anomaly(self.model_, self.posterior_, rows, rng, samples=samples)
        cells = frames.shares(found.cells, self._schema(), coded)
        cells = frames.joined(X, keep, cells) if len(keep) else cells
        return Odd(found.score, cells, found.latent, found.standard_error, found.ess)

    def _sample_given(self, n_samples: int, given: Mapping[Name, Any], random_state: int | None) -> Any:
        if getattr(self, "schema_", None) is None:
            raise ValueError("given= needs a model of a table, but this model was fitted to an array; fit a frame.")
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
        """The type of chains: Hamiltonian for real-valued latents, else Metropolis-within-Gibbs."""
        return "hmc" if self.posterior_.unconstrained else "gibbs"

    def _schema(self) -> Schema:
        assert self.schema_ is not None
        return self.schema_

    def _table(self, X: Any, kept: Sequence[Name] | None = ()) -> tuple[Encoded, Rows]:
        coded = self._encoded(X, kept)
        return coded, self._supported(frames.standardised(coded.values, self._schema()), "none", None)

    def _array(self, X: Any) -> tuple[RowArray, Rows]:
        if self.binarise != "none":
            raise ValueError(
                "impute and anomaly need the values that the likelihood describes, but this model binarises X; "
                'binarise X yourself, and fit it with binarise="none".'
            )
        x = self._checked(X)
        return x, self._supported(x, "none", None)
