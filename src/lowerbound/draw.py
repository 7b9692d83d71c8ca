"""The tensors of one evaluation of a model on a batch, kept apart until an objective combines them.

Shapes: ``K`` draws, ``B`` rows, ``E`` the event shape of a latent, ``X`` that of a row of data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from lowerbound import distributions
from lowerbound.distributions import Distribution
from lowerbound.distributions.kl import batch_dims
from lowerbound.shapes import expect


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of data.

    ``x [B, *X]`` the values; ``mask [B, *X]`` True where observed (None: everything is); ``index [B]`` the
    rows' numbers in the data; ``weight [B]`` the weight of each row in a mean over the batch: 1/(number of real rows),
    and 0 for padding; ``context [B, C]`` what the model is conditioned on, if on anything; ``labels``: by the name of
    a categorical latent, its class in each row ``[B]`` (int64), −1 where it was not observed.
    """

    x: Tensor
    mask: Tensor | None
    index: Tensor
    weight: Tensor
    context: Tensor | None = None
    labels: Mapping[str, Tensor] | None = None

    def __getitem__(self, rows: slice) -> Batch:
        """A slice of the rows, as views that keep their weights."""
        mask = None if self.mask is None else self.mask[rows]
        context = None if self.context is None else self.context[rows]
        labels = None if self.labels is None else {name: each[rows] for name, each in self.labels.items()}
        return Batch(self.x[rows], mask, self.index[rows], self.weight[rows], context, labels)


