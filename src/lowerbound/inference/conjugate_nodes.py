"""Conjugate variables of a model, q(β) of the family of the prior; and the interface of a model of such variables."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn

from lowerbound.model import LatentVariableModel

_LOG_2PI = math.log(2 * math.pi)


class Node(nn.Module, ABC):
    """One or more variables β that all rows share, with p(β) and q(β) ∝ exp(η·t(β)) for the same statistics t.

    To write one: give η of the prior, ``prior [L, S]`` for L independent variables, to the constructor, and define
    ``log_normaliser``. All is in double precision. Winn & Bishop 2005.
    """

    prior: Tensor
    natural: Tensor

    def __init__(self, prior: Tensor) -> None:
        super().__init__()
        self.register_buffer("prior", prior.double())
        self.register_buffer("natural", prior.double().clone())

    @abstractmethod
    def log_normaliser(self, natural: Tensor) -> Tensor:
        """A(η) = log ∫ exp(η·t(β)) dβ of each variable ``[L]``, from ``natural [L, S]``."""

    def expected(self) -> Tensor:
        """E_q[t(β)] ``[L, S]``: the gradient of A at η."""
        with torch.enable_grad():
            natural = self.natural.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.log_normaliser(natural).sum(), natural)
        return found

    def kl(self) -> Tensor:
        """KL(q ‖ p), summed over the variables."""
        away = ((self.natural - self.prior) * self.expected()).sum()
        return away - self.log_normaliser(self.natural).sum() + self.log_normaliser(self.prior).sum()


class Gamma(Node):
    """τ ~ Gamma(a, rate b): t = (log τ, τ), η = (a − 1, −b). q starts at a + 1 and b + 1."""

    def __init__(self, shape: float, rate: float) -> None:
        super().__init__(torch.tensor([[shape - 1.0, -rate]], dtype=torch.float64))
        self.natural += torch.tensor([1.0, -1.0])

    def log_normaliser(self, natural: Tensor) -> Tensor:
        shape, rate = natural[:, 0] + 1, -natural[:, 1]
        return torch.lgamma(shape) - shape * rate.log()


class Dirichlet(Node):
    """π ~ Dirichlet(α): t = log π, η = α − 1."""

    def __init__(self, concentration: Tensor) -> None:
        super().__init__((concentration - 1).unsqueeze(0))

    def log_normaliser(self, natural: Tensor) -> Tensor:
        concentration = natural + 1
        return torch.lgamma(concentration).sum(1) - torch.lgamma(concentration.sum(1))

    def mean(self) -> Tensor:
        """E[π] ``[K]``."""
        concentration = self.natural[0] + 1
        return concentration / concentration.sum()


class NormalVector(Node):
    """w ~ N(m, Λ⁻¹) of D values: t = (w, w wᵀ), η = (Λm, −½ Λ). The prior's Λ is I."""

    def __init__(self, size: int) -> None:
        self.size = size
        eye = torch.eye(size, dtype=torch.float64)
        super().__init__(torch.cat([eye.new_zeros(size), -0.5 * eye.flatten()]).unsqueeze(0))

    def log_normaliser(self, natural: Tensor) -> Tensor:
        first, precision = natural[:, : self.size], -2 * natural[:, self.size :].unflatten(1, (self.size, self.size))
        square: Tensor = (first * torch.linalg.solve(precision, first)).sum(1)
        log_det: Tensor = torch.linalg.slogdet(precision)[1]
        return 0.5 * (square - log_det + self.size * _LOG_2PI)


class ConjugateModel(nn.Module, ABC):
    """Interface of the nodes of a model: what all rows add to each, given the others.

    To write one: set ``nodes`` and ``size``, and define ``rows``, ``update_of``, ``model`` and ``fill``.
    """

    nodes: nn.ModuleDict
    size: int
    """M, how many numbers ``rows`` adds up."""

    def node(self, name: str) -> Node:
        return cast(Node, self.nodes[name])

    @abstractmethod
    def rows(self, x: Tensor, context: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum over rows of their expected statistics ``[M]``, and the bound of each row ``[B]``.

        A row's own latents are at their best q given the nodes. ``x [B, D]`` is in double precision. The bound is
        E_q[log p(x, own latents|nodes)] plus the entropy of its own latents.
        """

    @abstractmethod
    def update_of(self, name: str, total: Tensor) -> Tensor:
        """The natural parameters ``[L, S]`` of the best q of a node, given the statistics of all rows and the others.

        ``total [M]``: the sum of ``rows``.
        """

    @abstractmethod
    def model(self) -> LatentVariableModel:
        """A model with one value of the nodes, their expectation, to be given to ``fit``."""

    @abstractmethod
    def fill(self, model: LatentVariableModel) -> None:
        """Set such a model to the present expectation of the nodes."""

    def kl(self) -> Tensor:
        """Σ over nodes of KL(q ‖ p)."""
        return torch.stack([self.node(name).kl() for name in self.nodes]).sum()

    def check(self) -> None:
        """Raise ValueError if no update can begin from the present nodes."""
