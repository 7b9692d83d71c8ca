"""A variational auto-encoder as a scikit-learn estimator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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

from lowerbound import distributions, inference, objectives
from lowerbound import nn as networks
from lowerbound.data import Rows
from lowerbound.data.rows import Binarise
from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.errors import DivergedError, LockedError
from lowerbound.estimators import frames, inputs, saving
from lowerbound.estimators.building import build, likelihood_for, max_value_of, schema_for
from lowerbound.estimators.defaults import part_of, sample_dtype
from lowerbound.estimators.parameters import check_parameters, whole
from lowerbound.estimators.querying import Querying
from lowerbound.estimators.scoring import USE_BATCH, Scoring
from lowerbound.gradients import GradientEstimator, Objective
from lowerbound.likelihoods import Likelihood
from lowerbound.likelihoods.support import check_support
from lowerbound.model import LatentVariableModel
from lowerbound.modes import eval_mode
from lowerbound.posteriors import Posterior
from lowerbound.priors import Prior
from lowerbound.schema import Column, Encoded, Schema
from lowerbound.schema.column import Name
from lowerbound.storage.model import Saved, save
from lowerbound.training import Callback, Event, History, Schedule, WarmUp, in_order, train

_MOMENT_DRAWS = 1000
_IWAE_DRAWS = 20  # of "iwae", and so of the bound where cells are missing. Mattei & Frellsen 2019


class Encoding(NamedTuple):
    """q(z|x) of each row: ``mean [N, d]`` and ``scale [N, d]`` (standard deviations)."""

    mean: NDArray[Any]
    scale: NDArray[Any]


class VAE(Scoring, Querying, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A variational auto-encoder: p(z) = N(0, I), p(x|z) by a decoder, q(z|x) by an encoder. Kingma & Welling 2013.

    Rows are an array of numbers, or a table: a frame of pandas, polars or pyarrow as it is, each column of its own
    kind, with holes. What goes in as a frame comes out as one.

    Parameters
    ----------
    latent_dim : the number of latents, d.
    likelihood : "auto" picks it from the data (``lowerbound check`` says which); a name; or a ``Likelihood``.
    network : "mlp" with ``hidden`` layers, or "conv" for rows of shape (H, W) or (C, H, W).
    hidden, activation : sizes of the encoder's hidden layers, which the decoder mirrors; "SiLU", "Tanh", …
    encoder, decoder : modules of your own, ``[B, *X] → [B, 2d]`` and ``[N, d] → [N, P, *X]``.
    prior, posterior : names of ``lowerbound.priors`` and ``.posteriors``; a prior may be a ``Prior``, a posterior what
        makes one of (latent_dim, encoder=…). None for the prior that suits the posterior.
    objective : "elbo", "elbo_sampled", "elbo_entropy", "iwae", or a function of a ``Draw``. "auto" is "iwae" with 20
        draws where cells are missing (MIWAE: Mattei & Frellsen 2019), and "elbo" where none is.
    gradient : a name or function of ``lowerbound.gradients``; None for what the posterior allows.
    draws : latents drawn for each row and step (K of "iwae"); None for 1, or 20 of "iwae".
    beta, warm_up, free_bits : the weight of the KL; epochs over which it grows from 0; nats that each latent has free.
        With any of them the number ascended is no bound on log p(x); what ``score`` reports always is.
    learning_rate, batch_size, epochs : of Adam; rows a step; epochs, at most.
    validation, patience : share of rows held out, whose best state is kept; epochs without a better one before
        stopping (None: never).
    binarise : "none", "fixed" or "afresh" (each epoch): grey values in [0, ``max_value``] become 1 with probability
        value/``max_value``.
    max_value : the largest grey value (default 255 for 8-bit data, else 1).
    schema : of a frame, the kinds of some columns by name (``schema.infer`` tells the rest), or a ``Schema``.
    strict : refuse levels that were never seen, and values beyond a column's kind, instead of using them as missing.
    missing : why cells are missing. "at_random": given the observed ones. "self_masking": each by its own value, with a
        probability that is learnt (``SelfMasking``; slower); log p is then of the cells and of which are missing.
    random_state : seed. The same seed and number of threads give the same bytes; global generators are not touched.
    device, threads, progress, callbacks : where and how to fit.
    precision : of the networks' products while fitting, "float32", "bf16" or (on a GPU) "tf32".
    compile : compile the step first: some 20 seconds, then faster steps.

    Attributes
    ----------
    model_, posterior_ : the fitted p(x, z) and q(z|x). history_ : what happened. schema_ : what a frame's columns are
    taken for; None of arrays. n_features_in_, feature_names_in_.

    Examples
    --------
    >>> import numpy as np, lowerbound as lb
    >>> x = np.random.default_rng(0).normal(size=(200, 5)) @ np.ones((5, 5)) + 1.0
    >>> vae = lb.VAE(latent_dim=1, epochs=20, random_state=0).fit(x)
    >>> vae.transform(x).shape, vae.sample(3).shape
    ((200, 1), (3, 5))
    """

    model_: LatentVariableModel
    posterior_: Posterior
    history_: History
    schema_: Schema | None

    def __init__(
        self,
        latent_dim: int = 10,
        *,
        likelihood: str | Likelihood = "auto",
        network: Literal["mlp", "conv"] = "mlp",
        hidden: Sequence[int] = (256, 128),
        activation: str = "SiLU",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        prior: str | Prior | None = None,
        posterior: str | Callable[..., Posterior] = "DiagonalNormal",
        objective: str | Objective = "auto",
        gradient: str | GradientEstimator | None = None,
        draws: int | None = None,
        beta: float = 1.0,
        warm_up: float = 0.0,
        free_bits: float = 0.0,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 100,
        epochs: int = 200,
        validation: float = 0.1,
        patience: int | None = 20,
        binarise: Literal["none", "fixed", "afresh"] = "none",
        max_value: float | None = None,
        schema: Schema | Mapping[Name, str | Column] | None = None,
        strict: bool = False,
        missing: Literal["at_random", "self_masking"] = "at_random",
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
        self.activation = activation
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        self.posterior = posterior
        self.objective = objective
        self.gradient = gradient
        self.draws = draws
        self.beta = beta
        self.warm_up = warm_up
        self.free_bits = free_bits
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.epochs = epochs
        self.validation = validation
        self.patience = patience
        self.binarise = binarise
        self.max_value = max_value
        self.schema = schema
        self.strict = strict
        self.missing = missing
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
        context: ArrayLike | None = None,
        run_dir: str | Path | None = None,
        resume: inference.Resume = "auto",
        checkpoint_every: int = 1000,
    ) -> Self:
        """Learn from rows ``X``: ``[N, D]``, or ``[N, H, W]`` and ``[N, C, H, W]`` for images. ``y`` is ignored.

        With ``context [N, C]`` it is p(x|context) that is learnt: prior, encoder and decoder are given it.

        With ``run_dir``, a folder, the fit can be cut short anywhere and goes on when called again as it was, with the
        same bytes in the end: ``lowerbound.fit`` tells how. The folder then holds what ``save`` writes.
        """
        goes_on = run_dir is not None and resume == "auto" and self.random_state is None
        with inputs.unchanged_if_refused(self, ValueError, TypeError, LockedError):
            x = self._checked(X, reset=True)
            given = inputs.context(context, len(x))
            seed = inference.seed_of(Path(run_dir)) if goes_on and run_dir is not None else None
            rows = self._start(x, given, seed)
            held_out = round(self.validation * len(rows)) > 0 and len(rows) > 1
            try:
                self.history_ = inference.fit(
                    self.model_,
                    rows,
                    self._aevb(),
                    epochs=self.epochs,
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
        """One more epoch, over these rows; the first call starts the model. No rows are held out."""
        first = not hasattr(self, "model_")
        with inputs.unchanged_if_refused(self):
            x = self._checked(X, reset=first)
            rows = self._start(x) if first else self._supported(x, self.binarise, None)
        if not hasattr(self, "_ascent"):
            self._ascent = self._aevb().start(self.model_)
        done = len(self.history_.records)
        with inference.use_threads(self.threads):
            history = train(
                self._ascent,
                rows,
                epochs=done + 1,
                first_epoch=done,
                batch_size=self.batch_size,
                seed=self.seed_,
                callbacks=self.callbacks,
            )
        history.records = self.history_.records + history.records
        self.history_ = history
        if history.stopped == "interrupted":
            raise KeyboardInterrupt
        return self

    def transform(self, X: ArrayLike, context: ArrayLike | None = None) -> NDArray[Any]:
        """The posterior means E_q[z|x], ``[N, d]``."""
        mean: NDArray[Any] = self.encode(X, context).mean
        return mean

    def encode(self, X: ArrayLike, context: ArrayLike | None = None, keep: Sequence[Name] = ()) -> Any:
        """The approximate posterior of each row, an ``Encoding``: from 1,000 draws where it has no closed form.

        Of a row with nothing observed it is the prior, exactly. With ``keep``, columns of the frame ``X``, it is a
        frame of these and of mean0, …, sd0, ….
        """
        x = self._checked(X, kept=keep)
        out = [
            [part[:real].flatten(1) for part in self._moments(q, batch)]
            for q, batch, real in self._posteriors(x, context)
        ]
        mean, scale = (torch.cat(parts) for parts in zip(*out, strict=True))
        found = Encoding(self._given(mean, x.dtype), self._given(scale, x.dtype))
        return frames.beside(X, keep, {"mean": found.mean, "sd": found.scale}) if len(keep) else found

    def kl(self, X: ArrayLike, context: ArrayLike | None = None) -> NDArray[np.float64] | None:
        """KL(q(z|x) ‖ p(z)) of each latent in nats, ``[N, d]``; None where it has no closed form of each."""
        found = []
        for q, batch, real in self._posteriors(self._checked(X), context):
            each = distributions.kl_per_dim(q, self.model_.prior(batch.context, self.posterior_))
            if each is None:
                return None
            found.append(each[:real].flatten(1))
        return torch.cat(found).double().cpu().numpy()

    def inverse_transform(self, X: ArrayLike, context: ArrayLike | None = None) -> Any:
        """E[x|z] of latents ``X [N, d]`` (the most probable class for categories), ``[N, *X]``."""
        inputs.check_fitted(self)
        z = check_array(inputs.prepare(X), dtype=(np.float64, np.float32), ensure_all_finite=False)
        inputs.check_finite(z)
        if z.shape[1] != self._n_features_out:
            of = f"latent_dim={self.latent_dim}" + (
                "" if len(self.posterior_.event) == 1 else f" of {self._n_features_out}"
            )
            raise ValueError(f"latents have {z.shape[1]} columns, but this model has {of}.")
        rows = Rows.from_array(z, context=inputs.fitted_context(context, len(z), self.n_context_)).to(self.device)
        means = [self._decode(batch.x, batch)[:real] for batch, real in in_order(rows, USE_BATCH)]
        return self._framed(self._given(torch.cat(means), z.dtype))

    def reconstruct(self, X: ArrayLike, context: ArrayLike | None = None) -> Any:
        """Rows as the model sees them: encoded to their posterior mean and decoded, ``[N, *X]``."""
        coded = None if getattr(self, "schema_", None) is None else self._encoded(X, kept=None)
        x = self._checked(X) if coded is None or self.schema_ is None else frames.standardised(coded, self.schema_)
        means = [self._decode(self._moments(q, of)[0], of)[:real] for q, of, real in self._posteriors(x, context)]
        return self._framed(self._given(torch.cat(means), x.dtype), coded)

    @torch.no_grad()
    def sample(
        self,
        n_samples: int = 1,
        random_state: int | None = None,
        context: ArrayLike | None = None,
        given: Mapping[Name, Any] | None = None,
    ) -> Any:
        """Rows from the model, ``[n_samples, *X]`` or a frame. Without ``random_state``, the same rows each time.

        ``context``: of each row, ``[n_samples, C]``, or one for all, ``[C]``. ``given``: cells of a table that are
        known, by column, as {"sex": "Female", "age": 37}: rows from p(x|given), by inference.
        """
        inputs.check_fitted(self)
        whole("n_samples", n_samples, 1)
        if given is not None:
            return self._sample_given(n_samples, given, random_state)
        if context is not None and np.ndim(context) == 1:
            context = np.broadcast_to(np.asarray(context), (n_samples, np.size(context)))
        beside = inputs.fitted_context(context, n_samples, self.n_context_)
        rng = generator(self.seed_ if random_state is None else random_state, "sample", device=self.device)
        parts = []
        for start in range(0, n_samples, 1000):
            size = min(1000, n_samples - start)
            some = None if beside is None else torch.from_numpy(beside[start : start + size]).to(self.device)
            parts.append(self.model_.sample(size, rng, some, self.posterior_))
        rows = torch.cat(parts).cpu().numpy()
        dtype = sample_dtype(self.dtype_, self.model_.likelihood)
        return self._framed(rows.astype(dtype, copy=False), random_state=random_state)

    def _framed(self, x: NDArray[Any], coded: Encoded | None = None, random_state: int | None = None) -> Any:
        """Rows of numbers as a frame, if it was fitted to one: in the types of ``coded`` rows, with their keys."""
        if self.schema_ is None:
            return x
        rng = np.random.default_rng(self.seed_ if random_state is None else random_state)
        return frames.decoded(x, self.schema_, rng, coded)

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator into the folder ``path``; ``lowerbound.load`` reads it back."""
        inputs.check_fitted(self)
        save(path, self.model_, self.posterior_, self._described(), self.history_)

    def _described(self) -> dict[str, Any]:
        return saving.described(self)

    @classmethod
    def restore(cls, saved: Saved, own: dict[str, Any]) -> Self:
        """The estimator that ``save`` wrote."""
        return saving.restored(cls, saved, own)

    def _checked(self, X: ArrayLike, reset: bool = False, kept: Sequence[Name] = ()) -> NDArray[Any]:
        """``X`` as numbers, of the shape that was fitted: finite ones, or those of a table, NaN where it has holes."""
        if reset:
            check_parameters(self.get_params(deep=False))
            self._take(X)
        else:
            inputs.check_fitted(self)
        if self.schema_ is not None:
            return frames.standardised(self._encoded(X, kept, reset), self.schema_)
        X = inputs.prepare(X, None if reset else self)
        x: NDArray[Any] = validate_data(self, X, reset=reset, allow_nd=True, ensure_all_finite=False)
        inputs.check_finite(x, getattr(self, "feature_names_in_", None))
        return x

    def _take(self, X: ArrayLike) -> None:
        """See whether ``X`` is a table to be taken column by column."""
        self.schema_ = schema_for(self, X)
        if self.schema_ is not None:
            names = self.schema_.names
            self.n_features_in_ = len(names)
            self.__dict__.pop("feature_names_in_", None)
            if all(isinstance(name, str) for name in names):
                self.feature_names_in_ = np.array(names, dtype=object)

    def _encoded(self, X: Any, kept: Sequence[Name] | None = (), fitting: bool = False) -> Encoded:
        return frames.encoded(X, self._schema(), self.strict, not fitting, kept)

    def _start(self, x: NDArray[Any], context: NDArray[Any] | None = None, seed: int | None = None) -> Rows:
        """Build the model for rows like ``x``, and give the rows to fit. Nothing fitted changes if ``x`` is refused."""
        seed = inputs.seed(self.random_state) if seed is None else seed
        max_value, binarised = max_value_of(self, x), self.binarise != "none"
        rows = inputs.rows(x, "mean" if binarised else "none", max_value, seed, self.device, context)
        likelihood = likelihood_for(self, x, max_value, self.schema_)
        model, posterior = build(self, rows, likelihood, self.schema_, seed)
        self.model_, self.posterior_, self.history_ = model, posterior, History()
        self.n_context_ = None if context is None else context.shape[1]
        self.has_missing_ = rows.mask is not None
        self.seed_, self.shape_, self.dtype_, self.max_value_ = seed, x.shape[1:], x.dtype, max_value
        self.__dict__.pop("_ascent", None)
        return self._rows(x, self.binarise, context) if binarised else rows

    @property
    def objective_is_bound(self) -> bool:
        """Whether what ``fit`` maximises is known to bound log p(x): not where the KL is weighted or has free bits."""
        return self._aevb().is_bound

    @property
    def objective_(self) -> str | Objective:
        """``objective``, with what "auto" is."""
        if self.objective != "auto":
            return self.objective
        return "iwae" if self.has_missing_ and not self.free_bits else "elbo"

    @property
    def draws_(self) -> int:
        """``draws``, with what None is."""
        if self.draws is not None:
            return self.draws
        return _IWAE_DRAWS if self.objective_ in ("iwae", objectives.iwae) else 1

    def _aevb(self) -> inference.AEVB:
        beta = WarmUp(self.warm_up, end=self.beta) if self.warm_up else self.beta
        penalties = (partial(objectives.free_bits, floor=self.free_bits),) if self.free_bits else ()
        objective = part_of("objectives", self.objective_)
        if self.free_bits and objective is not objectives.elbo:
            raise ValueError('free_bits are of the KL in closed form: they need objective="elbo".')
        return inference.AEVB(
            self.posterior_,
            objective=objective,
            draws=self.draws_,
            beta=beta,
            penalties=penalties,
            gradient=None if self.gradient is None else part_of("gradients", self.gradient),
            learning_rate=self.learning_rate,
            precision=self.precision,
            compile=self.compile,
        )

    def _rows(self, x: NDArray[Any], binarise: Binarise, context: NDArray[Any] | None) -> Rows:
        return inputs.rows(x, binarise, self.max_value_, self.seed_, self.device, context)

    def _supported(self, x: NDArray[Any], binarise: Binarise, context: ArrayLike | None) -> Rows:
        """Rows that the model can produce: as they are, or grey ones by ``binarise`` if it is of binarised ones."""
        given = inputs.fitted_context(context, len(x), self.n_context_)
        if self.binarise != "none":
            return self._rows(x, binarise, given)
        if self.schema_ is not None:
            return self._rows(x, "none", given)
        check_support(self.model_.likelihood, x, "X", getattr(self, "feature_names_in_", None))
        return self._rows(x, "none", given)

    def _rng(self, stream: str) -> torch.Generator:
        return generator(self.seed_, stream, device=self.device)

    def _posteriors(
        self, x: NDArray[Any], context: ArrayLike | None
    ) -> Iterator[tuple[distributions.Distribution, Batch, int]]:
        """q(z|x) of ``x`` in batches of one size, with how many rows of each are real."""
        with eval_mode(self.model_, self.posterior_), torch.no_grad():
            rows = self._supported(x, "mean", context)
            for batch, real in in_order(rows, USE_BATCH):
                yield self.posterior_(batch.x, batch.mask, batch.context), batch, real

    def _moments(self, q: distributions.Distribution, of: Batch) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z, ``[B, *E]``: the prior's where nothing is observed."""
        mean, scale = self._moments_of(q)
        if (
            of.mask is None
            or self.model_.likelihood.informative
            or bool((something := of.mask.flatten(1).any(1)).all())
        ):
            return mean, scale
        pairs = zip(self._moments_of(self.model_.prior(of.context, self.posterior_)), (mean, scale), strict=True)
        wide = something.view(-1, *[1] * (mean.dim() - 1))
        prior_mean, prior_scale = (torch.where(wide, ours, theirs.expand_as(ours)) for theirs, ours in pairs)
        return prior_mean, prior_scale

    def _moments_of(self, q: distributions.Distribution) -> tuple[Tensor, Tensor]:
        """Every row meets the same draws where it takes draws."""
        if isinstance(q, distributions.Normal):
            return q.loc, q.scale
        like = next(self.posterior_.parameters())
        z = q.sample(self.posterior_.noise(_MOMENT_DRAWS, 1, self._rng("moments"), like.dtype))
        mean = q.mean()
        return z.mean(0) if mean is None else mean, z.std(0)

    @torch.no_grad()
    def _decode(self, z: Tensor, of: Batch) -> Tensor:
        z = z.view(len(z), *self.posterior_.event)
        with eval_mode(self.model_):
            return self.model_.likelihood.point(self.model_.decode(z.unsqueeze(0), of.context)).squeeze(0)

    def _given(self, values: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
        """As NumPy, in the floating type that came in."""
        return values.cpu().numpy().astype(dtype if dtype.kind == "f" else np.float32, copy=False)

    @property
    def _n_features_out(self) -> int:
        return math.prod(self.posterior_.event)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.three_d_array = True
        return tags
