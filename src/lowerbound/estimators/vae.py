"""A variational auto-encoder as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import validate_data
from torch import nn

from lowerbound import inference
from lowerbound import nn as networks
from lowerbound.data import Rows
from lowerbound.data.row_arrays import DatasetRows, RowArray, SparseRows
from lowerbound.data.rows import Binarise
from lowerbound.distributions import generator
from lowerbound.errors import LockedError
from lowerbound.estimators import frames, inputs, saving
from lowerbound.estimators.building import build, is_table, likelihood_of_array, likelihood_of_table
from lowerbound.estimators.choices import Auto, Choice, choose_prior
from lowerbound.estimators.defaults import sample_dtype
from lowerbound.estimators.fitting import fit_kept
from lowerbound.estimators.labels import Labelling
from lowerbound.estimators.learning import is_aevb, name_of
from lowerbound.estimators.parameters import check_parameters, whole
from lowerbound.estimators.querying import Querying
from lowerbound.estimators.resolved import Resolved
from lowerbound.estimators.scoring import Scoring
from lowerbound.estimators.search import search
from lowerbound.estimators.search import seed_of as seed_of_search
from lowerbound.estimators.summary import check_finite
from lowerbound.gradients import GradientEstimator, Objective
from lowerbound.inference import Inference
from lowerbound.inference.aevb import Optimizer
from lowerbound.likelihoods import Likelihood
from lowerbound.likelihoods.support import check_support
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Posterior
from lowerbound.priors import Prior
from lowerbound.schema import Column, Encoded, Schema
from lowerbound.schema.column import Name
from lowerbound.storage.model import Saved, save
from lowerbound.training import Callback, History, Schedule, train


class VAE(Labelling, Resolved, Scoring, Querying, BaseEstimator):  # type: ignore[misc]
    """A variational auto-encoder: p(z) = N(0, I), p(x|z) by a decoder, q(z|x) by an encoder. Kingma & Welling 2013.

    Fit it to an array of numbers, in which NaN marks a missing value, or to a data frame of pandas, polars or pyarrow,
    whose columns may be of different kinds. Results for a frame are frames of the same library.

    Parameters
    ----------
    latent_dim : number of latents, d.
    likelihood : "auto" to choose it from the data (``lowerbound.check`` reports which), a name, or a ``Likelihood``.
    network : "mlp" with ``hidden`` layers, or "conv" for rows of shape (H, W) or (C, H, W).
    hidden, activation : sizes of the encoder's hidden layers, which the decoder mirrors; "SiLU", "Tanh", …
    encoder, decoder : your own modules, ``[B, *X] → [B, 2d]`` and ``[N, d] → [N, P, *X]``.
    prior, posterior : names in ``lowerbound.priors`` and ``.posteriors``. ``prior`` may also be a ``Prior`` (None:
        chosen to suit the posterior; a ``Flow`` for tables of 500 rows or more), and ``posterior`` a function
        (latent_dim, encoder=…) → ``Posterior``.
    objective : "elbo", "elbo_sampled", "elbo_entropy", "iwae", or a function of a ``Draw``. "auto" is "iwae" with 20
        draws if values are missing (MIWAE: Mattei & Frellsen 2019), else "elbo".
    gradient : a name or function in ``lowerbound.gradients`` (None: chosen to suit the posterior).
    draws : latents drawn per row and step, K of "iwae" (None: 20 for "iwae", else 1).
    beta, warm_up, free_bits : weight of the KL; epochs over which it grows from 0; nats of KL per latent that are not
        penalised. With any of them the training objective is no bound on log p(x); ``score`` always reports one.
    inference : how to learn, one of ``lowerbound.inference``, with those arguments here that it has. None or "AEVB" is
        ``AEVB``; "semi-amortised", "wake-sleep", "reweighted-wake-sleep" and "full-vb" learn an encoder, too. "local"
        and "mcem" need none: ``transform``, ``score_samples``, ``impute`` and other methods that need q(z|x) then find
        it by a local search for each row, with the model as it is. Else a function (or class) that makes an
        ``Inference`` of (model, posterior), and of those arguments here that it takes by name.
    classes : None to ignore y; "y" for a latent class y, whose labels ``fit(X, y)`` gets (−1 for no label): p(y) p(z)
        p(x|y, z) (M2: Kingma et al. 2014); a number, for so many clusters without labels. With
        prior="ConditionalNormal" z depends on y instead, p(y) p(z|y) p(x|z). See docs/labels.md.
    label_weight : α, for −α times the mean of log q(y|x) over the labelled rows in the objective, which is then no
        bound.
    optimizer : a name of ``torch.optim``, or a function that makes an optimiser of parameters.
    learning_rate, batch_size, epochs : learning rate or ``Schedule``; rows per step; largest number of epochs.
    validation, patience : share of rows held out to choose the best epoch; epochs without an improvement beyond its
        standard error before training stops (None: never). These five are "auto" by default: ``chosen_`` has the
        values. For frames, with epochs="auto", a last phase follows in which the held-out rows are learnt from too and
        the learning rate falls.
    search : seconds for comparing other priors, ``hidden`` and ``latent_dim`` with those given before the fit (the list
        is ``estimators.search.CANDIDATES``), by successive halving on the bound of the same held-out rows; None: no
        search. The fit is then that with the arguments in ``chosen_``. All rounds take about as long as three fits; the
        choice depends on how many of them the time allows, and on nothing else than the data and the seed.
    binarise : "none", "fixed" or "afresh" (each epoch): grey values in [0, ``max_value``] become 1 with probability
        value/``max_value``.
    max_value : the largest grey value (default 255 for 8-bit data, else 1).
    schema : kinds of some columns of a frame by name (the others are inferred by ``schema.infer``), or a ``Schema``.
    strict : raise an error for new levels, and for values outside the range of a column's kind, instead of treating
        them as missing.
    missing : how values came to be missing. "at_random" (MAR), or "self_masking" (MNAR): with a probability that
        depends on the missing value and is learnt (``SelfMasking``; slower); log p then includes the missing pattern.
    random_state : seed. The same seed and number of threads give the same bytes; global generators are not touched.
    device, threads, progress, callbacks : torch device; CPU threads; whether to show a progress bar; functions of an
        ``Event``.
    precision : precision of the networks' matrix products in training: "float32", "bf16" or (on a GPU) "tf32".
    compile : compile the training step, which takes some 20 seconds and makes steps faster.

    Attributes
    ----------
    model_, posterior_ : the fitted p(x, z) and q(z|x). history_ : the record of training. schema_ : the schema of the
    fitted frame; None for arrays. chosen_ : by argument, the value chosen for "auto", and why. classes_ : the classes,
    if there are any.
    n_features_in_, feature_names_in_.

    Examples
    --------
    >>> import numpy as np, lowerbound as lb
    >>> x = np.random.default_rng(0).normal(size=(200, 5)) @ np.ones((5, 5)) + 1.0
    >>> vae = lb.VAE(latent_dim=1, epochs=20, random_state=0).fit(x)
    >>> vae.transform(x).shape, vae.sample(3).shape
    ((200, 1), (3, 5))
    """

    model_: LatentVariableModel
    history_: History
    schema_: Schema | None
    chosen_: dict[str, Choice]

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
        inference: str | Callable[..., Inference[LatentVariableModel]] | None = None,
        classes: Literal["y"] | int | None = None,
        label_weight: float = 0.0,
        optimizer: str | Optimizer = "Adam",
        learning_rate: float | Schedule | Auto = "auto",
        batch_size: int | Auto = "auto",
        epochs: int | Auto = "auto",
        validation: float | Auto = "auto",
        patience: int | Auto | None = "auto",
        search: float | None = None,
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
        self.inference = inference
        self.classes = classes
        self.label_weight = label_weight
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.epochs = epochs
        self.validation = validation
        self.patience = patience
        self.search = search
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
        """Fit to rows ``X``: ``[N, D]``, or ``[N, H, W]`` and ``[N, C, H, W]`` for images.

        ``y``: with ``classes="y"``, the label of each row (whole numbers or text; −1, None or NaN for none), else
        ignored.

        Memory-mapped arrays, sparse matrices of SciPy and a ``Dataset`` or ``DataLoader`` of torch are read batch by
        batch. NaN marks a missing value.

        With ``context [N, C]``, p(x|context) is learnt: prior, encoder and decoder get the context as input.

        With ``run_dir``, a folder, training writes checkpoints. If it is interrupted, the same call resumes it and ends
        with the same bytes (see ``lowerbound.fit``). The folder then holds what ``save`` writes.
        """
        run = None if run_dir is None else Path(run_dir)
        ended = () if self.search is None else (KeyboardInterrupt,)
        with inputs.unchanged_if_refused(self, ValueError, TypeError, LockedError, *ended):
            x = self._checked(X, reset=True)
            beside = inputs.context(context, len(x))
            labels = self._learn_labels(y, len(x), beside is not None)
            prior = {} if self.schema_ is None or beside is not None else choose_prior(self.get_params(False), len(x))
            rows = self._start(x, beside, self._seed(run, resume), prior)
            self.chosen_ = self._choose(len(rows)) | prior
            if self.search is not None:
                start = methodcaller("_start", x, beside, self.seed_)
                found = search(self, start, rows, run, resume, checkpoint_every)
                self._start(x, beside, self.seed_, found)
                self.chosen_ |= found
            rows = rows if labels is None else rows.labelled({"y": labels})
            self._learn(rows, run, resume, checkpoint_every)
        return self

    def _seed(self, run: Path | None, resume: inference.Resume) -> int | None:
        """The seed of the unfinished fit in ``run``, if the estimator has no seed of its own."""
        if run is None or resume != "auto" or self.random_state is not None:
            return None
        found = inference.seed_of(run)
        return seed_of_search(run) if found is None else found

    def _learn(self, rows: Rows, run: Path | None, resume: inference.Resume, checkpoint_every: int) -> None:
        """Fit the model that was built."""
        learning, given = self._inference(), self._settings()
        self.posterior_, self._is_bound = learning.posterior, learning.is_bound
        held_out = round(given["validation"] * len(rows)) > 0 and len(rows) > 1
        fit_kept(
            self,
            rows,
            learning,
            run,
            epochs=given["epochs"],
            batch_size=given["batch_size"],
            validation=given["validation"],
            patience=given["patience"] if held_out else None,
            patience_from=self.warm_up,
            finish=given["finish"],
            resume=resume,
            checkpoint_every=checkpoint_every,
        )

    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:
        """Train for one epoch on these rows; the first call builds the model. No rows are held out.

        Here objective="auto" does not depend on the first rows: it is "iwae" for tables, because later rows may have
        missing cells, and "elbo" for arrays.
        """
        if not is_aevb(self.inference):
            raise ValueError(f"{name_of(self.inference)} needs all rows, which partial_fit does not have; use fit.")
        if self.search is not None:
            raise ValueError("search needs all rows, which partial_fit does not have; use fit, or leave search out.")
        if self.classes == "y":
            raise ValueError('classes="y" needs all labels, which partial_fit does not have; use fit.')
        first = not hasattr(self, "model_")
        with inputs.unchanged_if_refused(self):
            x = self._checked(X, reset=first)
            if first:
                self._learn_labels(None, len(x))
            rows = self._start(x) if first else self._supported(x, self.binarise, None)
            if first:
                self.has_missing_ = self.schema_ is not None
                self.chosen_ = self._choose(len(rows))
        if not hasattr(self, "_procedure"):
            self._procedure = self._inference().start(self.model_, rows)
        done = len(self.history_.records)
        with inference.use_threads(self.threads):
            history = train(
                self._procedure,
                rows,
                epochs=done + 1,
                first_epoch=done,
                batch_size=self._settings()["batch_size"],
                seed=self.seed_,
                callbacks=self.callbacks,
            )
        history.records = self.history_.records + history.records
        self.history_ = history
        if history.stopped == "interrupted":
            raise KeyboardInterrupt
        return self

    @torch.no_grad()
    def sample(
        self,
        n_samples: int = 1,
        random_state: int | None = None,
        context: ArrayLike | None = None,
        given: Mapping[Name, Any] | None = None,
        label: Any = None,
    ) -> Any:
        """Draw rows from the model, ``[n_samples, *X]`` or a frame; without ``random_state``, the same rows each time.

        ``context``: one per row, ``[n_samples, C]``, or one for all rows, ``[C]``. ``given``: known cells of a table by
        column, such as {"sex": "Female", "age": 37}; rows are then drawn from p(x|given).
        ``label``: one of ``classes_``; rows are then drawn from p(x|y = label).
        """
        inputs.check_fitted(self)
        whole("n_samples", n_samples, 1)
        if given is not None and label is not None:
            raise ValueError("sample takes given= or label=, not both; leave one of them out.")
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
            parts.append(self.model_.sample(size, rng, some, self._posterior, self._label(label, size)))
        rows = torch.cat(parts).cpu().numpy()
        dtype = sample_dtype(self.dtype_, self.model_.likelihood)
        return self._framed(rows.astype(dtype, copy=False), random_state=random_state)

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator into the folder ``path``; ``lowerbound.load`` reads it back."""
        inputs.check_fitted(self)
        save(path, self.model_, self._posterior, self._described(), self.history_)

    def _described(self) -> dict[str, Any]:
        fitted = saving.Fitted(
            n_features=self.n_features_in_,
            names=tuple(str(name) for name in getattr(self, "feature_names_in_", [])),
            shape=self.shape_,
            dtype=self.dtype_,
            seed=self.seed_,
            max_value=self.max_value_,
            n_context=self.n_context_,
            schema=self.schema_,
            has_missing=self.has_missing_,
            objective_is_bound=self.objective_is_bound if not is_aevb(self.inference) else None,
            chosen=self.chosen_,
            classes=self.classes_.tolist() if self.classes == "y" else None,
        )
        return saving.described(self.get_params(deep=False), fitted)

    @classmethod
    def restore(cls, saved: Saved, own: dict[str, Any]) -> Self:
        """Restore the estimator that ``save`` wrote. Raises ``FormatError`` for an invalid file."""
        parameters, fitted = saving.restored(saved, own, cls().get_params(deep=False))
        vae = cls(**parameters)
        vae.model_, vae.history_ = saved.model.eval(), saved.history
        vae.posterior_ = None if saved.posterior is None else saved.posterior.eval()
        vae.n_features_in_ = fitted.n_features
        if fitted.names:
            vae.feature_names_in_ = np.array(fitted.names, dtype=object)
        vae.shape_, vae.dtype_ = fitted.shape, fitted.dtype
        vae.seed_, vae.max_value_, vae.n_context_ = fitted.seed, fitted.max_value, fitted.n_context
        vae.schema_, vae.has_missing_ = fitted.schema, fitted.has_missing
        if vae.classes is not None:
            vae.classes_ = np.arange(vae.classes) if fitted.classes is None else np.array(fitted.classes)
        vae._is_bound, vae.chosen_ = bool(fitted.objective_is_bound), dict(fitted.chosen)
        return vae

    def _checked(self, X: ArrayLike, reset: bool = False, kept: Sequence[Name] = ()) -> RowArray:
        """Convert ``X`` to numbers of the fitted shape, NaN where a value is missing.

        ``reset``: ``X`` is the data to fit, so its shape and columns are stored.
        """
        if reset:
            given = self.get_params(deep=False)
            check_parameters(given)
            self.schema_ = None
            if is_table(given, X):
                self.schema_, table = frames.learned(X, self.schema, self.strict)
                self._name_features(self.schema_.names)
                return table
        else:
            inputs.check_fitted(self)
            if self.schema_ is not None:
                return frames.standardised(self._encoded(X, kept, keep=False).values, self.schema_)
        x: RowArray = inputs.prepare(X, None if reset else self)
        if isinstance(x, SparseRows | DatasetRows):
            validate_data(self, x, reset=reset, skip_check_array=True)
        else:
            x = validate_data(self, x, reset=reset, allow_nd=True, ensure_all_finite=False)
        if not reset:  # of rows to fit, their summary says so
            check_finite(x, getattr(self, "feature_names_in_", None))
        return x

    def _name_features(self, names: Sequence[Name]) -> None:
        self.n_features_in_ = len(names)
        self.__dict__.pop("feature_names_in_", None)
        if all(isinstance(name, str) for name in names):
            self.feature_names_in_ = np.array(names, dtype=object)

    def _encoded(self, X: Any, kept: Sequence[Name] | None = (), keep: bool = True) -> Encoded:
        """Encode the rows of a frame by the fitted schema; ``keep``: with all that is needed to restore every cell."""
        return frames.encoded(X, self._schema(), self.strict, True, kept, keep)

    def _start(
        self,
        x: RowArray,
        context: NDArray[Any] | None = None,
        seed: int | None = None,
        chosen: Mapping[str, Choice] | None = None,
    ) -> Rows:
        """Build the model for rows like ``x``, and return the rows to fit. If this fails, no attribute is changed.

        ``chosen``: values of arguments that shape the model.
        """
        seed = inputs.seed(self.random_state) if seed is None else seed
        max_value = (255.0 if x.dtype == np.uint8 else 1.0) if self.max_value is None else float(self.max_value)
        binarised = self.binarise != "none"
        if self.schema_ is None:
            names = getattr(self, "feature_names_in_", None)
            likelihood = likelihood_of_array(self.likelihood, x, max_value, binarised, names)
        else:
            likelihood = likelihood_of_table(self.schema_, self.missing)
        rows = inputs.rows(x, "mean" if binarised else "none", max_value, seed, self.device, context)
        given = self.get_params(deep=False) | {name: choice.value for name, choice in (chosen or {}).items()}
        given["classes"] = None if self.classes is None else len(self.classes_)
        model, posterior = build(given, rows, likelihood, self.schema_, seed)
        self.model_, self.posterior_, self.history_ = model, posterior, History()
        self.n_context_ = None if context is None else context.shape[1]
        self.has_missing_ = rows.has_missing
        self.seed_, self.shape_, self.dtype_, self.max_value_ = seed, x.shape[1:], x.dtype, max_value
        self.__dict__.pop("_procedure", None)
        return self._rows(x, self.binarise, context) if binarised else rows

    def _rows(self, x: RowArray, binarise: Binarise, context: NDArray[Any] | None) -> Rows:
        return inputs.rows(x, binarise, self.max_value_, self.seed_, self.device, context)

    def _supported(self, x: RowArray, binarise: Binarise, context: ArrayLike | None) -> Rows:
        """Make rows; if the model was fitted to binarised values, grey values are binarised by ``binarise``."""
        given = inputs.fitted_context(context, len(x), self.n_context_)
        if self.binarise != "none":
            return self._rows(x, binarise, given)
        if self.schema_ is not None:
            return self._rows(x, "none", given)
        check_support(self.model_.likelihood, x, "X", getattr(self, "feature_names_in_", None))
        return self._rows(x, "none", given)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.three_d_array = True
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        return tags
