"""Split the mean KL into information about x and mismatch of q(z) and p(z); find unused latents."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound import distributions
from lowerbound.data import Rows
from lowerbound.diagnostics import active_units
from lowerbound.distributions import Distribution, generator
from lowerbound.draw import Batch
from lowerbound.errors import DataError
from lowerbound.evidence.decision import Decision, decide, quantile
from lowerbound.evidence.estimates import error_of_mean
from lowerbound.evidence.formatting import signed, size
from lowerbound.evidence.targets import like_of, settled
from lowerbound.inference import Data
from lowerbound.model import LatentVariableModel, distributions_of
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.training import in_order

Array = NDArray[np.float64]
_ROWS = 500  # of a batch
_VALUES = 2**23  # of differences between draws and the rows' parameters, held at once
_NEAR = 2.0  # nats below the cap
_LEAST = 0.05  # nats of information: of latents that are used


@dataclass(frozen=True)
class Estimate:
    """A mean over rows, in nats per row, and its standard error as one for new rows; that draws vary is in it."""

    value: float
    standard_error: float

    @classmethod
    def of(cls, rows: Array) -> Estimate:
        """Of a value for each row."""
        return cls(float(rows.mean()), error_of_mean(rows))

    def __str__(self) -> str:
        return f"{signed(self.value, self.standard_error)} ± {size(self.standard_error)}"


@dataclass(frozen=True)
class Collapse:
    """Mean KL(q(z|x) ‖ p(z)) = I_q(x; z) + KL(q(z) ‖ p(z)): ``kl`` = ``mutual_information`` + ``marginal_kl``.

    q(z) is the mean of q(z|x) over the N = ``rows``, so that the information of which row it is cannot pass log N, the
    ``cap``. For the distribution that the rows are from it is, in expectation, a lower bound on I_q(x; z), and
    ``marginal_kl`` an upper one; ``upper``, where each row is left out of its own q(z), bounds I_q(x; z) from above.
    ``kl_per_dim [d]``: mean over rows, None where there is no closed form. ``active [d]``: see
    ``diagnostics.active_units``; None where the means of q are not known.
    """

    kl: Estimate
    mutual_information: Estimate
    marginal_kl: Estimate
    upper: Estimate
    rows: int
    kl_per_dim: Array | None
    active: NDArray[np.bool_] | None

    @property
    def cap(self) -> float:
        """log N, in nats."""
        return math.log(self.rows)

    @property
    def near_cap(self) -> bool:
        """Whether the information is within 2 nats of log N: a row then makes up e⁻² or more of q(z) where it lies."""
        return self.mutual_information.value > self.cap - _NEAR

    @property
    def decision(self) -> Decision:
        """Whether the latents hold 0.05 nats of information or more: passed by the lower bound on I_q(x; z), failed by
        the smaller of the upper bounds."""

        def interval(rows: int) -> tuple[float, float]:
            factor = quantile(rows - 1) * math.sqrt(self.rows / rows)
            low, *high = (
                each.value + sign * factor * max(each.standard_error, _LEAST / math.sqrt(self.rows))
                for each, sign in ((self.mutual_information, -1), (self.upper, 1), (self.kl, 1))
            )
            return low, min(high)

        return decide(interval, self.rows, least=_LEAST)

    def verdict(self) -> str:
        """Describe the result in a sentence."""
        used = "" if self.active is None else f" {int(self.active.sum())} of {len(self.active)} latents are active."
        near = ""
        if self.near_cap:
            most = min(self.upper.value, self.kl.value)  # the mean KL holds the information, whatever q(z)
            near = (
                f"; the estimate is near this limit, and the information may be up to {most:.2f} nats: give more rows"
            )
        return (
            f"the latents hold {self.mutual_information} nats of information about x, and KL(q(z) ‖ p(z)) is "
            f"{self.marginal_kl} nats; the mean KL is {self.kl}. {self.rows:,} rows can show at most log N = "
            f"{self.cap:.2f} nats{near}."
            f"{used}"
        )


@dataclass(frozen=True)
class _Drawn:
    """Of N rows: ``z [S, N, *E]`` with ``log_q`` and ``log_p [S, N]``; the closed forms of the KL ``[N]`` and of each
    dimension's ``[N, d]``, and the means of q ``[N, d]``, where they are known."""

    z: Tensor
    log_q: Tensor
    log_p: Tensor
    kl: Tensor | None
    kl_per_dim: Tensor | None
    means: Tensor | None