@dataclass(frozen=True)
class Node:
    """One latent variable of a draw: ``z [K, B, *E]``, its posterior ``q`` and its prior ``p``.

    Terms are computed when first asked for, and once. ``beta`` multiplies those that an objective combines: log p(z),
    log q(z|x), KL and entropy. ``noise``: z = q.sample(noise); None where z is from elsewhere. ``sampled``: KL and
    entropy are not to be taken in closed form. ``given``: no gradient in the parameters of q is estimated.

    ``parents``: the latents that q reads; ``prior_parents``: those that p reads. ``closed``: whether KL(q ‖ p) at the
    parents' draws has the mean of log q − log p; it does not where p reads a latent that is drawn given this one.
    ``stopped_q``: for a latent with parents, q with its parameters stopped but not the draws of its parents.
    ``p_at_z``: p computed from ``z`` of its parents, where ``p`` is shared with a q that it is merged into.
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
    """Terms computed so far, without β, by name and whether with gradients."""
    parents: tuple[str, ...] = ()
    prior_parents: tuple[str, ...] = ()
    closed: bool = True
    stopped_q: Callable[[], Distribution] | None = field(default=None, repr=False)
    p_at_z: Callable[[], Distribution] | None = field(default=None, repr=False)

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
        """log q(z|x), ``[K, B]``, without β."""
        return self._once("log_q", self._log_q)

    @property
    def kl_per_dim(self) -> Tensor | None:
        """β KL(q ‖ p) of each dimension in closed form, ``[B, *E]`` or, with parents, ``[K, B, *E]``; or None."""
        return self._closed("kl_per_dim", distributions.kl_per_dim) if self.closed else None

    @property
    def kl(self) -> Tensor | None:
        """β KL(q ‖ p) in closed form, ``[B]`` or, where q or p has parents, ``[K, B]``; or None."""
        return self._closed("kl", self._kl) if self.closed else None

    @property
    def entropy(self) -> Tensor | None:
        """β H(q) in closed form, ``[B]`` or, where q has parents, ``[K, B]``; or None."""
        return self._closed("entropy", lambda q, _: q.entropy())

    @property
    def mean_kl(self) -> Tensor:
        """β KL(q ‖ p) of each row ``[B]``: in closed form or, where there is none, the mean of log q − log p."""
        return over_draws(self.log_q - self.log_p if self.kl is None else self.kl)

    @property
    def mean_kl_per_dim(self) -> Tensor | None:
        """β KL(q ‖ p) of each dimension ``[B, *E]``: in closed form or, where its dimensions are independent in q and
        p, the mean over the draws; else None."""
        if (closed := self.kl_per_dim) is not None:
            return closed.mean(0) if batch_dims(self.q, self.p) == 2 else closed
        log_q, log_p = self.q.log_prob_per_dim(self.z), self.p.log_prob_per_dim(self.z)
        return None if log_q is None or log_p is None else self._weighted((log_q - log_p).mean(0))

    def stopped(self) -> Node:
        """The node with the parameters of q stopped in log q: gradients of log q flow through the draws only."""
        q = self.q.stopped() if self.stopped_q is None else self.stopped_q()
        p = self.p if self.p_at_z is None else self.p_at_z()
        return replace(self, q=q, p=p, noise=None, sampled=True, terms={})

    def drawn_by(self, q: Distribution, times: int = 1) -> Tensor:
        """z drawn from another q by the same noise; detached where this one is, but for a latent that is ``given``."""
        if self.noise is None:
            raise ValueError(f"latent {self.name!r} is not a draw from its q, so it cannot be drawn again.")
        z = q.sample(_repeated(self.noise, times))
        return z if self.path or self.given else z.detach()

    def _kl(self, q: Distribution, p: Distribution) -> Tensor | None:
        per_dim = self._once_or_none("kl_per_dim", lambda: distributions.kl_per_dim(q, p))
        return distributions.kl(q, p) if per_dim is None else per_dim.flatten(lead := batch_dims(q, p)).sum(lead)

    def _log_p(self) -> Tensor:
        value = self.p.log_prob(self.z)
        expect(f"log_prob of the prior of {self.name!r}", value, self.z.shape[:2], "[K, B]")
        return value

    def _log_q(self) -> Tensor:
        noise = None if self.given else self.noise
        value = self.q.log_prob(self.z) if noise is None else self.q.log_prob_of_sample(self.z, noise)
        expect(f"log_prob of the posterior of {self.name!r}", value, self.z.shape[:2], "[K, B]")
        return value

    def _once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        value = self._once_or_none(name, compute)
        assert value is not None
        return value

    def _once_or_none(self, name: str, compute: Callable[[], Tensor | None]) -> Tensor | None:
        """Return a term computed before, if it has the gradient that is needed; otherwise compute it."""
        if (name, True) in self.terms:
            return self.terms[name, True]
        key = (name, torch.is_grad_enabled())
        if key not in self.terms:
            self.terms[key] = compute()
        return self.terms[key]

    def _weighted(self, value: Tensor) -> Tensor:
        return value if isinstance(self.beta, float) and self.beta == 1 else self.beta * value

    def _closed(self, name: str, compute: Callable[[Distribution, Distribution], Tensor | None]) -> Tensor | None:
        if self.sampled:
            return None
        value = self._once_or_none(name, lambda: compute(self.q, self.p))
        return None if value is None else self._weighted(value)


Choose = Callable[[str, Distribution], tuple[Tensor, Tensor | None]]
"""A latent's name and its q at the values of its parents → its value ``[K, B, *E]``, and the noise if q drew it."""


class Evaluate(Protocol):
    """The rows of a batch under a model, to be evaluated at any latents.

    ``choose`` gives each latent's value, parents first. The parameters of q are stopped for the latents ``given``.
    """

    def __call__(self, choose: Choose, given: frozenset[str] = frozenset()) -> Draw: ...


