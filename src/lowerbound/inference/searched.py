"""q(z|x) found for each row by a local search, with the model as it is: after an encoder, or without one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lowerbound import posteriors
from lowerbound.distributions import Distribution, generator
from lowerbound.draw import Batch
from lowerbound.gradients import by_family
from lowerbound.local_posteriors import Gradient, Optimisation, by_path
from lowerbound.mcmc import slope_of
from lowerbound.model import LatentVariableModel, draw_from, with_prior
from lowerbound.objectives import elbo
from lowerbound.posteriors import Posterior

__all__ = ["Searched"]  # the part that models are saved with


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

        return by_path(slope, family)

    def gradient(out: Tensor, noise: Tensor) -> Tensor:
        with torch.enable_grad():
            there = draw_from(family.distribution(out), prior, model, batch, noise)
            return torch.autograd.grad(by_family(there, elbo).sum(), out)[0]

    return gradient


class Searched(Posterior):
    """q(z|x) of each row by ``steps`` steps of Adam on its ELBO, each with ``draws`` of z, at a rate that falls to 0.

    A search starts at the outputs of the encoder of ``posterior``. The model is not changed. All rows share the same
    noise, so that the q of a row depends on that row and the model alone. Without a model, q is the encoder's.
    """

    needs_model = True

    def __init__(self, posterior: Posterior, steps: int = 100, draws: int = 2, rate: float = 0.1) -> None:
        super().__init__(posterior.latent_dim, nn.Identity())
        if steps < 1 or draws < 1 or not rate > 0:
            raise ValueError(f"a search needs steps, draws and a rate above 0, got {steps}, {draws} and {rate}.")
        self.posterior, self.steps, self.draws, self.rate = posterior, steps, draws, rate
        self.family = posterior.family

    @property
    def amortised(self) -> Posterior:
        return self.posterior

    @property
    def event(self) -> tuple[int, ...]:
        return self.posterior.event

    @property
    def n_outputs(self) -> int:
        return self.posterior.n_outputs

    @property
    def family_name(self) -> str:
        return self.posterior.family_name

    @property
    def unconstrained(self) -> bool:
        return self.posterior.unconstrained

    @property
    def paths(self) -> tuple[bool, ...]:
        return self.posterior.paths

    def distribution(self, out: Tensor) -> Distribution:
        return self.posterior.distribution(out)

    def noise(self, draws: int, rows: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return self.posterior.noise(draws, rows, generator, dtype)

    def found(self, model: LatentVariableModel, batch: Batch) -> tuple[RowFamily, Tensor]:
        """The family of the rows' q, and the outputs ``[B, n_outputs]`` at which the search ends."""
        prior = model.prior_given(batch.context, self)
        family = RowFamily(self.posterior, batch, prior)
        search, rng = Optimisation(self.steps, self.draws, self.rate), generator(0, "search", device=batch.x.device)
        gradient = elbo_gradient(model, batch, prior, family)
        return family, search.run(gradient, family, family.start.detach(), rng, shared=True).end

    def forward(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None, model: Any = None
    ) -> Distribution:
        if model is None:
            return self.posterior(x, mask, context)  # type: ignore[no-any-return]
        index = torch.arange(len(x), device=x.device)
        family, out = self.found(model, Batch(x, mask, index, torch.ones_like(index, dtype=x.dtype), context))
        return family.distribution(out)
