"""What one evaluation of a model on a batch yields: tensors, kept apart until an objective joins them.

Shapes: ``K`` draws, ``B`` rows, ``E`` the event shape of a latent, ``X`` that of a row of data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

from torch import Tensor

Term = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of data.

    ``x [B, *X]`` the values; ``mask [B, *X]`` True where observed (None: everything is); ``index [B]`` the
    rows' numbers in the data; ``weight [B]`` what each row counts in a mean over the batch: 1/(number of real rows),
    and 0 for padding.
    """

    x: Tensor
    mask: Tensor | None
    index: Tensor
    weight: Tensor

    def __getitem__(self, rows: slice) -> Batch:
        """Some of its rows: views, each row counting what it did."""
        mask = None if self.mask is None else self.mask[rows]
        return Batch(self.x[rows], mask, self.index[rows], self.weight[rows])


@dataclass(frozen=True)
class Node:
    """One latent variable of a draw. The terms are computed when first asked for, and once.

    ``z [K, B, *E]``; ``log_p [K, B]`` and ``log_q [K, B]`` the prior's and the posterior's log-density at z;
    ``kl_per_dim [B, *E]`` and ``entropy [B]`` in closed form, or None where there is none.
    """

    name: str
    z: Tensor
    log_p_term: Term
    log_q_term: Term
    kl_per_dim_term: Term | None = None
    entropy_term: Term | None = None
    reparameterised: bool = True

    @cached_property
    def log_p(self) -> Tensor:
        return self.log_p_term()

    @cached_property
    def log_q(self) -> Tensor:
        return self.log_q_term()

    @cached_property
    def kl_per_dim(self) -> Tensor | None:
        return None if self.kl_per_dim_term is None else self.kl_per_dim_term()

    @cached_property
    def entropy(self) -> Tensor | None:
        return None if self.entropy_term is None else self.entropy_term()

    @cached_property
    def kl(self) -> Tensor | None:
        """KL(q ‖ p) ``[B]`` in closed form, or None."""
        return None if self.kl_per_dim is None else self.kl_per_dim.flatten(1).sum(1)


@dataclass(frozen=True)
class Draw:
    """K draws of every latent for each row of a batch, with the log-likelihood ``log_lik [K, B]``.

    log w = log p(x|z) + log p(z) − log q(z|x), the log importance weight, is a sum of its parts.
    """

    nodes: tuple[Node, ...]
    log_lik: Tensor

    @property
    def log_prior(self) -> Tensor:
        """Σ over nodes of log p(z), ``[K, B]``."""
        return _total([node.log_p for node in self.nodes])

    @property
    def log_q(self) -> Tensor:
        """Σ over nodes of log q(z|x), ``[K, B]``."""
        return _total([node.log_q for node in self.nodes])

    @property
    def kl(self) -> Tensor | None:
        """Σ over nodes of KL(q ‖ p) ``[B]`` in closed form; None if any node has none."""
        return _total_or_none([node.kl for node in self.nodes])

    @property
    def entropy(self) -> Tensor | None:
        """Σ over nodes of the entropy of q ``[B]`` in closed form; None if any node has none."""
        return _total_or_none([node.entropy for node in self.nodes])

    @property
    def log_w(self) -> Tensor:
        """log p(x, z) − log q(z|x), ``[K, B]``."""
        return self.log_lik + self.log_prior - self.log_q


def tempered(draw: Draw, beta: Tensor | float) -> Draw:
    """The same draw with log p(z), log q(z|x), KL and entropy multiplied by β (β-VAE, KL warm-up).

    With β ≠ 1 what an objective makes of it is a weighted objective, not a bound on log p(x).
    Higgins et al. 2017; Bowman et al. 2016.
    """

    def scaled(node: Node) -> Node:
        return replace(
            node,
            log_p_term=lambda: beta * node.log_p,
            log_q_term=lambda: beta * node.log_q,
            kl_per_dim_term=None if node.kl_per_dim_term is None else lambda: beta * cast(Tensor, node.kl_per_dim),
            entropy_term=None if node.entropy_term is None else lambda: beta * cast(Tensor, node.entropy),
        )

    return replace(draw, nodes=tuple(scaled(node) for node in draw.nodes))


def _total(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _total_or_none(terms: list[Tensor | None]) -> Tensor | None:
    known = [term for term in terms if term is not None]
    return _total(known) if len(known) == len(terms) else None
