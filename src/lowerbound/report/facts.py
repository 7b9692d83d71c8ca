"""Contents of a report as numbers and arrays: latents and training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lowerbound import posteriors, priors
from lowerbound.diagnostics import active_units
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Posterior
from lowerbound.training import History

Array = NDArray[Any]
Record = Mapping[str, float]
STOPPED = {
    "epochs": "all epochs were run",
    "patience": "the validation objective no longer improved",
    "callback": "a callback ended the fit",
    "interrupted": "interrupted by the user",
    "diverged": "values became infinite or NaN",
}


class FittedVAE(Protocol):
    """Interface of a fitted VAE that the report reads."""

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
    def inference_(self) -> str: ...
    @property
    def draws_(self) -> int: ...

    def encode(self, X: Any) -> Any: ...
    def kl(self, X: Any) -> Array | None: ...
    def kl_of_latents(self, X: Any) -> dict[str, Array]: ...
    def reconstruct(self, X: Any) -> Array: ...
    def sample(self, n_samples: int = 1, random_state: int | None = None) -> Array: ...


def has_posterior(vae: FittedVAE) -> bool:
    """Whether the inference learnt a posterior q(z|x)."""
    return hasattr(vae, "posterior_")


def reconstructed(vae: FittedVAE, x: Array) -> Array:
    """Reconstructions of rows ``x``; without a posterior, which they need, the rows themselves."""
    return vae.reconstruct(x) if has_posterior(vae) else grey(vae, x)


def grey(vae: FittedVAE, x: Array) -> Array:
    """Return rows ``x`` unchanged, or as probabilities of a 1 if the model binarises them."""
    max_value = getattr(vae, "max_value", None) or (255.0 if x.dtype == np.uint8 else 1.0)
    return x if vae.binarise == "none" else x / max_value


def latents_of(vae: FittedVAE) -> dict[str, Posterior]:
    """The posterior of each named latent, in the order of z."""
    posterior, prior = vae.posterior_.amortised, vae.model_.prior
    if isinstance(posterior, posteriors.Latents) and isinstance(prior, priors.Latents):
        return {name: posterior.parts[name] for name in prior.parts}
    return {"z": posterior}


def count_of(vae: FittedVAE) -> int:
    """The number of latents, over all that have a name."""
    return sum(part.latent_dim for part in latents_of(vae).values()) if has_posterior(vae) else vae.latent_dim


@dataclass(frozen=True)
class Latents:
    """Posterior ``means [N, D]``, ``kl [d]`` per latent and which are ``active [d]``.

    ``kl``: KL(q ‖ p) in nats, mean over rows; None if dimensions depend on each other. ``names [d]``, and the KL
    ``by_name``: where several latents have names.
    """

    means: Array
    kl: Array | None
    active: NDArray[np.bool_]
    names: tuple[str, ...] = ()
    by_name: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, vae: FittedVAE, x: Array) -> Latents:
        """Compute from the posteriors of rows ``x [N, *X]``."""
        means, kl, parts = vae.encode(x).mean, vae.kl(x), latents_of(vae)
        # a categorical latent has one mean per class
        sizes = [math.prod(part.event) // part.latent_dim for part in parts.values() for _ in range(part.latent_dim)]
        starts = np.cumsum([0, *sizes[:-1]])
        active: NDArray[np.bool_] = np.logical_or.reduceat(np.asarray(active_units(means)), starts)
        several, mean = len(parts) > 1, None if kl is None else kl.mean(0)
        names = [f"{name}[{i}]" for name, part in parts.items() for i in range(part.latent_dim)] if several else ()
        each = {name: float(own.mean()) for name, own in vae.kl_of_latents(x).items()} if several else {}
        return cls(means, mean, active, tuple(names), each)

    def plane(self) -> tuple[Array, float]:
        """Return the first two principal components of the means ``[N, 2]`` and their share of the variance."""
        centred = self.means - self.means.mean(0, dtype=np.float64)
        _, size, axes = np.linalg.svd(centred, full_matrices=False)
        axes = axes[:2] * np.sign(axes[:2, np.abs(axes[:2]).argmax(1)].diagonal())[:, None]
        total = np.square(size).sum()
        return centred @ axes.T, float(np.square(size[:2]).sum() / total) if total > 0 else 1.0


@dataclass(frozen=True)
class Course:
    """Objective and the two terms of the ELBO per epoch, ``[n]``, in nats per row."""

    log_lik: Array
    kl: Array
    objective: Array

    @property
    def elbo(self) -> Array:
        return self.log_lik - self.kl

    @classmethod
    def of(cls, records: Sequence[Record], prefix: str) -> Course | None:
        """Read from the records of epochs; None if they lack these values."""
        if not records or any(f"{prefix}_{name}" not in record for name in ("log_lik", "kl") for record in records):
            return None
        log_lik, kl = (np.array([record[f"{prefix}_{name}"] for record in records]) for name in ("log_lik", "kl"))
        objective = [record.get(f"{prefix}_objective", np.nan) for record in records]
        return cls(log_lik, kl, np.array(objective))

    def padded(self, count: int) -> Course:
        """The same with ``count`` more epochs, whose values are not known."""
        return Course(
            *(np.append(values, np.full(count, np.nan)) for values in (self.log_lik, self.kl, self.objective))
        )


@dataclass(frozen=True)
class Training:
    """Training curves over ``epochs [n]``, on training and validation rows (if any).

    ``kept``: the best epoch on validation rows, which was kept unless ``last`` epochs followed: a last phase on all
    rows, which began from its state and has no values on validation rows (NaN). ``is_elbo``: whether the ELBO was
    maximised, rather than another objective.
    """

    epochs: Array
    train: Course
    valid: Course | None
    kept: int | None
    is_elbo: bool = True
    last: int = 0

    @classmethod
    def of(cls, history: History, is_elbo: bool = True) -> Training | None:
        """Read from a history; None if it has no records."""
        records = history.records
        judged = [record for record in records if "last_phase" not in record]
        last = len(records) - len(judged)
        train, valid = Course.of(records, "train"), Course.of(judged, "valid")
        if train is None:
            return None
        epochs = np.array([record.get("epoch", 0) for record in records], dtype=int)
        counted = bool((np.diff(epochs) > 0).all())  # fits of one epoch at a time each count from 1
        best = history.held_out.get("epoch") if last else history.best_epoch
        kept = int(best) if valid is not None and counted and best is not None and best in epochs else None
        valid = valid and valid.padded(last)
        return cls(epochs if counted else np.arange(1, len(epochs) + 1), train, valid, kept, is_elbo, last)

    @property
    def courses(self) -> dict[str, Course]:
        return {"training rows": self.train} | ({} if self.valid is None else {"validation rows": self.valid})

    def maximised(self, course: Course) -> Array:
        """Return the maximised objective per epoch ``[n]``; the ELBO as the difference of its two terms."""
        lacking = np.isnan(course.objective) & ~np.isnan(course.elbo)
        return course.elbo if self.is_elbo or lacking.any() else course.objective


def visible_range(curves: Sequence[Array]) -> tuple[float, float, int]:
    """Return axis limits for ``curves`` (``[n]`` each) and the number of first epochs outside them.

    First epochs are left out, at most a twentieth of all, if they would flatten the rest of the curve. Later epochs are
    always inside.
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
