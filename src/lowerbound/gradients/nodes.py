"""Gradient estimators for models with several latents."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lowerbound.draw import Draw
from lowerbound.gradients.base import GradientEstimator, Objective, Traits, estimator, traits
from lowerbound.gradients.score import leave_one_out


@estimator(least_draws=2)
def by_family(draw: Draw, objective: Objective) -> Tensor:
    """Reparameterisation for each latent whose family allows it, ``leave_one_out`` for the others."""
    return leave_one_out(draw, objective)


class ByNode(nn.Module):
    """A gradient estimator per latent: ``estimators[n]`` for the latent ``names[n]``.

    The surrogate is Σ_n g_n(draw with the other latents fixed) − (N − 1) objective(draw with all latents fixed), for N
    latents. The last term is needed because each g_n includes the gradient of the model's parameters. The model is
    evaluated N + 1 times more. If other latents' q depends on latent n, their draws change with it (``Draw.only``).
    """

    def __init__(self, names: Sequence[str], estimators: Sequence[GradientEstimator]) -> None:
        super().__init__()
        if len(names) != len(estimators) or not names:
            raise ValueError(f"ByNode needs one estimator per name; got {len(estimators)} for {len(names)} names.")
        self.names, self.estimators = tuple(names), tuple(estimators)
        self.learned = nn.ModuleList(each for each in estimators if isinstance(each, nn.Module))

    @property
    def traits(self) -> Traits:
        each = [traits(one) for one in self.estimators]
        return Traits(
            least_draws=max(one.least_draws for one in each),
            biased="; ".join(one.biased for one in each if one.biased),
            biased_means=any(one.biased and one.biased_means for one in each),
            rescales=any(one.rescales for one in each),
        )

    def forward(self, draw: Draw, objective: Objective) -> Tensor:
        there = {node.name for node in draw.nodes}
        if there != set(self.names):
            raise ValueError(
                f"ByNode has estimators for {', '.join(self.names)}, but the latents are {', '.join(there)}; give one "
                "per latent."
            )
        total = objective(draw.only()) * (1 - len(self.names))
        for name, one in zip(self.names, self.estimators, strict=True):
            total = total + one(draw.only(name, detached=traits(one).detached), objective)
        return total
