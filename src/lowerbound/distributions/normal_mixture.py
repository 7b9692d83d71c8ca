"""Mixtures of normals as posteriors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.distributions.densities import normal_log_prob
from lowerbound.distributions.family import Distribution, standard_normal, uniform


@dataclass(frozen=True)
class NormalMixture(Distribution):
    """Σ_c π_c N(loc_c, diag scale_c²): ``logits [B, C]`` of π, ``loc`` and ``scale`` ``[B, C, d]``.

    Exactly differentiable with respect to all three: the gradient of z keeps each conditional CDF
    F(z_i | z_1 … z_{i−1}) constant. This takes d sequential steps. If components are far apart, the gradients of the
    logits have a large variance. Graves 2016; Figurnov et al. 2018, §4.
    """

    domain = "real numbers"
    logits: Tensor
    loc: Tensor
    scale: Tensor
    batch_dims: int = 1
    reparameterisation = "implicit"
    unconstrained = True

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """A uniform value, which selects the component, and d standard normal values."""
        chooses, normals = uniform((*lead, 1), generator, dtype), standard_normal(lead + event, generator, dtype)
        return torch.cat([chooses, normals], -1)

    def sample(self, noise: Tensor) -> Tensor:
        with torch.no_grad():
            edges = self.logits.softmax(-1).cumsum(-1)[..., :-1]
            index = torch.arange(self.logits.shape[-1], device=noise.device)
            component = ((noise[..., :1] > edges).sum(-1, keepdim=True) == index).to(noise.dtype)
            loc, scale = (torch.einsum("...c,...cd->...d", component, each) for each in (self.loc, self.scale))
            z = loc + scale * noise[..., 1:]
        return self._moving(z) if torch.is_grad_enabled() else z

    def log_prob(self, z: Tensor) -> Tensor:
        each = normal_log_prob(z.unsqueeze(-2), self.loc, self.scale).sum(-1)
        return (self.logits.log_softmax(-1) + each).logsumexp(-1)

    def mean(self) -> Tensor:
        return torch.einsum("...c,...cd->...d", self.logits.softmax(-1), self.loc)

    def _moving(self, z: Tensor) -> Tensor:
        """z with the gradient dz_i = −dF(z_i | z_1 … z_{i−1}) / p(z_i | z_1 … z_{i−1})."""
        log_weights, moving = self.logits, []  # log-weights of the components given z_1 … z_{i−1}
        for value, loc, scale in zip(z.unbind(-1), self.loc.unbind(-1), self.scale.unbind(-1), strict=True):
            weights, x = log_weights.softmax(-1), value.unsqueeze(-1)
            cdf = (weights * torch.special.ndtr((x - loc) / scale)).sum(-1)
            density = (weights * normal_log_prob(x, loc, scale).exp()).sum(-1).detach()
            moving.append(value - (cdf - cdf.detach()) / density.clamp(min=torch.finfo(z.dtype).tiny))
            log_weights = log_weights + normal_log_prob(moving[-1].unsqueeze(-1), loc, scale)
        return torch.stack(moving, -1)
