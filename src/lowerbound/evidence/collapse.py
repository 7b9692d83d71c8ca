"""Split the mean KL into information about x and mismatch of q(z) and p(z); find unused latents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.diagnostics import active_units
from lowerbound.distributions import Distribution, Latents, generator
from lowerbound.draw import Batch
from lowerbound.errors import DataError
from lowerbound.evidence.decision import Decision, decide, quantile
from lowerbound.evidence.estimates import error_of_mean
from lowerbound.evidence.formatting import signed, size
from lowerbound.evidence.targets import like_of, settled
from lowerbound.inference import Data
from lowerbound.local_posteriors import moments
from lowerbound.model import LatentVariableModel, distributions_of, nodes_of
from lowerbound.modes import read_only
from lowerbound.posteriors import Latents as Layers
from lowerbound.posteriors import Posterior
from lowerbound.row_source import RowSource
from lowerbound.training import in_order

Array = NDArray[np.float64]
_ROWS = 500  # rows per batch
_VALUES = 2**23  # differences between draws and parameters of rows in memory at once
_NETWORK = 2**16  # pairs of a draw and a row through the network of a latent with parents at once
_NEAR = 2.0  # an estimate within this of the cap, in nats, counts as near it
_LEAST = 0.05  # latents count as used if they hold this information, in nats


@dataclass(frozen=True)
class Estimate:
    """A mean over rows, in nats per row, and its standard error as an estimate for new rows (Monte Carlo included)."""

    value: float
    standard_error: float

    @classmethod
    def of(cls, rows: Array) -> Estimate:
        """Make an estimate from one value per row."""
        return cls(float(rows.mean()), error_of_mean(rows))

    def __str__(self) -> str:
        return f"{signed(self.value, self.standard_error)} ± {size(self.standard_error)}"


@dataclass(frozen=True)
class Collapse:
    """Mean KL(q(z|x) ‖ p(z)) = I_q(x; z) + KL(q(z) ‖ p(z)): ``kl`` = ``mutual_information`` + ``marginal_kl``.

    q(z) is the mean of q(z|x) over the N = ``rows``, so that the estimated information is at most log N, the ``cap``.
    For the population from which the rows come, ``mutual_information`` is a lower bound on I_q(x; z) in expectation,
    and ``marginal_kl`` an upper bound on KL(q(z) ‖ p(z)). ``upper``, which leaves each row out of its own q(z), is an
    upper bound on I_q(x; z).

    ``kl_per_dim [d]``: mean over rows, in the order of z; None if dimensions of a latent are dependent. ``active [d]``:
    see ``diagnostics.active_units``; None if the means of q are unknown. ``kl_per_latent``: the terms of ``kl`` by
    latent; for a latent with parents, a mean over their draws.
    """

    kl: Estimate
    mutual_information: Estimate
    marginal_kl: Estimate
    upper: Estimate
    rows: int
    kl_per_dim: Array | None
    active: NDArray[np.bool_] | None
    kl_per_latent: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def cap(self) -> float:
        """log N, in nats."""
        return math.log(self.rows)

    @property
    def near_cap(self) -> bool:
        """Whether the information is within 2 nats of log N, so that the number of rows may limit the estimate."""
        return self.mutual_information.value > self.cap - _NEAR

    @property
    def decision(self) -> Decision:
        """Decide whether the latents hold at least 0.05 nats of information about x.

        Passed if the lower bound on I_q(x; z) is above this, failed if the smaller of the upper bounds is below it.
        """

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
            f"{self.marginal_kl} nats; the mean KL is {self.kl}{self._each}. "
            f"{self.rows:,} rows can show at most log N = {self.cap:.2f} nats{near}."
            f"{used}"
        )

    @property
    def _each(self) -> str:
        """The KL of each latent as text, if there are several."""
        if len(self.kl_per_latent) < 2:
            return ""
        return f" ({', '.join(f'{name}: {kl}' for name, kl in self.kl_per_latent.items())})"


@dataclass(frozen=True)
class _Drawn:
    """Draws for N rows: ``z [S, N, *E]`` with ``log_q`` and ``log_p [S, N]``; the KL of each latent ``[N]``; and, if
    known, the KL of each dimension and the means of q, ``[N, d]`` each."""

    z: Tensor
    log_q: Tensor
    log_p: Tensor
    kl: Mapping[str, Tensor]
    kl_per_dim: Tensor | None
    means: Tensor | None


@read_only
def collapse(model: LatentVariableModel, posterior: Posterior, x: Data, *, samples: int = 4, seed: int = 0) -> Collapse:
    """Split the mean KL of rows ``x [N, *X]``, with S = ``samples`` draws of q(z|x) for each.

    log q(z) = log mean_j q(z|x_j), at the cost of N² S densities of z: where those are dear (flows, mixtures, latents
    with parents), give fewer rows. Hoffman & Johnson 2016; the two bounds: Poole et al. 2019, §2.
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
    kl = torch.stack(list(drawn.kl.values())).sum(0)
    information, marginal = _balanced(drawn.log_q - log_mixture, log_mixture - drawn.log_p, kl)
    upper = (drawn.log_q - others).mean(0).cpu().numpy() + math.log(len(rows) - 1)
    return Collapse(
        kl=Estimate.of(information + marginal),
        mutual_information=Estimate.of(information),
        marginal_kl=Estimate.of(marginal),
        upper=Estimate.of(upper),
        rows=len(rows),
        kl_per_dim=None if drawn.kl_per_dim is None else drawn.kl_per_dim.mean(0).cpu().numpy(),
        active=None if drawn.means is None else active_units(drawn.means.cpu().numpy()),
        kl_per_latent={name: Estimate.of(each.cpu().numpy()) for name, each in drawn.kl.items()},
    )


