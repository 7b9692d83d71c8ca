"""Missing cells of many rows, of which none depends on another: what a row gets alone, it gets in company."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowerbound.data import Rows
from lowerbound.distributions import Distribution, FullNormal, Normal, generator
from lowerbound.evidence.estimates import Array
from lowerbound.evidence.importance import chunks
from lowerbound.evidence.targets import Target, of_model
from lowerbound.model import LatentVariableModel
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.queries.completion import Completion, complete
from lowerbound.training import in_order

_ROWS, _LATENT_VALUES = 100, 2**22  # of a batch, always as many: a product's last bit depends on its size
_ENOUGH, _MORE = 20, 4  # effective draws; times as many where they are fewer
_ROUNDS, _SHARE = 20, 0.2  # of the walk to a row's posterior, and the effective share of the draws that a step keeps
_WIDER = 1.2  # than p(z|x) in variance: the weights of a proposal that is too narrow have no bound
_LEAST = 1e-6  # of a variance of the prior's, which is 1


@read_only
def complete_rows(
    model: LatentVariableModel, posterior: Posterior, rows: Rows, seed: int, *, samples: int = 1000, draw: bool = False
) -> Array:
    """``rows`` with their missing cells filled ``[N, *X]``: by the best values of ``complete`` or, to ``draw``, by one
    draw of p(x_missing|x_observed).

    Importance sampling of z takes the same noise for all rows (unless to ``draw``), so that a row's best completion is
    of its own cells and ``seed`` alone. The proposal is a normal of full covariance that walks from N(E_q[z|x], I),
    which is wide, to p(z|x), by π^(1−t) p^t with t as large as the weights bear: q(z|x), a normal, may be too narrow
    where cells are missing, and its weights do not tell. Where fewer than 20 draws are effective, it is done again with
    four times as many. Of ``model`` the likelihood must be of cells independent given z, and the prior standard normal.
    Cappé et al. 2004; Del Moral et al. 2006.
    """
    values = np.concatenate([batch.x[:real].cpu().double().numpy() for batch, real in in_order(rows, 1000)])
    if rows.mask is None:
        return values
    rng = generator(seed, "complete", device=rows.device)
    empty, holes = (each.cpu().numpy() for each in (~rows.mask.any(1), ~rows.mask.all(1)))
    low = np.flatnonzero(holes & ~empty)
    for count in (samples, _MORE * samples):
        low = _sampled(model, posterior, rows, low, values, rng, count, draw)
    if empty.any():
        group = np.flatnonzero(empty)
        some = rows.subset(torch.from_numpy(group if draw else group[:1]).to(rows.device))
        own = rng if draw else generator(seed, "prior", device=rows.device)
        values[group] = _of(complete(model, posterior, some, own, draws=1 if draw else None))
    return values


def _sampled(
    model: LatentVariableModel,
    posterior: Posterior,
    rows: Rows,
    places: NDArray[np.int64],
    values: Array,
    rng: torch.Generator,
    samples: int,
    draw: bool,
) -> NDArray[np.int64]:
    """Fill ``values`` at ``places`` where importance sampling is effective; the places where it is not."""
    low, latents = [places[:0]], posterior.latent_dim
    size = max(1, min(_ROWS, _LATENT_VALUES // (samples * latents)))
    noise = Normal.noise((samples, 1), (latents,), rng, rows.dtype)
    for own, block in _blocks(rows, places, size):
        if draw:
            noise = Normal.noise((samples, size), (latents,), rng, rows.dtype)
        batch, _ = next(in_order(block, size))
        target = of_model(model, posterior)(batch)
        shared = _Given(_Proposal(_walked(target, noise), [noise]), latents, batch.x.shape[1])
        found = complete(
            model, shared, block, rng, draws=1 if draw else None, samples=samples, refine=None, least_ess=0
        )
        enough = found.ess[: len(own)] >= min(_ENOUGH, samples / 2)
        values[own] = _of(found)[: len(own)]
        low.append(own[~enough])
    return np.concatenate(low)


def _blocks(rows: Rows, places: NDArray[np.int64], size: int) -> Iterator[tuple[NDArray[np.int64], Rows]]:
    """The rows at ``places`` in blocks of exactly ``size``, the last filled up with its first row."""
    for start in range(0, len(places), size):
        own = places[start : start + size]
        index = np.concatenate([own, np.repeat(own[:1], size - len(own))])
        yield own, rows.subset(torch.from_numpy(index).to(rows.device))


def _of(found: Completion) -> Array:
    return found.best if found.draws is None else found.draws[0]


@dataclass(frozen=True)
class _Proposal(Distribution):
    """``of``, drawn from with noise that is given, ``[S, 1 or B, d]``, of which ``left`` holds the rest."""

    of: Distribution
    left: list[Tensor] = field(default_factory=list)

    def noise(  # type: ignore[override]
        self, lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype
    ) -> Tensor:
        some, rest = self.left.pop().tensor_split([lead[0]])
        self.left.append(rest)
        return some.expand(*lead, *event)

    def sample(self, noise: Tensor) -> Tensor:
        return self.of.sample(noise)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.of.log_prob(z)


class _Given(Posterior):
    """A posterior that is ``q`` of the rows it was made for."""

    family = _Proposal

    def __init__(self, q: _Proposal, latent_dim: int, columns: int) -> None:
        super().__init__(latent_dim, nn.Identity())
        self.q, self.columns = q, columns

    @property
    def n_outputs(self) -> int:
        return self.columns

    def distribution(self, out: Tensor) -> _Proposal:
        return self.q


def _walked(target: Target, noise: Tensor) -> FullNormal:
    """A normal near each row's p(z|x), reached from a wide one: every row stays where it is once it has come there."""
    q = target.posterior
    assert isinstance(q, Normal)
    loc, tril = q.loc.double(), torch.diag_embed(torch.ones_like(q.loc.double()))
    near = there = torch.zeros(len(loc), dtype=torch.bool, device=loc.device)
    for _ in range(_ROUNDS):
        proposal = FullNormal(loc.to(noise.dtype), tril.to(noise.dtype))
        z, log_w = _weighted(target, proposal, noise)
        t = _temper(log_w)
        shares = (t * log_w).softmax(0).unsqueeze(-1)
        mean = (shares * z).sum(0)
        away = (z - loc) * shares.sqrt()  # from where it was: the spread grows along the way
        covariance = _WIDER * torch.einsum("kbi,kbj->bij", away, away)
        covariance.diagonal(dim1=1, dim2=2).mul_(1 + _LEAST).add_(_LEAST)
        loc = torch.where(there[:, None], loc, mean)
        tril = torch.where(there[:, None, None], tril, torch.linalg.cholesky(covariance))
        near, there = t >= 1, there | (near & (t >= 1))  # twice: weights of a narrow proposal may deceive once
        if bool(there.all()):
            break
    return FullNormal(loc.to(noise.dtype), tril.to(noise.dtype))


