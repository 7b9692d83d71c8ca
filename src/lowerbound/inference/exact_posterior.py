"""p(z|x) of models that have it in closed form, as a posterior that evidence and queries take."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound import priors
from lowerbound.draw import Batch
from lowerbound.inference.e_steps import is_linear, of_normal, of_states
from lowerbound.inference.kalman import KalmanSmoother, is_state_space
from lowerbound.likelihoods import Normal
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Bernoulli, Categorical, FullNormal, Posterior


class ExactEncoder(nn.Module):
    """Rows ``[B, *X]`` → the numbers that ``posteriors.Categorical``, ``Bernoulli`` or ``FullNormal`` reads, of p(z|x).

    The model stays a module of its own: its parameters are not the encoder's.
    """

    masked = True

    def __init__(self, model: LatentVariableModel) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple, so that it is no submodule

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        (model,) = self._model
        batch = Batch(x, mask, torch.arange(len(x), device=x.device), torch.ones_like(x.flatten(1)[:, 0]))
        if isinstance(model.prior, priors.Normal):
            _, mean, covariance = of_normal(model, batch)
            family, rng = FullNormal(mean.shape[1], nn.Identity()), torch.Generator(x.device)
            return family.outputs_of(mean, covariance.expand(len(x), -1, -1), rng).to(x.dtype)
        _, log_joint = of_states(model, batch)
        logits = (log_joint - log_joint.logsumexp(0)).T
        return logits[:, 1:] - logits[:, :1] if isinstance(model.prior, priors.Bernoulli) else logits


def exact_posterior(model: LatentVariableModel) -> Posterior:
    """q(z|x) = p(z|x) of a model with one class or bit, or of a linear normal one, such as ``EM`` learns, or a Kalman
    filter.

    It follows the parameters of ``model``. Its ELBO is log p(x), up to rounding. Raises ValueError for other models.
    """
    prior, likelihood = model.prior, model.likelihood
    if isinstance(prior, priors.Categorical) and prior.latent_dim == 1:
        return Categorical(1, prior.n_classes, ExactEncoder(model))
    if isinstance(prior, priors.Bernoulli) and prior.latent_dim == 1:
        return Bernoulli(1, ExactEncoder(model))
    if isinstance(prior, priors.Markov) and is_state_space(model):
        return KalmanSmoother(prior.latent_dim, prior.steps)
    linear = isinstance(likelihood, Normal) and likelihood.scale not in ("entry", "row") and is_linear(model.decoder)
    if linear and isinstance(prior, priors.Normal):
        return FullNormal(prior.latent_dim, ExactEncoder(model))
    raise ValueError(
        "p(z|x) has no closed form in this model: exact_posterior takes one categorical or binary latent, or a normal "
        "prior with a linear decoder and a likelihoods.Normal whose scale is not the decoder's; use AEVB to learn a "
        "q(z|x), or inference.Searched to find one for each row."
    )
