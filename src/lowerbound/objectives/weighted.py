"""Objectives that weight the terms of the ELBO; they are not bounds on log p(x)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lowerbound.draw import Draw
from lowerbound.objectives.base import no_bound


@no_bound(lambda **_: "it penalises the distance of the KL from a capacity, not the KL")
def capacity(draw: Draw, nats: float, strength: float) -> Tensor:
    """mean_K log p(x|z) − γ |KL − C|, C = ``nats``, γ = ``strength``. Burgess et al. 2018."""
    return draw.log_lik.mean(0) - strength * (draw.mean_kl - nats).abs()


class Constrained(nn.Module):
    """GECO: a constraint on one term of the ELBO with a Lagrange multiplier λ > 0. Rezende & Viola 2018.

    ``of="log_lik"``: minimise the KL subject to a mean log-likelihood of at least ``target``; the objective is
    −KL + λ (log p(x|z) − target). ``of="kl"``: maximise the log-likelihood subject to a mean KL of at most ``target``;
    the objective is log p(x|z) − λ (KL − target). At each step λ is multiplied by e^(``rate`` · shortfall), where the
    shortfall is the running mean (with ``decay``), in nats, by which the constraint is violated (negative if it holds).
    ``start``: the initial λ.
    """

    multiplier: Tensor
    shortfall: Tensor

    def __init__(
        self, of: Literal["log_lik", "kl"], target: float, rate: float = 1e-3, decay: float = 0.99, start: float = 1.0
    ) -> None:
        super().__init__()
        if of not in ("log_lik", "kl"):
            raise ValueError(f'of must be "log_lik" or "kl"; got {of!r}.')
        self.of, self.target, self.rate, self.decay, self.start = of, target, rate, decay, start
        self.register_buffer("multiplier", torch.tensor(float(start)))
        self.register_buffer("shortfall", torch.zeros(()))

    def forward(self, draw: Draw) -> Tensor:
        log_lik, kl = draw.log_lik.mean(0), draw.mean_kl
        short = self.target - log_lik if self.of == "log_lik" else kl - self.target
        if self.training and torch.is_grad_enabled():
            self._update(short.detach().mean())
        rest = -kl if self.of == "log_lik" else log_lik
        return rest - self.multiplier.clone() * short  # the next step changes the multiplier in place

    @staticmethod
    def no_bound(**_: float) -> str:
        return "it is a Lagrangian"

    @torch.no_grad()
    def _update(self, short: Tensor) -> None:
        self.shortfall.lerp_(short, 1 - self.decay)
        change = (self.rate * self.shortfall).clamp(-0.1, 0.1).exp()
        self.multiplier.mul_(change).clamp_(1e-6, 1e6)
