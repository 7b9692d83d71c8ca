"""A deep Kalman filter of sequences in frames in long form, with scikit-learn's interface."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from lowerbound.checks import OBJECT, WAY_OUT, Check, check_fields, whole, wrong
from lowerbound.data import Sequences
from lowerbound.data.long_form import LongForm, long_form
from lowerbound.distributions import generator
from lowerbound.errors import DataError, FormatError, LockedError
from lowerbound.estimators import frames, inputs
from lowerbound.estimators.fitting import fit_kept
from lowerbound.estimators.parameters import check_threads, real
from lowerbound.estimators.parameters import whole as check_whole
from lowerbound.estimators.step_frames import drawn_frame, forecast_frame
from lowerbound.estimators.table_networks import cells_of, product_of
from lowerbound.evidence import LogLikelihood, log_likelihood
from lowerbound.inference import AEVB, Resume, seed_of
from lowerbound.likelihoods import EachStep, Product
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Markov, Posterior
from lowerbound.queries.sequences import forecast, of_length
from lowerbound.schema import Column, Schema
from lowerbound.schema.column import Name
from lowerbound.sequence_models import deep_kalman_filter
from lowerbound.storage.model import Saved, save
from lowerbound.storage.parts import CONFIG, encode
from lowerbound.training import Callback, History

_OF_THE_FITTING = ("callbacks", "progress", "threads", "schema")  # the schema is saved as it was fitted
_STEPS, _LEAST, _MOST = 2000, 20, 500  # steps of the optimiser that "auto" aims at; least and most epochs
_ENOUGH, _HELD_OUT = 20, 0.1  # sequences from which on some are held out by default; their share
_FITTED: dict[str, Check] = {"schema": OBJECT, "seed": whole("a whole number of 63 bits", 0, 2**63 - 1)}


class SequenceVAE(BaseEstimator):  # type: ignore[misc]
    """A deep Kalman filter of sequences: p(z_t|z_{t−1}) p(x_t|z_t), for tables with a row per step.

    The two columns ``sequence`` are the name of a sequence and the time of a step, by which the rows of the sequence
    are sorted. Only the order of times counts: write a step that was not observed as a row of missing cells. Each
    other column gets a likelihood for its kind of values, as in ``VAE``, and cells may be missing. log p is in the
    columns' own units. Krishnan, Shalit & Sontag 2017.

    Parameters
    ----------
    sequence : names of the two columns, (name of the sequence, time).
    latent_dim : number of latents of each step. hidden : units of the transition, the emission and the encoder's GRU.
    draws : latent samples per sequence and optimiser step.
    epochs : maximum number of epochs ("auto": those of 2,000 optimiser steps, from 20 to 500).
    batch_size : sequences per optimiser step. learning_rate : of Adam.
    validation : share of the sequences held out ("auto": 0.1 of 20 sequences or more, else 0).
    patience : epochs without improvement of the held-out bound before stopping.
    schema : the kinds of some columns, such as {"size": "count"}; the others are inferred.
    random_state, threads, progress, callbacks : see ``VAE``.

    Attributes
    ----------
    model_, posterior_ : the fitted model and q(z|x). schema_ : how columns are read. history_ : of the fit.

    Examples
    --------
    >>> import numpy as np, pandas as pd, lowerbound as lb
    >>> walk = np.random.default_rng(0).normal(size=(30, 8)).cumsum(1)
    >>> frame = pd.DataFrame({"id": np.repeat(range(30), 8), "day": [*range(8)] * 30, "x": walk.ravel()})
    >>> model = lb.SequenceVAE(("id", "day"), latent_dim=2, hidden=8, epochs=2, random_state=0).fit(frame)
    >>> model.forecast(frame.head(8), steps=2, samples=50).columns.tolist()
    ['id', 'steps_ahead', 'x', 'x_lower', 'x_upper']
    """

    model_: LatentVariableModel
    posterior_: Posterior
    schema_: Schema
    history_: History
    seed_: int

    def __init__(
        self,
        sequence: tuple[str, str] = ("id", "time"),
        *,
        latent_dim: int = 8,
        hidden: int = 32,
        draws: int = 1,
        epochs: int | Literal["auto"] = "auto",
        batch_size: int = 20,
        learning_rate: float = 3e-3,
        validation: float | Literal["auto"] = "auto",
        patience: int = 30,
        schema: Schema | Mapping[Name, str | Column] | None = None,
        random_state: int | np.random.RandomState | None = None,
        threads: int | None = None,
        progress: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.sequence = sequence
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.draws = draws
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation = validation
        self.patience = patience
        self.schema = schema
        self.random_state = random_state
        self.threads = threads
        self.progress = progress
        self.callbacks = callbacks

    def fit(
        self,
        X: Any,
        y: object = None,
        *,
        run_dir: str | Path | None = None,
        resume: Resume = "auto",
        checkpoint_every: int = 1000,
    ) -> Self:
        """Learn from a frame ``X`` of pandas, polars or pyarrow with a row per step; ``y`` is ignored.

        With ``run_dir``, a folder, the fit writes checkpoints there every ``checkpoint_every`` steps; if it is
        interrupted, the same call resumes it and ends with the same bytes (see ``lowerbound.fit``).
        """
        run = None if run_dir is None else Path(run_dir)
        with inputs.unchanged_if_refused(self, ValueError, TypeError, LockedError):
            self.check_parameters()
            steps = self._long_form(X)
            self.schema_, values = frames.learned(steps.columns, self.schema, strict=False)
            own = seed_of(run) if run is not None and resume == "auto" and self.random_state is None else None
            self.seed_ = inputs.seed(self.random_state) if own is None else own
            rows = Sequences(steps.split(values))
            self._build(rows)
            share = self.validation if self.validation != "auto" else _HELD_OUT * (len(rows) >= _ENOUGH)
            held_out = round(share * len(rows)) > 0 and len(rows) > 1
            per_epoch = math.ceil((len(rows) - round(share * len(rows))) / self.batch_size)
            epochs = min(_MOST, max(_LEAST, _STEPS // per_epoch)) if self.epochs == "auto" else self.epochs
            fit_kept(
                self,
                rows,
                AEVB(self.posterior_, draws=self.draws, learning_rate=self.learning_rate, clip_norm=10.0),
                run,
                epochs=epochs,
                batch_size=self.batch_size,
                validation=share,
                patience=self.patience if held_out else None,
                resume=resume,
                checkpoint_every=checkpoint_every,
            )
        return self

    def log_likelihood(self, X: Any, *, samples: int = 1000) -> LogLikelihood:
        """Estimate log p(x) of each sequence by importance sampling; sequences in the order of their first rows.

        It is log p of the observed cells, a density in the columns' own units. Sequences may be longer than those of
        the fit.
        """
        _, rows = self._rows(X)
        model, posterior = of_length(self.model_, rows.shape[0]), of_length(self.posterior_, rows.shape[0])
        return log_likelihood(model, posterior, rows, samples=samples, seed=self.seed_)

    def score(self, X: Any, y: object = None) -> float:
        """The estimated log p per step of the sequences ``X``, in nats; higher is better."""
        steps, _ = self._rows(X)
        return float(self.log_likelihood(X).estimate.sum() / steps.lengths.sum())

    def forecast(
        self, X: Any, steps: int = 1, *, level: float = 0.9, draws: int = 500, samples: int = 1000, seed: int = 0
    ) -> Any:
        """The next ``steps`` steps of each sequence of ``X``, as a frame with a row per sequence and step ahead.

        For each column, the median of ``draws`` random continuations and the interval from ``…_lower`` to ``…_upper``
        that holds a share ``level`` of them; of classes, the most frequent one alone. ``samples``: importance samples
        of the latents per sequence.
        """
        inputs.check_fitted(self)
        for name, value in (("steps", steps), ("draws", draws)):
            check_whole(name, value, 1)
        check_whole("samples", samples, 2)
        real("level", level, 0, above=True, below=1)
        of, rows = self._rows(X)
        rng = generator(seed, "forecast")
        found = forecast(self.model_, self.posterior_, rows, steps, rng, level=level, draws=draws, samples=samples)
        return forecast_frame(found.draws, level, self.schema_, self.sequence[0], of.names, seed)

    @torch.no_grad()
    def sample(self, n_sequences: int = 1, steps: int | None = None, random_state: int | None = None) -> Any:
        """Draw sequences of ``steps`` steps (by default those of the longest of the fit), as a frame in long form."""
        inputs.check_fitted(self)
        check_whole("n_sequences", n_sequences, 1)
        steps = int(self.model_.prior.event[0]) if steps is None else steps
        check_whole("steps", steps, 1)
        seed = self.seed_ if random_state is None else random_state
        rows = of_length(self.model_, steps).sample(n_sequences, generator(seed, "sample"))
        return drawn_frame(rows.double().cpu().numpy(), self.schema_, self.sequence, seed)

    def names(self, X: Any) -> list[Any]:
        """The names of the sequences of ``X``, in the order in which methods return them."""
        return self._long_form(X).names

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator into the folder ``path``; ``lowerbound.load`` reads it back."""
        inputs.check_fitted(self)
        save(path, self.model_, self.posterior_, self._described(), self.history_)

    @classmethod
    def restore(cls, saved: Saved) -> Self:
        """Restore the estimator that ``save`` wrote. Raises ``FormatError`` for an invalid file."""
        what = f"{CONFIG} does not describe a {cls.__name__}"
        given, defaults = saved.extra.get("parameters"), cls().get_params(deep=False)
        if not isinstance(given, dict) or given.keys() != defaults.keys() - set(_OF_THE_FITTING):
            raise FormatError(f"{what}: its parameters are not those of this version; {WAY_OUT}.")
        fitted = check_fields(saved.extra.get("fitted"), _FITTED, "what was fitted", what)
        if isinstance(given["sequence"], list):
            given = given | {"sequence": tuple(given["sequence"])}
        estimator = cls(**given)
        try:
            estimator.check_parameters()
        except (TypeError, ValueError) as error:
            raise FormatError(f"{what} ({str(error).split('; ')[0].rstrip('.')}); {WAY_OUT}.") from error
        schema, of = Schema.from_dict(fitted["schema"], CONFIG), getattr(saved.model, "likelihood", None)
        columns = sum(map(len, of.of.of)) if isinstance(of, EachStep) and isinstance(of.of, Product) else 0
        if columns != len(schema.modelled) or not isinstance(saved.posterior, Markov):
            raise wrong(what, "the model", type(saved.model).__name__, f"one of {len(schema.modelled)} columns")
        estimator.model_, estimator.posterior_ = saved.model.eval(), saved.posterior.eval()
        estimator.schema_, estimator.seed_, estimator.history_ = schema, fitted["seed"], saved.history
        return estimator

    def check_parameters(self) -> None:
        """Raise ValueError for invalid arguments."""
        names: Any = self.sequence
        if not isinstance(names, tuple | list) or len(names) != 2 or names[0] == names[1]:
            raise ValueError(f'sequence is {names!r}; give the names of two columns, such as ("id", "time").')
        for name in ("latent_dim", "hidden", "draws", "batch_size", "patience"):
            check_whole(name, getattr(self, name), 1)
        if self.epochs != "auto":
            check_whole("epochs", self.epochs, 1)
        if self.validation != "auto":
            real("validation", self.validation, 0, below=1)
        real("learning_rate", self.learning_rate, 0, above=True)
        if not isinstance(self.random_state, np.random.RandomState | None):
            check_whole("random_state", self.random_state, 0)
        if self.threads is not None:
            check_whole("threads", self.threads, 1)
            check_threads(self.threads)

    def _long_form(self, X: Any) -> LongForm:
        if not frames.is_frame(X):
            raise DataError(
                f"X is of type {type(X).__name__}, not a frame; give a table of pandas, polars or pyarrow with a row "
                "per step, or use lowerbound.data.Sequences with lowerbound.fit for arrays."
            )
        return long_form(X, *self.sequence, source="X")

    def _rows(self, X: Any) -> tuple[LongForm, Sequences]:
        """The steps of a frame, and its sequences as rows of standardised numbers."""
        inputs.check_fitted(self)
        steps = self._long_form(X)
        values: NDArray[Any] = frames.encoded(steps.columns, self.schema_, strict=False, keep=False).values
        return steps, Sequences(steps.split(frames.standardised(values, self.schema_)))

    def _build(self, rows: Sequences) -> None:
        self.model_, self.posterior_ = deep_kalman_filter(
            rows,
            self.latent_dim,
            self.hidden,
            likelihood=product_of(self.schema_),
            cells=cells_of(self.schema_),
            seed=self.seed_,
        )
        self.history_ = History()

    def _described(self) -> dict[str, Any]:
        """The parameters and fitted attributes, for JSON."""
        kept = {name: value for name, value in self.get_params(deep=False).items() if name not in _OF_THE_FITTING}
        if isinstance(self.random_state, np.random.RandomState):
            kept["random_state"] = self.seed_
        fitted = {"schema": self.schema_.as_dict(), "seed": self.seed_}
        return {"estimator": type(self).__name__, "parameters": encode(kept), "fitted": fitted}
