"""The model p(x, z) = p(z) p(x|z), and a draw of its latents from an approximate posterior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import kl_rule
from lowerbound.draw import Batch, Draw, Node
from lowerbound.likelihoods import Likelihood
from lowerbound.nn import apply
from lowerbound.posteriors import DiagonalNormal
from lowerbound.priors import Normal


class LatentVariableModel(nn.Module):
    """p(z) by ``prior``, p(x|z) by ``likelihood`` with the parameters that ``decoder`` computes from z.

    ``decoder``: ``[N, d] → [N, P, *X]`` with P the likelihood's parameters per value (``[N, *X]`` where P = 1).
    Any ``nn.Module`` of that shape can be the decoder.
    """

    def __init__(self, prior: Normal, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood

    def decode(self, z: Tensor) -> Tensor:
        """The likelihood's parameters ``[K, B, P, *X]`` at ``z [K, B, d]``."""
        out = apply(self.decoder, z.flatten(0, 1))
        parameters = self.likelihood.n_parameters
        if parameters == 1:
            out = out.unsqueeze(1)
        elif out.dim() < 2 or out.shape[1] != parameters:
            raise ValueError(
                f"{type(self.likelihood).__name__} has {parameters} parameters per value, so the decoder must give "
                f"each row [{parameters}, *X]; it gave {list(out.shape[1:])}."
            )
        params: Tensor = out.unflatten(0, z.shape[:2])
        return params

    def log_lik(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x|z) ``[K, B]`` of ``x [B, *X]`` at ``z [K, B, d]``, over observed values."""
        return self.likelihood.log_prob(self.decode(z), x, mask)

    def log_joint(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x, z) ``[K, B]``."""
        prior: distributions.Normal = self.prior()
        return self.log_lik(z, x, mask) + prior.log_prob(z)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` rows from p(x), ``[n, *X]``."""
        params = self.decode(self.prior.sample(n, generator).unsqueeze(0))
        return self.likelihood.sample(params, generator).squeeze(0)

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Start where p(x|z) is each value's own distribution in ``x [N, *X]``, whatever z.

        Sets what the likelihood learns or scales by, and the decoder's output bias where it has ``init_bias``.
        """
        bias = self.likelihood.initialise(x, mask)
        init_bias = getattr(self.decoder, "init_bias", None)
        if init_bias is not None:
            init_bias(bias)


def draw(
    model: LatentVariableModel,
    posterior: DiagonalNormal,
    batch: Batch,
    noise: Tensor | torch.Generator,
    K: int = 1,
) -> Draw:
    """``K`` draws of each row's latent from q(z|x), with all that an objective may ask of them.

    ``noise``: what ``posterior.noise`` gives, ``[K, B, *E]`` or broadcastable to it, or a generator to draw it
    from (then ``K`` says how many).
    """
    if isinstance(noise, torch.Generator):
        noise = posterior.noise(K, len(batch.x), noise, batch.x.dtype)
    q = posterior(batch.x, batch.mask)
    p = model.prior()
    z = q.sample(noise)
    kl = kl_rule(q, p)
    node = Node(
        "z",
        z,
        log_p_term=lambda: p.log_prob(z),
        log_q_term=lambda: q.log_prob(z),
        kl_per_dim_term=None if kl is None else lambda: kl(q, p),
        entropy_term=q.entropy,
    )
    return Draw((node,), model.log_lik(z, batch.x, batch.mask))
