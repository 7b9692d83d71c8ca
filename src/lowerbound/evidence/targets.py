"""What evidence is asked of: log p(x, z) of some rows as a function of z, and where draws of z may come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lowerbound.data import Rows
from lowerbound.distributions import Distribution
from lowerbound.draw import Batch
from lowerbound.inference import Data, as_rows
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Posterior
from lowerbound.training import in_order

Source = Literal["posterior", "prior"]


@dataclass(frozen=True)
class Target:
    """A batch of rows under a model.

    ``log_joint``: z ``[K, B, *E]`` → log p(x, z) ``[K, B]``. ``event``: E. ``posterior``: q(z|x) of each row.
    ``prior``: p(z), of no batch or of B rows; None where only the posterior starts a path. ``width``: numbers that
    ``log_joint`` holds for each draw, to bound its memory. ``slope``: z → ∂ log p(x, z)/∂z ``[K, B, *E]``, where it is
    to be had for less than by differentiating ``log_joint``.
    """

    log_joint: Callable[[Tensor], Tensor]
    event: tuple[int, ...]
    posterior: Distribution
    prior: Distribution | None = None
    width: int = 1
    slope: Callable[[Tensor], Tensor] | None = None

    def source(self, name: Source) -> Distribution:
        """The distribution that draws start from."""
        if name not in get_args(Source):
            raise ValueError(f'draws start from "posterior" or "prior", and not from {name!r}.')
        found = self.posterior if name == "posterior" else self.prior
        if found is None:
            raise ValueError('this model was given without its prior: start from "posterior", or give the prior too.')
        return found

    def log_weights(self, proposal: Distribution, noise: Tensor) -> Tensor:
        """log p(x, z) − log q(z) ``[K, B]`` of z = ``proposal.sample(noise)``."""
        z = proposal.sample(noise)
        return self.log_joint(z) - proposal.log_prob_of_sample(z, noise)


Targets = Callable[[Batch], Target]


def slope_of(log_density: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """∂ log_density/∂z, of chains that do not see each other."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_density(z)
        if not value.requires_grad:  # a uniform density
            return torch.zeros_like(z)
        (slope,) = torch.autograd.grad(value.sum(), z)
    return slope


def of_model(model: LatentVariableModel, posterior: Posterior) -> Targets:
    """A model of this library with its posterior."""

    def of(batch: Batch) -> Target:
        prior = model.prior(batch.context, posterior)
        width = batch.x[0].numel() * model.likelihood.n_parameters

        def log_joint(z: Tensor) -> Tensor:
            log_prior: Tensor = prior.log_prob(z)
            return model.log_lik(z, batch.x, batch.mask, batch.context) + log_prior

        def slope(z: Tensor) -> Tensor:
            return model.slope(z, batch.x, batch.mask, batch.context) + slope_of(prior.log_prob, z)

        q = posterior(batch.x, batch.mask, batch.context)
        return Target(log_joint, model.prior.event, q, prior, width, slope)

    return of


def of_functions(
    log_joint: Callable[[Tensor, Tensor], Tensor],
    posterior: Callable[[Tensor], Distribution],
    event: tuple[int, ...],
    prior: Distribution | None = None,
) -> Targets:
    """A model written elsewhere: ``log_joint(z [K, B, *E], x [B, *X]) → [K, B]`` and ``posterior(x)``, any proposal.

    On a CPU both are called from several threads at once, and must not write what they share.

    ``posterior`` and ``prior`` are of ``lowerbound.distributions``, as ``Normal(loc, scale)``.
    """

    def of(batch: Batch) -> Target:
        return Target(lambda z: log_joint(z, batch.x), event, posterior(batch.x), prior, batch.x[0].numel())

    return of


def settled(data: Data, like: Tensor, rng: torch.Generator) -> Rows:
    """Rows that are the same each time they are read: those binarised afresh are so once, from ``rng``."""
    rows = as_rows(data, like)
    if rows.binarise != "afresh":
        return rows
    x = torch.cat([batch.x[:real].to(torch.uint8) for batch, real in in_order(rows, 1000, rng)])
    return Rows(x, rows.mask, white=1.0, dtype=rows.dtype, context=rows.context)