def _weighted(target: Target, proposal: FullNormal, noise: Tensor) -> tuple[Tensor, Tensor]:
    """z ``[S, B, d]`` and log p(x, z) − log q(z) ``[S, B]``, in double precision."""
    rows, first, found = len(proposal.loc), 0, []
    for count in chunks(len(noise), rows, target.width):
        some = noise[first : first + count].expand(count, rows, -1)
        z = proposal.sample(some)
        found.append((z, target.log_joint(z).double() - proposal.log_prob(z).double()))
        first += count
    z, log_w = (torch.cat(each) for each in zip(*found, strict=True))
    largest = torch.finfo(torch.float64).max
    return z.double(), torch.nan_to_num(log_w, nan=-largest, posinf=largest, neginf=-largest)


def _temper(log_w: Tensor) -> Tensor:
    """The largest t ``[B]`` up to 1 whose weights w^t leave a share of effective draws, by bisection."""
    least, low, high = _SHARE * len(log_w), torch.zeros_like(log_w[0]), torch.ones_like(log_w[0])
    for step in range(30):
        t = high if step == 0 else (low + high) / 2
        enough = 1 / (t * log_w).softmax(0).square().sum(0) >= least
        low, high = torch.where(enough, t, low), torch.where(enough, high, t)
    return low
