"""Latents unrolled over time that share the memory of their prior."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import Distribution
from lowerbound.nn import until_last, whole_steps
from lowerbound.posteriors.base import Posterior
from lowerbound.shapes import expect


class Recurrent(Posterior):
    """q(z_t|h_t, f_t) of a variational RNN: h_t of ``priors.Recurrent`` and features f_t of the row at step t.

    ``latent_dim`` and ``hidden``: of the prior. ``encoder``: ``[B, T, *X] → [B, T, F]``, such as ``nn.StepReader``, of
    x_t alone, or a backward ``nn.Recurrent``, of x_{t:T}. ``network``: h_t ``[N, hidden]`` and the context f_t
    ``[N, F]`` → μ and the raw σ, ``[N, 2d]``. After the last observed step of a row, q is p. Chung et al. 2015.
    """

    family = distributions.GuidedRecurrent

    def __init__(self, latent_dim: int, encoder: nn.Module, steps: int, hidden: int, network: nn.Module) -> None:
        super().__init__(latent_dim, encoder)
        if not getattr(network, "context", 0):
            raise ValueError(
                f"the network {type(network).__name__} of q(z_t|h_t, f_t) takes no context: take nn.MLP(…, context=F), "
                "or a network of your own with an attribute context, the F features of each step."
            )
        self.steps, self.hidden, self.network = steps, hidden, network

    @property
    def event(self) -> tuple[int, ...]:
        return (self.steps, self.latent_dim + self.hidden)

    @property
    def n_outputs(self) -> int:
        return int(self.network.context)  # type: ignore[arg-type]

    def outputs(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """The encoder's features of each step, ``[B, T, F]``."""
        out = self.encoded(x, mask, context)
        expect("the encoder of a posteriors.Recurrent", out, (*x.shape[:2], self.n_outputs), "[B, T, F]")
        return out

    def distribution(self, out: Tensor) -> distributions.GuidedRecurrent:
        return distributions.GuidedRecurrent(
            None, nn.Identity(), self.network, self.latent_dim, features=out, live=until_last(out, None)
        )

    def forward(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> distributions.GuidedRecurrent:
        live = until_last(x, mask)
        return replace(self.distribution(self.outputs(x, mask, context)), live=live, whole=whole_steps(live))

    def merge(self, q: Distribution, p: Distribution) -> distributions.GuidedRecurrent:
        if not isinstance(q, distributions.GuidedRecurrent) or not isinstance(p, distributions.Recurrent):
            raise ValueError(f"posteriors.Recurrent needs the prior priors.Recurrent, not one of {type(p).__name__}.")
        return replace(q, prior=p, read=p.read, cell=p.cell)