@read_only
def collapse(model: LatentVariableModel, posterior: Posterior, x: Data, *, samples: int = 4, seed: int = 0) -> Collapse:
    """Split the mean KL of rows ``x [N, *X]``, with S = ``samples`` draws of q(z|x) for each.

    log q(z) = log mean_j q(z|x_j), at the cost of N² S densities of z: where those are dear (flows, mixtures), give
    fewer rows. Hoffman & Johnson 2016; the two bounds: Poole et al. 2019, §2.
    """
    like = like_of(model)
    rng = generator(seed, "collapse", device=like.device)
    rows = settled(x, model, rng)
    if len(rows) < 2 or samples < 1:
        raise DataError(f"collapse needs at least 2 rows and 1 sample; got {len(rows)} rows and samples={samples}.")
    batches = in_order(rows, min(_ROWS, len(rows)))
    drawn = _joined([_drawn(model, posterior, batch, real, samples, rng) for batch, real in batches])
    others = _log_others(model, posterior, rows, drawn.z)
    log_mixture = torch.logaddexp(others, drawn.log_q) - math.log(len(rows))
    information, marginal = _balanced(drawn.log_q - log_mixture, log_mixture - drawn.log_p, drawn.kl)
    upper = (drawn.log_q - others).mean(0).cpu().numpy() + math.log(len(rows) - 1)
    return Collapse(
        kl=Estimate.of(information + marginal),
        mutual_information=Estimate.of(information),
        marginal_kl=Estimate.of(marginal),
        upper=Estimate.of(upper),
        rows=len(rows),
        kl_per_dim=None if drawn.kl_per_dim is None else drawn.kl_per_dim.mean(0).cpu().numpy(),
        active=None if drawn.means is None else active_units(drawn.means.cpu().numpy()),
    )


def _drawn(
    model: LatentVariableModel, posterior: Posterior, batch: Batch, real: int, samples: int, rng: torch.Generator
) -> _Drawn:
    """Of the ``real`` first rows of a batch."""
    q, p = distributions_of(model, posterior, batch.x, batch.mask, batch.context)
    if p.batch_dims:
        raise ValueError("this prior depends on each row's context, so there is no single p(z) to compare q(z) with.")
    noise = posterior.noise(samples, len(batch.x), rng, batch.x.dtype)
    z = q.sample(noise)
    log_q, log_p = q.log_prob_of_sample(z, noise).double(), p.log_prob(z).double()
    known = (_kl(q, p), _kl_per_dim(q, p), q.mean())
    kl, per_dim, means = (None if each is None else each[:real].double() for each in known)
    means = None if means is None else means.flatten(1)
    return _Drawn(z[:, :real], log_q[:, :real], log_p[:, :real], kl, per_dim, means)


def _joined(parts: list[_Drawn]) -> _Drawn:
    def known(values: list[Tensor | None]) -> Tensor | None:
        return None if values[0] is None else torch.cat([value for value in values if value is not None])

    return _Drawn(
        torch.cat([part.z for part in parts], 1),
        torch.cat([part.log_q for part in parts], 1),
        torch.cat([part.log_p for part in parts], 1),
        known([part.kl for part in parts]),
        known([part.kl_per_dim for part in parts]),
        known([part.means for part in parts]),
    )


def _kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q ‖ p) ``[B]``; None unless each latent's has a closed form."""
    found = [distributions.kl(*pair) for pair in _pairs(q, p)]
    known = [each for each in found if each is not None]
    return torch.stack(known).sum(0) if len(known) == len(found) else None


def _kl_per_dim(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q ‖ p) of each dimension ``[B, d]``; None unless each latent's has a closed form."""
    found = [distributions.kl_per_dim(*pair) for pair in _pairs(q, p)]
    known = [each.flatten(1) for each in found if each is not None]
    return torch.cat(known, 1) if len(known) == len(found) else None


def _pairs(q: Distribution, p: Distribution) -> list[tuple[Distribution, Distribution]]:
    priors = p.nodes()
    return [(own, priors[name]) for name, own in q.nodes().items()]


def _log_others(model: LatentVariableModel, posterior: Posterior, rows: Rows, z: Tensor) -> Tensor:
    """log Σ_{j≠i} q(z_i|x_j) ``[S, N]`` of ``z [S, N, *E]``, in double precision."""
    samples, n = z.shape[:2]
    flat, own = z.flatten(0, 1), torch.arange(n, device=z.device).repeat(samples)
    total = torch.full((samples * n,), -torch.inf, dtype=torch.float64, device=z.device)
    at_once = min(_ROWS, n)
    width = max(1, _VALUES // (at_once * z[0, 0].numel()))
    first = 0
    for batch, real in in_order(rows, at_once):
        q, _ = distributions_of(model, posterior, batch.x, batch.mask, batch.context)
        index = torch.arange(first, first + real, device=z.device)
        for part in torch.arange(samples * n, device=z.device).split(width):
            each = q.log_prob_of_each(flat[part])[:, :real].double()
            each = each.masked_fill(index == own[part].unsqueeze(1), -torch.inf)
            total[part] = torch.logaddexp(total[part], each.logsumexp(1))
        first += real
    return total.view(samples, n)


def _balanced(information: Tensor, marginal: Tensor, kl: Tensor | None) -> tuple[Array, Array]:
    """Both terms of each row ``[N]`` from their draws ``[S, N]``.

    Where their sum is known (``kl [N]``), so is its error in the draws, whose mean is 0; it is divided between them
    such that the first varies least.
    """
    first, second = (each.mean(0).cpu().numpy() for each in (information, marginal))
    if kl is None:
        return first, second
    error = kl.cpu().numpy() - first - second
    variance = error.var()
    covariance = np.mean((first - first.mean()) * (error - error.mean()))
    share = float(np.clip(-covariance / variance, 0, 1)) if variance > 0 else 0.0
    return first + share * error, second + (1 - share) * error
