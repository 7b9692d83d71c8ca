"""What a report says, as numbers and arrays: evidence, latents, the course of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lowerbound.diagnostics import active_units
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Posterior
from lowerbound.training import History

Array = NDArray[Any]
Record = Mapping[str, float]
STOPPED = {
    "epochs": "all epochs asked for were run",
    "patience": "the validation objective had stopped rising",
    "callback": "a callback asked to stop",
    "interrupted": "interrupted by hand",
    "diverged": "values were no longer finite",
}


class FittedVAE(Protocol):
    """What a report reads of a fitted VAE."""

    @property
    def model_(self) -> LatentVariableModel: ...
    @property
    def posterior_(self) -> Posterior: ...
    @property
    def history_(self) -> History: ...
    @property
    def shape_(self) -> tuple[int, ...]: ...
    @property
    def latent_dim(self) -> int: ...
    @property
    def seed_(self) -> int: ...
    @property
    def dtype_(self) -> np.dtype[Any]: ...
    @property
    def binarise(self) -> str: ...
    @property
    def objective_(self) -> Any: ...
    @property
    def draws_(self) -> int: ...

    def encode(self, X: Any) -> Any: ...
    def kl(self, X: Any) -> Array | None: ...
    def reconstruct(self, X: Any) -> Array: ...
    def sample(self, n_samples: int = 1, random_state: int | None = None) -> Array: ...


def grey(vae: FittedVAE, x: Array) -> Array:
    """Rows ``x`` as they are, or where they are binarised the probabilities of a 1."""
    max_value = getattr(vae, "max_value", None) or (255.0 if x.dtype == np.uint8 else 1.0)
    return x if vae.binarise == "none" else x / max_value


@dataclass(frozen=True)
class Latents:
    """Posterior means ``[N, D]``, KL(q ‖ p) of each of d latents (nats, mean over rows; None without a closed form),
    and which are active, ``[d]``."""

    means: Array
    kl: Array | None
    active: NDArray[np.bool_]

    @classmethod
    def of(cls, vae: FittedVAE, x: Array) -> Latents:
        """Of the posteriors of rows ``x [N, *X]``."""
        means, kl = vae.encode(x).mean, vae.kl(x)
        # a latent of classes has a mean for each of them
        each = np.asarray(active_units(means)).reshape(vae.latent_dim, -1)
        active: NDArray[np.bool_] = np.logical_or.reduce(each, 1)
        return cls(means, None if kl is None else kl.mean(0), active)

    def plane(self) -> tuple[Array, float]:
        """First two principal components of the means ``[N, 2]``, and their share of the variance."""
        centred = self.means - self.means.mean(0, dtype=np.float64)
        _, size, axes = np.linalg.svd(centred, full_matrices=False)
        axes = axes[:2] * np.sign(axes[:2, np.abs(axes[:2]).argmax(1)].diagonal())[:, None]
        total = np.square(size).sum()
        return centred @ axes.T, float(np.square(size[:2]).sum() / total) if total > 0 else 1.0


@dataclass(frozen=True)
class Course:
    """The objective of each epoch, and the two parts of the ELBO, in nats per row, ``[n]``."""

    log_lik: Array
    kl: Array
    objective: Array

    @property
    def elbo(self) -> Array:
        return self.log_lik - self.kl

    @classmethod
    def of(cls, records: Sequence[Record], prefix: str) -> Course | None:
        """From the records of epochs; None where they do not hold it."""
        if not records or any(f"{prefix}_{name}" not in record for name in ("log_lik", "kl") for record in records):
            return None
        log_lik, kl = (np.array([record[f"{prefix}_{name}"] for record in records]) for name in ("log_lik", "kl"))
        objective = [record.get(f"{prefix}_objective", np.nan) for record in records]
        return cls(log_lik, kl, np.array(objective))


@dataclass(frozen=True)
class Training:
    """What happened in ``epochs [n]``: on training rows, on validation rows (if any), and the epoch that was kept.

    ``is_elbo``: whether the ELBO was maximised, rather than another objective.
    """

    epochs: Array
    train: Course
    valid: Course | None
    kept: int | None
    is_elbo: bool = True

    @classmethod
    def of(cls, history: History, is_elbo: bool = True) -> Training | None:
        """None where no record was kept."""
        records = history.records
        train, valid = Course.of(records, "train"), Course.of(records, "valid")
        if train is None:
            return None
        epochs = np.array([record.get("epoch", 0) for record in records], dtype=int)
        counted = bool((np.diff(epochs) > 0).all())  # fits of one epoch at a time each begin at 1
        kept = history.best_epoch if valid is not None and counted and history.best_epoch in epochs else None
        return cls(epochs if counted else np.arange(1, len(epochs) + 1), train, valid, kept, is_elbo)

    @property
    def courses(self) -> dict[str, Course]:
        return {"training rows": self.train} | ({} if self.valid is None else {"validation rows": self.valid})

    def maximised(self, course: Course) -> Array:
        """What was maximised, in each epoch ``[n]``: the ELBO as the difference of its two parts."""
        return course.elbo if self.is_elbo or np.isnan(course.objective).any() else course.objective


def visible_range(curves: Sequence[Array]) -> tuple[float, float, int]:
    """Limits of an axis for ``curves`` (``[n]`` each), and how many first epochs lie outside.

    As few as it takes, and at most a twentieth, lie outside where they would flatten the rest: what goes wrong later
    always shows.
    """
    values = np.array(curves, dtype=float)
    epochs = values.shape[1]
    most = max(1, epochs // 20) if epochs >= 5 else 0
    late = _range(values[:, most:])
    for skipped in range(most + 1):
        low, high = _range(values[:, skipped:])
        if high - low <= 3 * (late[1] - late[0]):
            break
    margin = 0.06 * (high - low) or 0.5
    low, high = low - margin, high + margin
    outside = np.any((values < low) | (values > high), axis=0)
    return low, high, int(outside[:most].sum())


def _range(values: Array) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
