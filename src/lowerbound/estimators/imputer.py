"""A variational auto-encoder as a scikit-learn imputer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.impute import MissingIndicator
from sklearn.utils import Tags
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import check_is_fitted, validate_data

from lowerbound import schema as schemas
from lowerbound.estimators import frames, inputs, missing
from lowerbound.estimators.choices import Auto
from lowerbound.estimators.parameters import check_parameters, whole
from lowerbound.estimators.vae import VAE
from lowerbound.schema import Column, Schema
from lowerbound.schema.cells import Frame
from lowerbound.schema.column import Name

_OF_THE_MODEL = (
    *(
        "latent_dim",
        "schema",
        "strict",
        "hidden",
        "draws",
        "learning_rate",
        "batch_size",
        "epochs",
        "validation",
        "patience",
    ),
    *("device", "threads", "progress"),
)
_OF_NUMBERS = ("real", "binary", "constant")  # the kinds of an array's columns; other kinds would reject some numbers


class LatentImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Impute missing cells by a variational auto-encoder: E[x_missing|x_observed], by importance sampling.

    The data are an array of numbers, or a pandas, polars or pyarrow frame with columns of different kinds; the result
    has the same type. Observed cells are unchanged. The imputed values of a row depend only on that row and on the fit,
    not on the other rows. Mattei & Frellsen 2019.

    Parameters
    ----------
    latent_dim : the number of latents, d.
    missing_values : the value that marks a missing cell. If it is not NaN, an array must not contain NaN.
    add_indicator : whether to append the columns of a ``MissingIndicator``.
    sample_posterior : whether to draw from p(x_missing|x_observed) at each call, instead of returning the best value.
        For multiple imputation: analyse several completions; the spread of the results measures their uncertainty.
    keep_empty_features : whether to keep columns without any value in the fitted data, filled with 0 (text columns stay
        missing).
    samples : importance samples of the latents per row.
    schema : the kinds of some columns by name (for an array, "x0", "x1", …), or a ``Schema``. Other columns of a frame
        are inferred by ``schema.infer``; other columns of an array are binary if they have two different whole
        numbers, else real.
    strict : raise an error for new levels, and for values outside the range of their column's kind. By default such
        cells are left unchanged and not used to impute others, with a warning.
    hidden, draws, learning_rate, batch_size, epochs, validation, patience : settings of the fit; see ``VAE``.
    random_state : seed. device, threads, progress : see ``VAE``.

    Attributes
    ----------
    model_ : the fitted ``VAE``; None if every column is constant. schema_ : the kinds of the columns (missing cells of
    a constant column get its value; those of an identifier stay missing). indicator_ : a fitted ``MissingIndicator``,
    or None. random_state_ : the seed of the draws. n_features_in_, feature_names_in_.

    Examples
    --------
    >>> import numpy as np, lowerbound as lb
    >>> x = np.random.default_rng(0).normal(size=(100, 1)) @ np.ones((1, 3))
    >>> x[0, 1] = np.nan
    >>> imputer = lb.LatentImputer(latent_dim=1, hidden=(16,), random_state=0).fit(x)
    >>> bool(abs(imputer.transform(x)[0, 1] - x[0, 0]) < 0.2)
    True
    """

    model_: VAE | None
    schema_: Schema
    indicator_: MissingIndicator | None

    def __init__(
        self,
        latent_dim: int = 10,
        *,
        missing_values: Any = np.nan,
        add_indicator: bool = False,
        sample_posterior: bool = False,
        keep_empty_features: bool = False,
        samples: int = 200,
        schema: Schema | Mapping[Name, str | Column] | None = None,
        strict: bool = False,
        hidden: Sequence[int] = (256, 128),
        draws: int | None = None,
        learning_rate: float | Auto = "auto",
        batch_size: int | Auto = "auto",
        epochs: int | Auto = "auto",
        validation: float | Auto = "auto",
        patience: int | Auto | None = "auto",
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
        threads: int | None = None,
        progress: bool = False,
    ) -> None:
        self.latent_dim = latent_dim
        self.missing_values = missing_values
        self.add_indicator = add_indicator
        self.sample_posterior = sample_posterior
        self.keep_empty_features = keep_empty_features
        self.samples = samples
        self.schema = schema
        self.strict = strict
        self.hidden = hidden
        self.draws = draws
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.epochs = epochs
        self.validation = validation
        self.patience = patience
        self.random_state = random_state
        self.device = device
        self.threads = threads
        self.progress = progress

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Learn from rows ``X [N, D]`` with missing cells; ``y`` is ignored."""
        with inputs.unchanged_if_refused(self):
            vae = self._model()
            table, x = self._table(X, reset=True)
            self._of_frames, frame = x is None, missing.framed(table)
            self.schema_ = self._inferred(frame)
            self.model_ = vae.set_params(schema=self.schema_).fit(frame) if self.schema_.modelled else None
            self.random_state_ = np.random.default_rng(vae.random_state)
            self.indicator_ = None
            if self.add_indicator:
                self.indicator_ = MissingIndicator(error_on_new=False).fit(missing.flagged(table))
        return self

    def transform(self, X: ArrayLike) -> Any:
        """Return ``X`` with missing cells filled: an array of the same floating type, or a frame."""
        check_is_fitted(self, "schema_", msg="this %(name)s is not fitted; call fit first.")
        table, x = self._table(X, reset=False)
        empty, kept = self._empty(), self._kept()
        if not kept.all():
            lost = [column.name for column, keep in zip(self.schema_.columns, kept, strict=True) if not keep]
            warnings.warn(
                f"columns without any observed value in the fitted data are left out: {lost}; "
                "keep_empty_features=True keeps them, filled with 0.",
                stacklevel=2,
            )
        filled = self._filled(table)
        flags = None if self.indicator_ is None else self.indicator_.transform(missing.flagged(table))
        if x is None:
            names = [column.name for column, keep in zip(self.schema_.columns, kept, strict=True) if keep]
            out = missing.zeroed(missing.of_frame(filled, self.schema_.names), empty)
            out = missing.joined(out, kept, flags, [*names, *self._indicator_names()])
            return missing.framed(out, _get_output_config("transform", self)["dense"])
        values = np.column_stack([cells.values for cells in missing.of_frame(filled, self.schema_.names).cells])
        values[:, empty] = 0
        values = np.where(np.isnan(x), values, x)[:, kept].astype(x.dtype)
        return values if flags is None else np.hstack([values, flags.astype(x.dtype)])

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[Any]:
        """Names of the columns that ``transform`` returns: the kept columns, then those of the indicator."""
        names = super().get_feature_names_out(input_features)
        found: NDArray[Any] = np.concatenate([names[self._kept()], self._indicator_names(names)])
        return found

    def _model(self) -> VAE:
        """The VAE to fit. Raises ValueError for an invalid argument."""
        for name in ("add_indicator", "sample_posterior", "keep_empty_features"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give True or False.")
        if not missing.is_nothing(self.missing_values) and not isinstance(self.missing_values, str | Real):
            raise ValueError(f"missing_values is {self.missing_values!r}; give a number, text, or NaN.")
        whole("samples", self.samples, 2)
        own = {name: getattr(self, name) for name in _OF_THE_MODEL}
        check_parameters({**VAE(**own).get_params(deep=False), "random_state": self.random_state})
        return VAE(**own, random_state=inputs.seed(self.random_state))

    def _table(self, X: Any, reset: bool) -> tuple[Frame, NDArray[Any] | None]:
        """``X`` as a table with NaN or null for missing cells; and as an array if it is not a frame."""
        if frames.is_frame(X) and (reset or self._of_frames):
            table = missing.of_frame(X, None if reset else self.schema_.names)
            if reset:
                self._take_names(table.source.names)
            return missing.marked(table, self.missing_values), None
        if isinstance(self.missing_values, str):
            raise ValueError(
                f"missing_values is {self.missing_values!r}, which is text, but X is an array of numbers; give a "
                "number or NaN."
            )
        if isinstance(X, np.ndarray) and X.dtype == object:
            X = np.where(np.vectorize(inputs.is_none, otypes=[bool])(X), np.nan, X)
        x = validate_data(self, X, reset=reset, dtype=(np.float64, np.float32), ensure_all_finite="allow-nan")
        if not missing.is_nothing(self.missing_values):
            if np.isnan(x).any():
                raise ValueError(
                    f"X contains NaN, but missing_values is {self.missing_values!r}; use one marker for missing cells."
                )
            x = np.where(x == self.missing_values, np.asarray(np.nan, x.dtype), x)
        names = [f"x{j}" for j in range(x.shape[1])] if reset else self.schema_.names
        return missing.of_array(x, names), x

    def _take_names(self, names: Sequence[Name]) -> None:
        self.n_features_in_ = len(names)
        self.__dict__.pop("feature_names_in_", None)
        if all(isinstance(name, str) for name in names):
            self.feature_names_in_ = np.array(names, dtype=object)

    def _inferred(self, frame: Any) -> Schema:
        """The schema of the columns."""
        if isinstance(self.schema, Schema):
            return self.schema
        found = schemas.infer(frame, self.schema, what="X")
        if self._of_frames:
            frames.say(found)
            return found
        given = self.schema or {}
        real = {column.name: "real" for column in found.columns if column.kind not in _OF_NUMBERS}
        return schemas.infer(frame, {**real, **given}, what="X")

    def _filled(self, table: Frame) -> Any:
        """The table with its missing cells filled, as a frame."""
        of, model = self.schema_, self.model_
        coded = replace(frames.encoded(missing.framed(table), of, self.strict), source=table.source)
        frames.count_unfilled(coded, [column for column in of.columns if column.kind == "identifier"])
        values = frames.standardised(coded.values, of)
        if model is None:
            return frames.completed(values, of, coded)
        seed = int(self.random_state_.integers(2**63 - 1)) if self.sample_posterior else model.seed_
        rows = inputs.rows(values, "none", 1.0, model.seed_, self.device, None)
        return model._completed(coded, rows, 1 if self.sample_posterior else None, self.samples, None, seed)[0]

    def _empty(self) -> NDArray[np.bool_]:
        """Columns without any observed value in the fitted data."""
        return np.array([column.kind == "constant" and column.value is None for column in self.schema_.columns])

    def _kept(self) -> NDArray[np.bool_]:
        return np.ones(len(self.schema_.columns), bool) if self.keep_empty_features else ~self._empty()

    def _indicator_names(self, names: NDArray[Any] | None = None) -> NDArray[Any]:
        if self.indicator_ is None:
            return np.array([], object)
        found: NDArray[Any] = self.indicator_.get_feature_names_out(
            np.array([str(name) for name in self.schema_.names], object) if names is None else names
        )
        return found

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = missing.is_nothing(self.missing_values)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