@dataclass(frozen=True)
class Draw:
    """K draws of every latent for each row of a batch, with the log-likelihood ``log_lik [K, B]``.

    log w = log p(x|z) + log p(z) − log q(z|x), the log importance weight, is a sum of its parts. ``evaluate``: the
    same rows at other latents. ``x [B, *X]``: the rows, unobserved values 0. ``read``: the latents that the decoder
    reads; None for all.
    """

    nodes: tuple[Node, ...]
    log_lik: Tensor
    evaluate: Evaluate | None = None
    x: Tensor | None = None
    read: tuple[str, ...] | None = None

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
        """Σ over nodes of KL(q ‖ p) in closed form, ``[B]`` or, with parents, ``[K, B]``; None if any has none."""
        return _total_or_none([node.kl for node in self.nodes])

    @property
    def entropy(self) -> Tensor | None:
        """Σ over nodes of the entropy of q, ``[B]`` or, with parents, ``[K, B]``; None if any node has none."""
        return _total_or_none([node.entropy for node in self.nodes])

    @property
    def mean_kl(self) -> Tensor:
        """Σ over nodes of the KL(q ‖ p) of each row ``[B]``, in closed form where there is one (``Node.mean_kl``)."""
        return _total([node.mean_kl for node in self.nodes])

    @property
    def log_w(self) -> Tensor:
        """log p(x, z) − log q(z|x), ``[K, B]``."""
        return self.log_lik + self.log_prior - self.log_q

    def at(self, latents: Mapping[str, Tensor]) -> Draw:
        """The same rows at other latents ``[K, B, *E]``, by the name of their node, under the same β."""
        return self._with(lambda name, _: (latents[name], None))

    def below(self, name: str) -> set[str]:
        """The latents that are drawn given this one: its children in q, theirs, and so on."""
        found = {name}
        while more := {node.name for node in self.nodes if found.intersection(node.parents)} - found:
            found |= more
        return found - {name}

    def redrawn(self, values: Mapping[str, Callable[[Distribution], Tensor]], times: int = 1) -> Draw:
        """The same rows with some latents at other values, each computed from its q at its parents' new values.

        Latents drawn given these are drawn again, from the noise that they were drawn from; others are kept. ``times``:
        the K draws are repeated so often, as K · ``times``.
        """
        own, changed = {node.name: node for node in self.nodes}, set(values)

        def choose(name: str, q: Distribution) -> tuple[Tensor, Tensor | None]:
            node = own[name]
            if name in values:
                return values[name](q), None
            if changed.isdisjoint(node.parents):
                return _repeated(node.z, times), None if node.noise is None else _repeated(node.noise, times)
            changed.add(name)
            return node.drawn_by(q, times), None

        return self._with(choose)

    def at_states(self, name: str | None = None) -> tuple[Draw, Node]:
        """S·K draws: the K draws with a discrete latent at each of its S states; and that latent there.

        ``name``: of the latent; None for the only one that is discrete. Latents drawn given it are drawn again, from
        the same noise. Draws that differ in nothing else than this latent are not repeated. Raises ValueError for a
        continuous latent.
        """
        if name is None:
            finite = [node.name for node in self.nodes if isinstance(node.q, distributions.Discrete)]
            if len(finite) != 1:
                raise ValueError(f"this needs the name of one discrete latent; this draw has {len(finite)} of them.")
            name = finite[0]
        node = self.node(name)
        states = node.q.states()
        if states is None:
            raise ValueError(f"latent {name!r} is continuous, so it has no states that can be enumerated.")
        draws, rows = self.log_lik.shape if len(self.nodes) > 1 else (1, self.log_lik.shape[1])
        each = states.repeat_interleave(draws, 0).unsqueeze(1).expand(-1, rows, *states.shape[1:])
        there = self.redrawn({name: lambda _: each}, len(states))
        return there, there.node(name)

    def node(self, name: str) -> Node:
        """A latent by its name. Raises ValueError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise ValueError(f"no latent is named {name!r}; the latents are {', '.join(n.name for n in self.nodes)}.")

    def moved(self, latents: Mapping[str, Tensor]) -> Draw:
        """The same rows with some latents at these values ``[K, B, *E]``; those drawn given them are drawn again."""
        return self.redrawn({name: partial(_fixed, z) for name, z in latents.items()})

    def stopped(self) -> Draw:
        """The draw with the posterior's parameters stopped in log q (``Node.stopped``)."""
        return replace(self, nodes=tuple(node.stopped() for node in self.nodes))

    def only(self, name: str | None = None, detached: bool = False) -> Draw:
        """The same draw as the estimator of one latent sees it, evaluated anew: the others, or all, are ``given``.

        A gradient in the parameters of that latent's q flows through its draws alone and, where other latents' q read
        it, through theirs. Of these, one that cannot be differentiated through its draws is not given: its log q(z|x)
        is differentiated in the draws of its parents. ``detached``: no gradient flows through any draw.
        """
        if self.evaluate is None:
            raise ValueError(_NO_MODEL)
        own, live, scored = {node.name: node for node in self.nodes}, set[str](), set[str]()

        def choose(key: str, q: Distribution) -> tuple[Tensor, Tensor | None]:
            node = own[key]
            if detached or not (key == name or live.intersection(node.parents)):
                return node.z.detach(), node.noise
            if key != name and not node.path:
                scored.add(key)
                return node.z.detach(), node.noise
            if node.z.requires_grad:
                live.add(key)
            return node.drawn_by(q) if node.parents and node.path else node.z, node.noise

        given = frozenset(own) - {name}
        found = self.evaluate(choose, given=given)
        nodes = (replace(n, beta=own[n.name].beta, sampled=own[n.name].sampled) for n in found.nodes)
        kept = tuple(replace(n, given=n.given and n.name not in scored) for n in nodes)
        return replace(found, nodes=kept, evaluate=partial(self.evaluate, given=given))

    def sampled(self) -> Draw:
        """The draw without closed forms: objectives take KL and entropy from the draws."""
        return replace(self, nodes=tuple(replace(node, sampled=True) for node in self.nodes))

    def _with(self, choose: Choose) -> Draw:
        """The same rows at the latents that ``choose`` gives, under the same β."""
        if self.evaluate is None:
            raise ValueError(_NO_MODEL)
        there = self.evaluate(choose)
        pairs = zip(there.nodes, self.nodes, strict=True)
        nodes = tuple(replace(new, beta=own.beta, sampled=own.sampled, given=own.given) for new, own in pairs)
        return replace(there, nodes=nodes, evaluate=self.evaluate)


