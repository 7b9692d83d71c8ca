"""The family of q for each row of a batch, in what an encoder would give, and the gradient of the ELBO in that."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound import posteriors
from lowerbound.distributions import Distribution
from lowerbound.draw import Batch
from lowerbound.gradients import by_family
from lowerbound.local_posteriors import Gradient, by_path
from lowerbound.mcmc import slope_of
from lowerbound.model import LatentVariableModel, draw_from, with_prior
from lowerbound.objectives import elbo
from lowerbound.posteriors import Posterior


class RowFamily(Posterior):
    """A q for each row of a batch from the family of an encoder's ``posterior`` (merged with the prior, if that is).

    ``out [B, n_outputs]`` are the numbers that the encoder would give. If the latents have encoders of their own,
    ``out`` is added to the output of each one's network, so that a latent with parents still depends on them through
    its network.
    """

    def __init__(self, posterior: Posterior, batch: Batch, prior: Distribution) -> None:
        super().__init__(posterior.latent_dim, nn.Identity())
        self.posterior, self.prior, self.context = posterior, prior, batch.context
        apart = isinstance(posterior, posteriors.Latents) and not posterior.shared
        self.several = posterior if isinstance(posterior, posteriors.Latents) and apart else None
        if self.several is None:
            self.start = posterior.outputs(batch.x, batch.mask, batch.context)
        else:
            self.features, self.mask = self.several.read(batch.x, batch.mask, batch.context)
            self.start = batch.x.new_zeros(len(batch.x), self.n_outputs)

    @property
    def family_name(self) -> str:
        return self.posterior.family_name

    @property
    def event(self) -> tuple[int, ...]:
        return self.posterior.event

    @property
    def n_outputs(self) -> int:
        parts = [self.posterior] if self.several is None else self.several.parts.values()
        return sum(part.n_outputs for part in parts)

    @property
    def paths(self) -> tuple[bool, ...]:
        return self.posterior.paths

    def distribution(self, out: Tensor) -> Distribution:
        if self.several is None:
            return with_prior(self.posterior, self.posterior.distribution(out), self.prior)
        return with_prior(self.several, self.several.given(self.features, self.mask, self.context, out), self.prior)

    def noise(self, draws: int, rows: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return self.posterior.noise(draws, rows, generator, dtype)


def elbo_gradient(model: LatentVariableModel, batch: Batch, prior: Distribution, family: Posterior) -> Gradient:
    """The gradient of the ELBO of each row: through the draws if all latents allow it, else ``by_family``."""
    if all(family.paths):

        def slope(z: Tensor) -> Tensor:
            return model.slope(z, batch.x, batch.mask, batch.context) + slope_of(prior.log_prob, z)

        path = by_path(slope, family)
        return lambda out, noise: path(out, noise) / len(noise)

    def gradient(out: Tensor, noise: Tensor) -> Tensor:
        with torch.enable_grad():
            there = draw_from(family.distribution(out), prior, model, batch, noise)
            return torch.autograd.grad(by_family(there, elbo).sum(), out)[0]

    return gradient


def unrolled_gradient(model: LatentVariableModel, batch: Batch, prior: Distribution, family: Posterior) -> Gradient:
    """The gradient of the ELBO of each row, which can itself be differentiated if gradients are enabled."""
    again = torch.is_grad_enabled()

    def gradient(out: Tensor, noise: Tensor) -> Tensor:
        with torch.enable_grad():
            there = draw_from(family.distribution(out), prior, model, batch, noise)
            return torch.autograd.grad(elbo(there).sum(), out, create_graph=again)[0]

    return gradient
