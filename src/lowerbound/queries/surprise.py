"""Check whether the cells on which to condition are plausible under the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.distributions import Distribution
from lowerbound.draw import Batch
from lowerbound.likelihoods import Factorised
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Posterior
from lowerbound.queries.posterior_sampling import Part

DRAWS = 10_000
_TOGETHER = 1000


@dataclass(frozen=True)
class Surprise:
    """Comparison of a row's observed cells with those of 10,000 samples of the model.

    ``extreme [*X]``: which observed cells are outside the range of the samples. ``least``: the smallest
    log p(x_observed, z) of the samples.
    """

    model: LatentVariableModel
    prior: Distribution
    batch: Batch
    extreme: Tensor
    least: float

    @classmethod
    def of(cls, model: LatentVariableModel, posterior: Posterior, batch: Batch, rng: torch.Generator) -> Surprise:
        """Make the comparison for a batch that holds one row."""
        context = None if batch.context is None else batch.context.expand(_TOGETHER, -1)
        prior, least, parts = model.prior_given(context, posterior), torch.inf, []
        for _ in range(DRAWS // _TOGETHER):
            noise = prior.noise((1, _TOGETHER), model.prior.event, rng, batch.x.dtype)
            z = prior.sample(noise)
            params = model.decode(z, context)
            x = model.likelihood.sample(params, rng)[0]
            least = min(least, float(_joint(model, prior, batch, z, params, x).min()))
            parts.append(torch.stack([x.amin(0), x.amax(0), (x == batch.x).any(0).to(x.dtype)]))
        found = torch.stack(parts)
        within = (found[:, 0].amin(0) <= batch.x[0]) & (batch.x[0] <= found[:, 1].amax(0)) | found[:, 2].any(0)
        own = model.prior_given(batch.context, posterior)
        return cls(model, own, batch, _seen(batch) & ~within, least)

    def unlikely(self, part: Part) -> bool:
        """Whether the row is less likely than all samples of the model.

        The row's log p(x_observed, z), averaged over draws of z ~ p(z|x_observed), is compared with that of the samples
        (x, z). A row that is itself a sample of the model is found unlikely with a probability of about 1 in 10,000.
        """
        z = part.drawn[:_TOGETHER]
        own = _joint(self.model, self.prior, self.batch, z, self.model.decode(z, self.batch.context), self.batch.x)
        return bool(own.mean() < self.least)


def _joint(
    model: LatentVariableModel, prior: Distribution, batch: Batch, z: Tensor, params: Tensor, x: Tensor
) -> Tensor:
    """log p(x, z), ``[K, B]``, for the cells that are observed in ``batch``."""
    assert isinstance(model.likelihood, Factorised)
    each = torch.where(_seen(batch), model.likelihood.log_prob_per_value(params, x).double(), 0)
    found: Tensor = each.flatten(2).sum(2) + prior.log_prob(z).double()
    return found


def _seen(batch: Batch) -> Tensor:
    return torch.ones_like(batch.x[0], dtype=torch.bool) if batch.mask is None else batch.mask[0]