_NO_MODEL = "this draw cannot evaluate its model at other latents."


def over_draws(term: Tensor) -> Tensor:
    """The mean of a term over K draws, ``[B]``, from ``[K, B]`` or from ``[B]`` of a term that is alike in all."""
    return term.mean(0) if term.dim() == 2 else term


def tempered(draw: Draw, beta: Tensor | float | Mapping[str, Tensor]) -> Draw:
    """The same draw with log p(z), log q(z|x), KL and entropy multiplied by β (β-VAE, KL warm-up).

    ``beta``: of all latents, or by their names; 1 for those that are not named. With β ≠ 1 the result is a weighted
    objective, not a bound on log p(x). Higgins et al. 2017; Bowman et al. 2016.
    """
    each = beta if isinstance(beta, Mapping) else {node.name: beta for node in draw.nodes}
    nodes = (replace(n, beta=n.beta * each[n.name]) if n.name in each else n for n in draw.nodes)
    return replace(draw, nodes=tuple(nodes))


def of_terms(
    log_lik: Tensor,
    log_p: Tensor,
    log_q: Tensor,
    kl: Tensor | None = None,
    entropy: Tensor | None = None,
) -> Draw:
    """A draw of one latent with these terms and no others: ``[K, B]``; ``kl`` and ``entropy`` may be ``[B]``."""
    unknown = distributions.Normal(log_lik.new_zeros(()), log_lik.new_ones(()))  # never asked: all terms are given
    named = {"log_p": log_p, "log_q": log_q, "kl_per_dim": None, "kl": kl, "entropy": entropy}
    terms = {(name, True): term for name, term in named.items()}
    return Draw((Node("z", torch.zeros_like(log_lik), unknown, unknown, terms=terms),), log_lik)


def in_groups(draw: Draw, groups: int) -> Draw:
    """The terms of K draws as those of K/``groups``: ``[K/M, M·B]``, the first B rows those of the first group."""
    draws, rows = draw.log_lik.shape
    if draws % groups:
        raise ValueError(f"{draws} draws cannot be divided into {groups} groups of the same size.")

    def folded(term: Tensor) -> Tensor:
        return term.view(groups, draws // groups, rows).transpose(0, 1).reshape(draws // groups, groups * rows)

    def closed(term: Tensor | None) -> Tensor | None:
        if term is None:
            return None
        return term.expand(groups, rows).flatten() if term.dim() == 1 else folded(term.expand(draws, rows))

    log_terms = folded(draw.log_lik), folded(draw.log_prior), folded(draw.log_q)
    return of_terms(*log_terms, closed(draw.kl), closed(draw.entropy))


def _fixed(value: Tensor, _: Distribution) -> Tensor:
    return value


def _repeated(value: Tensor, times: int) -> Tensor:
    return value if times == 1 else value.repeat(times, *[1] * (value.dim() - 1))


def _total(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _total_or_none(terms: list[Tensor | None]) -> Tensor | None:
    known = [term for term in terms if term is not None]
    return _total(known) if len(known) == len(terms) else None
