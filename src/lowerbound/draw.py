"""What one evaluation of a model on a batch yields: tensors, kept apart until an objective joins them.

Shapes: ``K`` draws, ``B`` rows, ``E`` the event shape of a latent, ``X`` that of a row of data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lowerbound import distributions
from lowerbound.distributions import Distribution
from lowerbound.shapes import expect


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of data.

    ``x [B, *X]`` the values; ``mask [B, *X]`` True where observed (None: everything is); ``index [B]`` the
    rows' numbers in the data; ``weight [B]`` what each row counts in a mean over the batch: 1/(number of real rows),
    and 0 for padding; ``context [B, C]`` what the model is conditioned on, if on anything.
    """

    x: Tensor
    mask: Tensor | None
    index: Tensor
    weight: Tensor
    context: Tensor | None = None

    def __getitem__(self, rows: slice) -> Batch:
        """Some of its rows: views, each row counting what it did."""
        mask = None if self.mask is None else self.mask[rows]
        context = None if self.context is None else self.context[rows]
        return Batch(self.x[rows], mask, self.index[rows], self.weight[rows], context)


@dataclass(frozen=True)
class Node:
    """One latent variable of a draw: ``z [K, B, *E]``, its posterior ``q`` and its prior ``p``.

    Terms are computed when first asked for, and once. ``beta`` multiplies those that an objective joins: log p(z),
    log q(z|x), KL and entropy. ``noise``: z = q.sample(noise); None where z is from elsewhere. ``sampled``: KL and
    entropy are not to be had in closed form. ``given``: nobody estimates a gradient in the parameters of q.
    """

    name: str
    z: Tensor
    q: Distribution
    p: Distribution
    noise: Tensor | None = None
    beta: Tensor | float = 1.0
    sampled: bool = False
    given: bool = False
    terms: dict[tuple[str, bool], Tensor | None] = field(default_factory=dict, repr=False)
    """What has been computed, whatever β, with gradients and without; a node with other terms has its own."""

    @property
    def path(self) -> bool:
        """Whether gradients flow through z to the parameters of q."""
        return self.q.reparameterisation is not None and self.z.requires_grad

    @property
    def log_p(self) -> Tensor:
        """β log p(z), ``[K, B]``."""
        return self._weighted(self._once("log_p", self._log_p))

    @property
    def log_q(self) -> Tensor:
        """β log q(z|x), ``[K, B]``."""
        return self._weighted(self.log_density)

    @property
    def log_density(self) -> Tensor:
        """log q(z|x), ``[K, B]``, whatever β."""
        return self._once("log_q", self._log_q)

    @property
    def kl_per_dim(self) -> Tensor | None:
        """β KL(q ‖ p) of each dimension ``[B, *E]`` in closed form, or None."""
        return None if self.sampled else self._weighted_or_none("kl_per_dim", distributions.kl_per_dim)

    @property
    def kl(self) -> Tensor | None:
        """β KL(q ‖ p) ``[B]`` in closed form, or None."""
        return None if self.sampled else self._weighted_or_none("kl", self._kl)

    @property
    def entropy(self) -> Tensor | None:
        """β H(q) ``[B]`` in closed form, or None."""
        return None if self.sampled else self._weighted_or_none("entropy", lambda q, _: q.entropy())

    def stopped(self) -> Node:
        """The node with the parameters of q stopped in log q: what is left of them flows through z."""
        return replace(self, q=self.q.stopped(), noise=None, sampled=True, terms={})

    def fixed(self) -> Node:
        """The node with z as it is, and q stopped: no gradient in q's parameters is left."""
        return replace(self, z=self.z.detach(), q=self.q.stopped(), noise=None, given=True, terms={})

    def _kl(self, q: Distribution, p: Distribution) -> Tensor | None:
        per_dim = self._once_or_none("kl_per_dim", lambda: distributions.kl_per_dim(q, p))
        return distributions.kl(q, p) if per_dim is None else per_dim.flatten(1).sum(1)

    def _log_p(self) -> Tensor:
        value = self.p.log_prob(self.z)
        expect(f"log_prob of the prior of {self.name!r}", value, self.z.shape[:2], "[K, B]")
        return value

    def _log_q(self) -> Tensor:
        value = self.q.log_prob(self.z) if self.noise is None else self.q.log_prob_of_sample(self.z, self.noise)
        expect(f"log_prob of the posterior of {self.name!r}", value, self.z.shape[:2], "[K, B]")
        return value

    def _once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        value = self._once_or_none(name, compute)
        assert value is not None
        return value

    def _once_or_none(self, name: str, compute: Callable[[], Tensor | None]) -> Tensor | None:
        """What was computed before, if it has the gradient that is asked for; or now."""
        if (name, True) in self.terms:
            return self.terms[name, True]
        key = (name, torch.is_grad_enabled())
        if key not in self.terms:
            self.terms[key] = compute()
        return self.terms[key]

    def _weighted(self, value: Tensor) -> Tensor:
        return value if isinstance(self.beta, float) and self.beta == 1 else self.beta * value

    def _weighted_or_none(
        self, name: str, compute: Callable[[Distribution, Distribution], Tensor | None]
    ) -> Tensor | None:
        value = self._once_or_none(name, lambda: compute(self.q, self.p))
        return None if value is None else self._weighted(value)