def _drawn(
    model: LatentVariableModel, posterior: Posterior, batch: Batch, real: int, samples: int, rng: torch.Generator
) -> _Drawn:
    """Of the ``real`` first rows of a batch."""
    q, p = distributions_of(model, posterior, batch.x, batch.mask, batch.context)
    if p.batch_dims:
        raise ValueError("this prior depends on each row's context, so there is no single p(z) to compare q(z) with.")
    noise = posterior.noise(samples, len(batch.x), rng, batch.x.dtype)
    found = {node.name: node for node in nodes_of(q, p, model.prior.event, noise)}
    nodes = [found[name] for name in (p.events if isinstance(p, Latents) else found)]  # in the order of z
    z = p.join({node.name: node.z for node in nodes})
    log_q = torch.stack([node.log_q.double() for node in nodes]).sum(0)
    log_p = torch.stack([node.log_p.double() for node in nodes]).sum(0)
    each = [node.mean_kl_per_dim for node in nodes]
    known = [per_dim[:real].flatten(1).double() for per_dim in each if per_dim is not None]
    return _Drawn(
        z[:, :real],
        log_q[:, :real],
        log_p[:, :real],
        {node.name: node.mean_kl[:real].double() for node in nodes},
        torch.cat(known, 1) if len(known) == len(nodes) else None,
        _means(q, model.prior.event, batch, real, rng),
    )


def _means(q: Distribution, event: tuple[int, ...], batch: Batch, real: int, rng: torch.Generator) -> Tensor | None:
    """E_q[z|x] ``[N, d]``, where it is known; of latents with parents the mean over 2,000 draws."""
    means = q.mean()
    if means is None and isinstance(q, Latents) and any(one.parents for one in q.conditionals.values()):
        means, _ = moments(q, event, batch.x, rng)
    return None if means is None else means[:real].flatten(1).double()


def _joined(parts: list[_Drawn]) -> _Drawn:
    def known(values: list[Tensor | None]) -> Tensor | None:
        return None if values[0] is None else torch.cat([value for value in values if value is not None])

    return _Drawn(
        torch.cat([part.z for part in parts], 1),
        torch.cat([part.log_q for part in parts], 1),
        torch.cat([part.log_p for part in parts], 1),
        {name: torch.cat([part.kl[name] for part in parts]) for name in parts[0].kl},
        known([part.kl_per_dim for part in parts]),
        known([part.means for part in parts]),
    )


def _log_others(model: LatentVariableModel, posterior: Posterior, rows: RowSource, z: Tensor) -> Tensor:
    """log Σ_{j≠i} q(z_i|x_j) ``[S, N]`` of ``z [S, N, *E]``, in double precision."""
    samples, n = z.shape[:2]
    flat, own = z.flatten(0, 1), torch.arange(n, device=z.device).repeat(samples)
    total = torch.full((samples * n,), -torch.inf, dtype=torch.float64, device=z.device)
    at_once = min(_ROWS, n)
    parents = isinstance(posterior, Layers) and bool(posterior.parents)
    width = max(1, (_NETWORK if parents else _VALUES // z[0, 0].numel()) // at_once)
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


def _balanced(information: Tensor, marginal: Tensor, kl: Tensor) -> tuple[Array, Array]:
    """Both terms of each row ``[N]`` from their draws ``[S, N]``.

    Where their sum is known better (``kl [N]``, in closed form), so is its error in the draws, whose mean is 0; it is
    divided between them such that the first varies least.
    """
    first, second = (each.mean(0).cpu().numpy() for each in (information, marginal))
    error = kl.cpu().numpy() - first - second
    variance = error.var()
    covariance = np.mean((first - first.mean()) * (error - error.mean()))
    share = float(np.clip(-covariance / variance, 0, 1)) if variance > 0 else 0.0
    return first + share * error, second + (1 - share) * error
