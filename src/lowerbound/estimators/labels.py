"""Classes of rows: labels that some rows have, given to ``fit`` as y, or clusters."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.metaestimators import available_if
from torch import Tensor

from lowerbound import distributions
from lowerbound.distributions import Categorical
from lowerbound.errors import DataError
from lowerbound.estimators.inputs import is_none
from lowerbound.estimators.transforming import Transforming


def _has_classes(vae: Any) -> bool:
    if vae.classes is None:
        raise AttributeError('this VAE has no classes; give classes="y" for the labels in fit(X, y), or a number.')
    return True


class Labelling(Transforming):
    """The estimator's methods about the classes of rows."""

    classes: Any
    classes_: NDArray[Any]
    """The classes in order: the labels that ``fit`` was given, or 0, …, K − 1 of K clusters."""

    @available_if(_has_classes)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """q(y|x): the probability of each of ``classes_`` for each row, ``[N, C]``.

        For a row without observed values it is p(y).
        """
        x = self._checked(X)
        found = []
        for q, batch, real_rows in self._posteriors(x, None):
            p = self.model_.prior_given(None, self.posterior_)
            own, prior = (_probabilities(each) for each in (q, p))
            if batch.mask is not None and not self.model_.likelihood.informative:
                own = torch.where(batch.mask.flatten(1).any(1, keepdim=True), own, prior)
            found.append(own[:real_rows])
        return self._given(torch.cat(found), x.dtype)

    @available_if(_has_classes)  # type: ignore[untyped-decorator]
    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable of ``classes_`` for each row, ``[N]``."""
        found: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(1)]
        return found

    def _learn_labels(self, y: object, rows: int, context: bool = False) -> Tensor | None:
        """Set ``classes_``; return the number of each row's class, ``[N]``, −1 where there is no label."""
        self.__dict__.pop("classes_", None)
        if self.classes is None:
            return None
        if context:
            raise ValueError("a model with classes has no context; leave context or classes out.")
        if not isinstance(self.classes, str):
            self.classes_ = np.arange(int(self.classes))
            return None
        self.classes_, labels = encode_labels(y, rows)
        self.label_share_ = float((labels >= 0).mean())
        return torch.from_numpy(labels)

    def _label(self, label: Any, rows: int) -> Mapping[str, Tensor] | None:
        """The labels of ``rows`` rows that are all of the class ``label``. Raises ValueError for an unknown one."""
        if label is None:
            return None
        _has_classes(self)
        at = np.flatnonzero(self.classes_ == label)
        if len(at) != 1:
            shown = ", ".join(repr(each.item()) for each in self.classes_[:10])
            raise ValueError(f"label is {label!r}, which is not a class of this model; the classes are {shown}.")
        return {"y": torch.full((rows,), int(at[0]), device=self.device)}


def _probabilities(of: distributions.Distribution) -> Tensor:
    """The probability of each class, ``[B, C]``; of a prior, ``[1, C]``."""
    assert isinstance(of, distributions.Latents)
    y = of.conditionals["y"].given({})
    assert isinstance(y, Categorical)
    return y.logits.softmax(-1).flatten(-2) if y.batch_dims else y.logits.softmax(-1)


def encode_labels(y: object, rows: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The classes in ``y [N]``, in order, and the number of each row's class, −1 where there is no label.

    No label is −1, None, NaN or NA; classes are whole numbers, booleans or text. Raises ``DataError`` for other values,
    for another number of rows, and for fewer than two classes.
    """
    if y is None:
        raise ValueError('classes="y" needs labels: give fit(X, y), −1 for no label; or classes=K for K clusters.')
    values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (rows,):
        raise DataError(f"y has the shape {values.shape}; give one label per row of X, ({rows},), −1 for no label.")
    each = [None if _missing(value) else value for value in values.tolist()]
    known = np.array([value is not None for value in each])
    for row in np.flatnonzero(known):
        each[row] = _class(each[row], int(row))
    texts = {isinstance(value, str) for value in each if value is not None}
    if len(texts) == 2:
        raise DataError("y holds text and numbers; give labels of one type, and −1 or None for no label.")
    classes, numbers = np.unique([value for value in each if value is not None], return_inverse=True)
    if len(classes) < 2:
        have = f"one class only, {classes[0].item()!r}" if len(classes) else "no label"
        raise DataError(f"y has {have}; give labels of at least two classes, or classes=K for K clusters.")
    found = np.full(rows, -1, np.int64)
    found[known] = numbers
    return classes, found


def _missing(value: Any) -> bool:
    """Whether a label is none: −1, also as text, None, NaN or NA."""
    return is_none(value) or value in (-1, "-1") or value != value


def _class(value: Any, row: int) -> Any:
    """A label as text, bool or whole number. Raises ``DataError`` for any other value."""
    if isinstance(value, str | bool | Integral):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise DataError(
        f"the label of row {row} is {str(value)[:40]!r}; labels are whole numbers or text, and −1 for no label: give "
        "numbers of classes, not measurements."
    )
