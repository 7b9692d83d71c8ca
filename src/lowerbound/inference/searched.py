"""q(z|x) found for each row by a local search, with the model as it is: after an encoder, or without one."""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import Distribution, generator
from lowerbound.distributions.covariance import CorrelatedNormal
from lowerbound.draw import Batch
from lowerbound.inference.row_family import RowFamily, elbo_gradient, unrolled_gradient
from lowerbound.local_posteriors import Gradient, Optimisation
from lowerbound.model import LatentVariableModel, draw_from
from lowerbound.nn import Constant
from lowerbound.objectives import elbo_sampled
from lowerbound.posteriors import Posterior

__all__ = ["Searched"]  # the part that models are saved with

Method = Literal["adam", "ascent", "unrolled"]
_LONGEST = 1.0  # deviations by which the gradient alone moves q in a step of ascent, before the rate
_CHECK = 32  # draws, at most, by which the end of a search is compared with its start


def _balanced(noise: Tensor, q: Distribution) -> Tensor:
    """Noise ``[S, 1, d]`` of a normal q with the mean 0 and the covariance I over its draws, as far as S ≥ 2d.

    The mean of a quadratic function over such draws is exact.
    """
    if not isinstance(q, distributions.Normal | CorrelatedNormal):
        return noise
    half = noise[: len(noise) // 2, 0]
    if len(half) >= half.shape[1]:
        half = len(half) ** 0.5 * torch.linalg.qr(half).Q
    else:
        half = half.shape[1] ** 0.5 * torch.linalg.qr(half.mT).Q.mT
    return torch.cat([half, -half]).unsqueeze(1)


class Searched(Posterior):
    """q(z|x) of each row by ``steps`` steps on its ELBO, each with ``draws`` of z, from the outputs of an encoder.

    The encoder is that of ``posterior``, which also states the family. ``method``: "adam" at a rate that falls from
    ``rate`` to 0, for starts that are far off; "ascent" along the gradient, in units of the start's deviation and at a
    rate that falls likewise, for starts that are near; or "unrolled", which is ascent through which the result can be
    differentiated. A row keeps the encoder's q if the steps did not raise its ELBO, by draws that both have in common.

    The model is not changed. All rows share the same noise, so that the q of a row depends on that row and the model
    alone. Without a model, q is the encoder's.
    """

    needs_model = True

    def __init__(
        self, posterior: Posterior, steps: int = 100, draws: int = 2, rate: float = 0.1, method: Method = "adam"
    ) -> None:
        super().__init__(posterior.latent_dim, nn.Identity())
        if steps < 1 or draws < 1 or not rate > 0:
            raise ValueError(f"a search needs steps, draws and a rate above 0, got {steps}, {draws} and {rate}.")
        if method not in get_args(Method):
            raise ValueError(f'method is {method!r}; it takes "adam", "ascent" or "unrolled".')
        self.posterior, self.steps, self.draws, self.rate = posterior, steps, draws, rate
        self.method: Method = method
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
    def how(self) -> str:
        encoder, start = self.posterior.encoder, "the encoder's"
        if isinstance(encoder, Constant):
            start = "the mean of the fitted rows" if encoder.value.any() else "zeros"
        return f"found for each row by a local search of {self.steps} steps, which starts at {start}"

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
        """The family of the rows' q, and the outputs ``[B, n_outputs]`` that the search found.

        If the method is "unrolled" and gradients are enabled, these have a gradient in the start and in the model.
        """
        prior, rng = model.prior_given(batch.context, self), generator(0, "search", device=batch.x.device)
        family, unrolled = RowFamily(self.posterior, batch, prior), self.method == "unrolled"
        start = family.start if unrolled and torch.is_grad_enabled() else family.start.detach()
        if self.method == "adam":
            search = Optimisation(self.steps, self.draws, self.rate)
            end = search.run(elbo_gradient(model, batch, prior, family), family, start, rng, shared=True).end
        else:
            make = unrolled_gradient if unrolled else elbo_gradient
            end = self._ascended(make(model, batch, prior, family), family, start, rng)
        with torch.no_grad():
            draws = 2 * max(2, min(self.latent_dim, _CHECK // 2))
            noise = _balanced(family.noise(draws, 1, rng, start.dtype), family.distribution(start))
            noise = noise.expand(-1, len(start), *noise.shape[2:])
            found = (draw_from(family.distribution(out), prior, model, batch, noise) for out in (start, end))
            before, after = map(elbo_sampled, found)
        return family, torch.where((after > before).unsqueeze(1), end, start)

    def _ascended(self, gradient: Gradient, family: RowFamily, out: Tensor, rng: torch.Generator) -> Tensor:
        """The end of gradient ascent from ``out``."""
        units = self._units(family, out)
        for step in range(self.steps):
            at = out if out.requires_grad else out.detach().requires_grad_()
            slope = units * gradient(at, self._noise(family, self.draws, rng))
            slope = slope / (slope.norm(dim=1, keepdim=True) / _LONGEST).clamp(min=1)
            out = out + self.rate * (1 - step / self.steps) * units * slope
        return out

    def _units(self, family: RowFamily, out: Tensor) -> Tensor:
        """The change of each number that moves q by about one deviation, where that is known; else 1."""
        covariance = family.distribution(out).covariance()
        if covariance is None:
            return torch.ones_like(out)
        return self.posterior.output_units(covariance.diagonal(dim1=1, dim2=2).sqrt().to(out.dtype))

    def _noise(self, family: RowFamily, draws: int, rng: torch.Generator) -> Tensor:
        """Noise that all rows share."""
        noise = family.noise(draws, 1, rng, family.start.dtype)
        return noise.expand(-1, len(family.start), *noise.shape[2:])

    def forward(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None, model: Any = None
    ) -> Distribution:
        if model is None:
            return self.posterior(x, mask, context)  # type: ignore[no-any-return]
        index = torch.arange(len(x), device=x.device)
        family, out = self.found(model, Batch(x, mask, index, torch.ones_like(index, dtype=x.dtype), context))
        return family.distribution(out)


def without_encoder(family: Posterior, steps: int = 100) -> Searched:
    """q(z|x) in the family of a posterior by a search from the same start for all rows, instead of an encoder."""
    copied = copy.deepcopy(family)
    copied.encoder = Constant(copied.n_outputs)
    return Searched(copied, steps)
