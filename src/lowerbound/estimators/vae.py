"""A variational auto-encoder as a scikit-learn estimator."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_array, validate_data
from torch import Tensor, nn

from lowerbound import distributions, evidence, inference, io, objectives
from lowerbound import nn as networks
from lowerbound.data import Rows
from lowerbound.data.rows import Binarise
from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.errors import DivergedError, LockedError
from lowerbound.estimators import inputs
from lowerbound.estimators.choices import (
    COUNTS,
    build_likelihood,
    build_networks,
    check_precision,
    check_support,
    default_likelihood,
)
from lowerbound.estimators.parameters import check_parameters, whole
from lowerbound.gradients import Objective
from lowerbound.likelihoods import Likelihood
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import DiagonalNormal
from lowerbound.priors import Normal
from lowerbound.training import Callback, Event, History, Schedule, WarmUp, in_order, train

_USE_BATCH = 128  # rows at once in a fitted model: always so many, so that no row's result depends on the others
_OF_THE_FITTING = ("callbacks", "progress", "threads", "device", "precision", "compile")  # and not of the model
_INITIALISE_ROWS = 10_000  # enough to start from; the rest of a large table need not be read for it


class Encoding(NamedTuple):
    """q(z|x) of each row: ``mean [N, d]`` and ``scale [N, d]`` (standard deviations)."""

    mean: NDArray[Any]
    scale: NDArray[Any]


class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A variational auto-encoder: p(z) = N(0, I), p(x|z) by a decoder, q(z|x) by an encoder. Kingma & Welling 2013.

    Parameters
    ----------
    latent_dim : the number of latents, d.
    likelihood : "auto" picks it from the data (``lowerbound check`` says which); a name; or a ``Likelihood``.
    network : "mlp" with ``hidden`` layers, or "conv" for rows of shape (H, W) or (C, H, W).
    hidden : sizes of the encoder's hidden layers; the decoder mirrors them.
    encoder, decoder : modules of your own, ``[B, *X] → [B, 2d]`` and ``[N, d] → [N, P, *X]``.
    objective : "elbo", "elbo_sampled", "elbo_entropy", "iwae", or a function of a ``Draw``.
    draws : latents drawn for each row and step (K of "iwae").
    beta, warm_up, free_bits : the weight of the KL; passes over which it grows from 0; nats that each latent has free.
        With any of them the number ascended is no bound on log p(x); what ``score`` reports always is.
    learning_rate, batch_size, passes : of Adam; rows a step; passes over the data, at most.
    validation, patience : share of rows held out, whose best state is kept; passes without a better one before
        stopping (None: never).
    binarise : "none", "fixed" or "afresh" (each pass): grey values in [0, ``white``] become 1 with probability
        value/``white``.
    white : the largest grey value (default 255 for 8-bit data, else 1).
    random_state : seed. The same seed and number of threads give the same bytes; global generators are not touched.
    device, threads, progress, callbacks : where and how to fit.
    precision : of the networks' products while fitting, "float32", "bf16" or (on a GPU) "tf32".
    compile : compile the step first: some 20 seconds, then faster steps.

    Attributes
    ----------
    model_, posterior_ : the fitted p(x, z) and q(z|x). history_ : what happened. n_features_in_, feature_names_in_.

    Examples
    --------
    >>> import numpy as np, lowerbound as lb
    >>> x = np.random.default_rng(0).normal(size=(200, 5)) @ np.ones((5, 5)) + 1.0
    >>> vae = lb.VAE(latent_dim=1, passes=20, random_state=0).fit(x)
    >>> vae.transform(x).shape, vae.sample(3).shape
    ((200, 1), (3, 5))
    """

    model_: LatentVariableModel
    posterior_: DiagonalNormal
    history_: History

    def __init__(
        self,
        latent_dim: int = 10,
        *,
        likelihood: str | Likelihood = "auto",
        network: Literal["mlp", "conv"] = "mlp",
        hidden: Sequence[int] = (256, 128),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        objective: str | Objective = "elbo",
        draws: int = 1,
        beta: float = 1.0,
        warm_up: float = 0.0,
        free_bits: float = 0.0,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 100,
        passes: int = 200,
        validation: float = 0.1,
        patience: int | None = 20,
        binarise: Literal["none", "fixed", "afresh"] = "none",
        white: float | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
        threads: int | None = None,
        precision: networks.Precision = "float32",
        compile: bool = False,
        progress: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.network = network
        self.hidden = hidden
        self.encoder = encoder
        self.decoder = decoder
        self.objective = objective
        self.draws = draws
        self.beta = beta
        self.warm_up = warm_up
        self.free_bits = free_bits
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.passes = passes
        self.validation = validation
        self.patience = patience
        self.binarise = binarise
        self.white = white
        self.random_state = random_state
        self.device = device
        self.threads = threads
        self.precision = precision
        self.compile = compile
        self.progress = progress
        self.callbacks = callbacks

    def fit(
        self,
        X: ArrayLike,
        y: object = None,
        *,
        run_dir: str | Path | None = None,
        resume: inference.Resume = "auto",
        checkpoint_every: int = 1000,
    ) -> Self:
        """Learn from rows ``X``: ``[N, D]``, or ``[N, H, W]`` and ``[N, C, H, W]`` for images. ``y`` is ignored.

        With ``run_dir``, a folder, the fit can be cut short anywhere and goes on when called again as it was, with the
        same bytes in the end: ``lowerbound.fit`` tells how. The folder then holds what ``save`` writes.
        """
        goes_on = run_dir is not None and resume == "auto" and self.random_state is None
        with inputs.unchanged_if_refused(self, ValueError, TypeError, LockedError):
            x = self._checked(X, reset=True)
            rows = self._start(x, inference.seed_of(Path(run_dir)) if goes_on and run_dir is not None else None)
            held_out = round(self.validation * len(rows)) > 0 and len(rows) > 1
            try:
                self.history_ = inference.fit(
                    self.model_,
                    rows,
                    self._aevb(),
                    passes=self.passes,
                    batch_size=self.batch_size,
                    validation=self.validation,
                    patience=self.patience if held_out else None,
                    patience_from=self.warm_up,
                    seed=self.seed_,
                    threads=self.threads,
                    callbacks=[*self.callbacks, self._keep_history],
                    progress=self.progress,
                    run_dir=run_dir,
                    resume=resume,
                    checkpoint_every=checkpoint_every,
                    extra=self._described(),
                ).history
            except DivergedError as error:
                self.history_ = error.history
                raise
        return self

    def _keep_history(self, event: Event) -> None:
        """What happens is kept while it does: it is there, too, where the fit could not be written in the end."""
        self.history_ = event.history

    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:
        """One more pass, over these rows; the first call starts the model. No rows are held out."""
        first = not hasattr(self, "model_")
        with inputs.unchanged_if_refused(self):
            x = self._checked(X, reset=first)
            rows = self._start(x) if first else self._supported(x, self.binarise)
        if not hasattr(self, "_ascent"):
            self._ascent = self._aevb().start(self.model_)
        done = len(self.history_.records)
        with inference.use_threads(self.threads):
            history = train(
                self._ascent,
                rows,
                passes=done + 1,
                first_pass=done,
                batch_size=self.batch_size,
                seed=self.seed_,
                callbacks=self.callbacks,
            )
        history.records = self.history_.records + history.records
        self.history_ = history
        if history.stopped == "interrupted":
            raise KeyboardInterrupt
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """The posterior means E_q[z|x], ``[N, d]``."""
        return self.encode(X).mean

    def encode(self, X: ArrayLike) -> Encoding:
        """The approximate posterior of each row."""
        x = self._checked(X)
        out = [(q.loc[:real], q.scale[:real]) for q, _, real in self._posteriors(x)]
        loc, scale = (torch.cat(parts) for parts in zip(*out, strict=True))
        return Encoding(self._given(loc, x.dtype), self._given(scale, x.dtype))

    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:
        """E[x|z] of latents ``X [N, d]`` (the most probable class for categories), ``[N, *X]``."""
        inputs.check_fitted(self)
        z = check_array(inputs.prepare(X), dtype=(np.float64, np.float32), ensure_all_finite=False)
        inputs.check_finite(z)
        if z.shape[1] != self.latent_dim:
            raise ValueError(f"latents have {z.shape[1]} columns, but this model has latent_dim={self.latent_dim}.")
        rows = Rows.from_array(z).to(self.device)
        means = [self._decode(batch.x)[:real] for batch, real in in_order(rows, _USE_BATCH)]
        return self._given(torch.cat(means), z.dtype)

    def reconstruct(self, X: ArrayLike) -> NDArray[Any]:
        """Rows as the model sees them: encoded to their posterior mean and decoded, ``[N, *X]``."""
        x = self._checked(X)
        return self._given(torch.cat([self._decode(q.loc)[:real] for q, _, real in self._posteriors(x)]), x.dtype)

    @torch.no_grad()
    def sample(self, n_samples: int = 1, random_state: int | None = None) -> NDArray[Any]:
        """Rows from the model, ``[n_samples, *X]``. Without ``random_state``, the same rows each time."""
        inputs.check_fitted(self)
        whole("n_samples", n_samples, 1)
        rng = generator(self.seed_ if random_state is None else random_state, "sample", device=self.device)
        sizes = [min(1000, n_samples - start) for start in range(0, n_samples, 1000)]
        rows = torch.cat([self.model_.sample(size, rng) for size in sizes]).cpu().numpy()
        return rows.astype(self._sample_dtype(), copy=False)

    def score_samples(self, X: ArrayLike, samples: int = 100) -> NDArray[Any]:
        """log p(x) of each row in nats, ``[N]``: importance sampling with ``samples`` draws, low in expectation.

        Every row meets the same draws, so that its score depends on no other row; a mean over rows therefore keeps a
        Monte Carlo error that more rows do not lessen. For a mean with its standard error: ``log_likelihood``.
        """
        whole("samples", samples, 1)
        x = self._checked(X)
        rows, scores = self._supported(x, "mean"), []
        thresholds = torch.rand(self.shape_, generator=self._rng("thresholds"), device=self.device)
        for batch, real in in_order(rows, _USE_BATCH):
            if rows.binarise == "mean":
                batch = replace(batch, x=(batch.x > thresholds).to(batch.x.dtype))
            log_p = evidence.score_rows(self.model_, self.posterior_, batch, samples, self._rng("score"))
            scores.append(log_p[:real])
        return self._given(torch.cat(scores), x.dtype)

    def score(self, X: ArrayLike, y: object = None) -> float:
        """Mean over rows of ``score_samples``, in nats per row."""
        return float(np.mean(self.score_samples(X), dtype=np.float64))

    def log_likelihood(self, X: ArrayLike, samples: int = 1000) -> evidence.LogLikelihood:
        """log p(x) by importance sampling, with draws of each row's own: estimates, their errors, effective sizes."""
        rows = self._supported(self._checked(X), "afresh")
        return evidence.log_likelihood(self.model_, self.posterior_, rows, samples=samples, seed=self.seed_)

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator into the folder ``path``; ``lowerbound.load`` reads it back."""
        inputs.check_fitted(self)
        io.save(path, self.model_, self.posterior_, self._described(), self.history_)

    def _described(self) -> dict[str, Any]:
        """What ``save`` keeps beside the model, as JSON."""
        parameters = self.get_params(deep=False)
        for name in _OF_THE_FITTING:
            del parameters[name]
        if isinstance(self.random_state, np.random.RandomState):
            parameters["random_state"] = self.seed_
        fitted = {
            "n_features_in": self.n_features_in_,
            "feature_names_in": [str(name) for name in getattr(self, "feature_names_in_", [])],
            "shape": list(self.shape_),
            "dtype": str(self.dtype_),
            "seed": self.seed_,
            "white": self.white_,
        }
        return {"estimator": "VAE", "parameters": io.encode(parameters), "fitted": fitted}

    @classmethod
    def restore(cls, saved: io.Saved, own: dict[str, Any]) -> Self:
        """The estimator that ``save`` wrote."""
        parameters, fitted = io.rebuild(saved.extra["parameters"], own, saved), saved.extra["fitted"]
        estimator = cls(**parameters)
        estimator.model_, estimator.posterior_ = saved.model.eval(), saved.posterior.eval()
        estimator.n_features_in_ = fitted["n_features_in"]
        if fitted["feature_names_in"]:
            estimator.feature_names_in_ = np.array(fitted["feature_names_in"], dtype=object)
        estimator.shape_, estimator.dtype_ = tuple(fitted["shape"]), np.dtype(fitted["dtype"])
        estimator.seed_, estimator.white_ = fitted["seed"], fitted["white"]
        estimator.history_ = saved.history
        return estimator

    def _checked(self, X: ArrayLike, reset: bool = False) -> NDArray[Any]:
        """``X`` as finite numbers, of the shape that was fitted."""
        if reset:
            check_parameters(self.get_params(deep=False))
        else:
            inputs.check_fitted(self)
        X = inputs.prepare(X, None if reset else self)
        x: NDArray[Any] = validate_data(self, X, reset=reset, allow_nd=True, ensure_all_finite=False)
        inputs.check_finite(x, getattr(self, "feature_names_in_", None))
        return x

    def _start(self, x: NDArray[Any], seed: int | None = None) -> Rows:
        """Build the model for rows like ``x``, and give the rows to fit. Nothing fitted changes if ``x`` is refused."""
        seed, shape = _seed(self.random_state) if seed is None else seed, x.shape[1:]
        white = (255.0 if x.dtype == np.uint8 else 1.0) if self.white is None else float(self.white)
        binarised = self.binarise != "none"
        rows = _rows(x, "mean" if binarised else "none", white, seed, self.device)
        likelihood = copy.deepcopy(self.likelihood)
        if isinstance(likelihood, str):
            name = default_likelihood(x, binarised)[0] if likelihood == "auto" else likelihood
            likelihood = build_likelihood(name, x, white)
        if not binarised:
            names = getattr(self, "feature_names_in_", None)
            check_support(likelihood, x, "X", names)
            check_precision(likelihood, x, "X", names)
        some = torch.randperm(len(x), generator=generator(seed, "initialise"))[:_INITIALISE_ROWS].to(rows.device)
        values = rows.batch(some, torch.ones(len(some))).x
        with networks.seeded(seed):
            standardise, encoder, decoder = build_networks(
                self.network, self.latent_dim, self.hidden, shape, likelihood
            )
        encoder = encoder if self.encoder is None else copy.deepcopy(self.encoder)
        decoder = decoder if self.decoder is None else copy.deepcopy(self.decoder)
        standardise.to(self.device).fit(values)
        model = LatentVariableModel(Normal(self.latent_dim), decoder, likelihood).to(self.device)
        model.initialise(values)
        posterior = DiagonalNormal(self.latent_dim, networks.Chain(standardise, encoder)).to(self.device)
        self.model_, self.posterior_, self.history_ = model, posterior, History()
        self.seed_, self.shape_, self.dtype_, self.white_ = seed, shape, x.dtype, white
        self.__dict__.pop("_ascent", None)
        return self._rows(x, self.binarise) if binarised else rows

    @property
    def objective_is_bound(self) -> bool:
        """Whether what ``fit`` ascends bounds log p(x): not where the KL is weighted, or has free bits."""
        return self._aevb().is_bound

    def _aevb(self) -> inference.AEVB:
        beta = WarmUp(self.warm_up, end=self.beta) if self.warm_up else self.beta
        penalties = (partial(objectives.free_bits, floor=self.free_bits),) if self.free_bits else ()
        objective = io.find("objectives", self.objective) if isinstance(self.objective, str) else self.objective
        if self.free_bits and objective is not objectives.elbo:
            raise ValueError('free_bits are of the KL in closed form: they need objective="elbo".')
        return inference.AEVB(
            self.posterior_,
            objective=objective,
            draws=self.draws,
            beta=beta,
            penalties=penalties,
            learning_rate=self.learning_rate,
            precision=self.precision,
            compile=self.compile,
        )

    def _rows(self, x: NDArray[Any], binarise: Binarise) -> Rows:
        return _rows(x, binarise, self.white_, self.seed_, self.device)

    def _supported(self, x: NDArray[Any], binarise: Binarise) -> Rows:
        """Rows that the model can produce: as they are, or grey ones by ``binarise`` if it is of binarised ones."""
        if self.binarise != "none":
            return self._rows(x, binarise)
        check_support(self.model_.likelihood, x, "X", getattr(self, "feature_names_in_", None))
        return self._rows(x, "none")

    def _rng(self, stream: str) -> torch.Generator:
        return generator(self.seed_, stream, device=self.device)

    def _posteriors(self, x: NDArray[Any]) -> Iterator[tuple[distributions.Normal, Batch, int]]:
        """q(z|x) of ``x`` in batches of one size, with how many rows of each are real."""
        with torch.no_grad():
            rows = self._supported(x, "mean")
            for batch, real in in_order(rows, _USE_BATCH):
                yield self.posterior_(batch.x), batch, real

    @torch.no_grad()
    def _decode(self, z: Tensor) -> Tensor:
        return self.model_.likelihood.point(self.model_.decode(z.unsqueeze(0))).squeeze(0)

    def _given(self, values: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
        """As NumPy, in the floating type that came in."""
        return values.cpu().numpy().astype(dtype if dtype.kind == "f" else np.float32, copy=False)

    def _sample_dtype(self) -> np.dtype[Any]:
        """Whole numbers come as whole numbers where the data did: in their own type if it holds all of the support."""
        if self.dtype_.kind == "f" or self.model_.likelihood.measure == "Lebesgue":
            return self.dtype_ if self.dtype_.kind == "f" else np.dtype(np.float32)
        bounded = not isinstance(self.model_.likelihood, COUNTS)
        return self.dtype_ if bounded else np.dtype(np.int64)

    @property
    def _n_features_out(self) -> int:
        return self.latent_dim

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.three_d_array = True
        return tags


def _rows(x: NDArray[Any], binarise: Binarise, white: float, seed: int, device: str) -> Rows:
    rng = generator(seed, "binarise")
    return Rows.from_array(x, binarise=binarise, white=white, generator=rng).to(device)


def _seed(random_state: int | np.random.RandomState | None) -> int:
    """A seed; None takes fresh entropy, so that no global generator is read or moved."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0]) >> 1
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return int(random_state)
