"""Linear normal state spaces: the Kalman filter, and p(z|x) as a chain, with missing values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.distributions.densities import HALF_LOG_2PI
from lowerbound.distributions.markov import LinearMarkov, Markov


@dataclass(frozen=True)
class StateSpace:
    """z_1 ~ N(m, diag s), z_t ~ N(A z_{t−1} + b, diag q), x_t ~ N(C z_t + c, diag r), in double precision.

    ``mean`` m, ``start`` s, ``bias`` b, ``noise`` q: ``[d]``; ``transition`` A ``[d, d]``; ``emission`` C ``[D, d]``;
    ``offset`` c, ``error`` r: ``[D]``. Rows are ``x [B, T, D]`` with a ``mask`` of that shape, True where observed.
    """

    mean: Tensor
    start: Tensor
    transition: Tensor
    bias: Tensor
    noise: Tensor
    emission: Tensor
    offset: Tensor
    error: Tensor

    def filtered(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x) ``[B]``, and E[z_t|x_{1:t}] ``[B, T, d]`` and Cov[z_t|x_{1:t}] ``[B, T, d, d]``. Kalman 1960."""
        mean, covariance = self.mean.expand(len(x), -1), self.start.diag().expand(len(x), -1, -1)
        away, log_p = torch.where(mask, x.double() - self.offset, 0), x.new_zeros(len(x), dtype=torch.float64)
        means, covariances = [], []
        for t in range(x.shape[1]):
            if t > 0:
                mean = mean @ self.transition.mT + self.bias
                covariance = self.transition @ covariance @ self.transition.mT + self.noise.diag()
            seen = mask[:, t].double()  # a missing value becomes one that is observed as 0, of variance 1 and alone
            emission = self.emission * seen.unsqueeze(2)
            both = emission @ covariance
            lower = torch.linalg.cholesky(
                both @ emission.mT + torch.diag_embed(torch.where(mask[:, t], self.error, 1.0))
            )
            white = torch.linalg.solve_triangular(
                lower, (away[:, t] - (emission @ mean.unsqueeze(2)).squeeze(2)).unsqueeze(2), upper=False
            )
            gain = torch.linalg.solve_triangular(lower, both, upper=False)
            log_p = log_p - 0.5 * white.square().sum((1, 2)) - lower.diagonal(dim1=1, dim2=2).log().sum(1)
            log_p = log_p - HALF_LOG_2PI * seen.sum(1)
            mean = mean + (gain.mT @ white).squeeze(2)
            covariance = covariance - gain.mT @ gain
            means.append(mean)
            covariances.append(covariance)
        return log_p, torch.stack(means, 1), torch.stack(covariances, 1)

    def posterior(self, x: Tensor, mask: Tensor, prior: Markov) -> LinearMarkov:
        """p(z|x) = Π_t p(z_t|z_{t−1}, x_{t:T}), of the rows; ``prior``: the chain p(z).

        p(x_{t:T}|z_t) ∝ exp(−½ z_tᵀ J_t z_t + h_tᵀ z_t), by a recursion from the last step to the first. Then
        p(z_t|z_{t−1}, x) has the precision Q⁻¹ + J_t and the mean (Q⁻¹ + J_t)⁻¹ (Q⁻¹ (A z_{t−1} + b) + h_t).
        """
        eye = torch.eye(len(self.mean), dtype=torch.float64, device=x.device)
        weight = mask / self.error
        seen = torch.einsum("btj,jd,je->btde", weight, self.emission, self.emission)
        pulled = (weight * torch.where(mask, x.double() - self.offset, 0)) @ self.emission
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        J, h = torch.zeros_like(seen[:, 0]), torch.zeros_like(pulled[:, 0])
        for t in reversed(range(x.shape[1])):
            J, h = J + seen[:, t], h + pulled[:, t]
            variance = self.noise if t else self.start
            lower = torch.linalg.cholesky(J + variance.reciprocal().diag())
            covariance = torch.cholesky_inverse(lower)
            scaled = covariance / variance  # Σ Q⁻¹
            base = self.bias if t else self.mean
            offset = (scaled @ base) + (covariance @ h.unsqueeze(2)).squeeze(2)
            gain = scaled @ self.transition if t else torch.zeros_like(J)
            found.append((gain, offset, torch.linalg.cholesky(covariance)))
            shrunk = torch.linalg.inv(eye + J * self.noise)  # (I + J Q)⁻¹
            J, h = shrunk @ J, (shrunk @ h.unsqueeze(2)).squeeze(2)
            h = (h - J @ self.bias) @ self.transition
            J = self.transition.mT @ J @ self.transition
        gain, offset, lower = (torch.stack(each[::-1], 1).to(x.dtype) for each in zip(*found, strict=True))
        return LinearMarkov(gain, offset, lower, prior)
