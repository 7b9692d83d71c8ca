"""Latents unrolled over time."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import Distribution
from lowerbound.nn import until_last, whole_steps
from lowerbound.posteriors.base import Posterior
from lowerbound.shapes import expect


class Markov(Posterior):
    """q(z|x) = Π_t q(z_t|z_{t−1}, h_t), z ``[T, d]``: a ``priors.Markov`` guided by features h of the row.

    ``encoder``: ``[B, T, *X] → [B, T, F]``, such as ``nn.Recurrent``; a backward one makes h_t a summary of
    x_{t:T}, all that p(z_t|z_{t−1}, x) depends on. ``network``: z_{t−1} ``[N, d]`` and the context h_t ``[N, F]`` → μ
    and the raw σ, ``[N, 2d]``, such as ``nn.MLP((d,), (2 * d,), context=F)``. Without it, F = 2d, and q is the product
    of p(z_t|z_{t−1}) and a normal with mean and raw precision h_t: the form of p(z_t|z_{t−1}, x) of a linear model with
    d = 1. After the last observed step of a row, q is p. ``steps``: T, that of the
    longest row. Krishnan, Shalit & Sontag 2017.
    """

    family = distributions.Guided

    def __init__(self, latent_dim: int, encoder: nn.Module, steps: int, network: nn.Module | None = None) -> None:
        super().__init__(latent_dim, encoder)
        if network is not None and not getattr(network, "context", 0):
            raise ValueError(
                f"the network {type(network).__name__} of q(z_t|z_{{t−1}}, h_t) takes no context: take nn.MLP(…, "
                "context=F), or a network of your own with an attribute context, the F features of each step."
            )
        self.steps, self.network = steps, network

    @property
    def event(self) -> tuple[int, ...]:
        return (self.steps, self.latent_dim)

    @property
    def n_outputs(self) -> int:
        return 2 * self.latent_dim if self.network is None else int(self.network.context)  # type: ignore[arg-type]

    def outputs(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """The encoder's features of each step, ``[B, T, F]``."""
        out = self.encoded(x, mask, context)
        expect("the encoder of a posteriors.Markov", out, (*x.shape[:2], self.n_outputs), "[B, T, F]")
        return out

    def distribution(self, out: Tensor) -> distributions.Guided:
        return distributions.Guided(out, until_last(out, None), self.network)

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> distributions.Guided:
        live = until_last(x, mask)
        return replace(self.distribution(self.outputs(x, mask, context)), live=live, whole=whole_steps(live))

    def merge(self, q: Distribution, p: Distribution) -> distributions.Guided:
        if not isinstance(q, distributions.Guided) or not isinstance(p, distributions.Markov):
            raise ValueError(f"posteriors.Markov needs the prior priors.Markov, not one of {type(p).__name__}.")
        return replace(q, prior=p)