Evaluate = Callable[[Mapping[str, Tensor]], "Draw"]
"""Latents ``[K, B, *E]`` by the name of their node → the draw with those in place of its own."""


@dataclass(frozen=True)
class Draw:
    """K draws of every latent for each row of a batch, with the log-likelihood ``log_lik [K, B]``.

    log w = log p(x|z) + log p(z) − log q(z|x), the log importance weight, is a sum of its parts. ``evaluate``: the
    same rows at other latents. ``x [B, *X]``: the rows, unobserved values 0.
    """

    nodes: tuple[Node, ...]
    log_lik: Tensor
    evaluate: Evaluate | None = None
    x: Tensor | None = None

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

    def at(self, latents: Mapping[str, Tensor]) -> Draw:
        """The same rows at other latents ``[K, B, *E]``, by the name of their node, under the same β."""
        if self.evaluate is None:
            raise ValueError("this draw cannot evaluate its model at other latents.")
        there = self.evaluate(latents)
        nodes = zip(there.nodes, self.nodes, strict=True)
        return replace(there, nodes=tuple(replace(new, beta=own.beta, sampled=own.sampled) for new, own in nodes))

    def stopped(self) -> Draw:
        """The draw with the posterior's parameters stopped in log q (``Node.stopped``)."""
        return replace(self, nodes=tuple(node.stopped() for node in self.nodes))

    def only(self, name: str | None = None, detached: bool = False) -> Draw:
        """The same draw as the estimator of one latent sees it, evaluated anew: the others, or all, are ``given``.

        ``detached``: no gradient flows through the draws of that latent either.
        """
        own = {node.name: node for node in self.nodes}
        latents = {key: node.z if key == name and not detached else node.z.detach() for key, node in own.items()}

        def evaluate(latents: Mapping[str, Tensor]) -> Draw:
            there = self.at(latents)
            return replace(
                there, nodes=tuple(n if n.name == name else n.fixed() for n in there.nodes), evaluate=evaluate
            )

        found = evaluate(latents)
        return replace(found, nodes=tuple(n if n.given else replace(n, noise=own[n.name].noise) for n in found.nodes))

    def sampled(self) -> Draw:
        """The draw without closed forms: objectives take KL and entropy from the draws."""
        return replace(self, nodes=tuple(replace(node, sampled=True) for node in self.nodes))


def tempered(draw: Draw, beta: Tensor | float) -> Draw:
    """The same draw with log p(z), log q(z|x), KL and entropy multiplied by β (β-VAE, KL warm-up).

    With β ≠ 1 what an objective makes of it is a weighted objective, not a bound on log p(x).
    Higgins et al. 2017; Bowman et al. 2016.
    """
    return replace(draw, nodes=tuple(replace(node, beta=node.beta * beta) for node in draw.nodes))


def of_terms(
    log_lik: Tensor,
    log_p: Tensor,
    log_q: Tensor,
    kl: Tensor | None = None,
    entropy: Tensor | None = None,
) -> Draw:
    """A draw of one latent with these terms and no more: ``[K, B]``, and ``[B]`` for ``kl`` and ``entropy``."""
    unknown = distributions.Normal(log_lik.new_zeros(()), log_lik.new_ones(()))  # never asked: all terms are given
    named = {"log_p": log_p, "log_q": log_q, "kl_per_dim": None, "kl": kl, "entropy": entropy}
    terms = {(name, True): term for name, term in named.items()}
    return Draw((Node("z", torch.zeros_like(log_lik), unknown, unknown, terms=terms),), log_lik)


def in_groups(draw: Draw, groups: int) -> Draw:
    """The terms of K draws as those of K/``groups``: ``[K/M, M·B]``, the first B rows those of the first group."""
    draws, rows = draw.log_lik.shape
    if draws % groups:
        raise ValueError(f"{draws} draws are no {groups} groups of the same size.")

    def folded(term: Tensor) -> Tensor:
        return term.view(groups, draws // groups, rows).transpose(0, 1).reshape(draws // groups, groups * rows)

    kl, entropy = (None if t is None else t.expand(groups, rows).flatten() for t in (draw.kl, draw.entropy))
    return of_terms(folded(draw.log_lik), folded(draw.log_prior), folded(draw.log_q), kl, entropy)


def _total(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _total_or_none(terms: list[Tensor | None]) -> Tensor | None:
    known = [term for term in terms if term is not None]
    return _total(known) if len(known) == len(terms) else None
