"""The model p(x, z) = p(z) p(x|z), and draws of its latents from an approximate posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from lowerbound import posteriors, priors
from lowerbound.distributions import Categorical, Distribution, Latents, Steps, a_distribution, observed
from lowerbound.distributions.family import WITHIN, Domain, standard_normal
from lowerbound.distributions.latents import Conditional, Merged, conditionals, descendants, order, parents_first, split
from lowerbound.draw import Batch, Choose, Draw, Node
from lowerbound.likelihoods import Likelihood
from lowerbound.modes import in_eval_mode, read_only
from lowerbound.nn import apply
from lowerbound.posteriors import Posterior
from lowerbound.priors import Prior
from lowerbound.shapes import expect, explained

__all__ = ["LatentVariableModel", "check_domains", "check_latents", "draw"]


class Model(nn.Module):
    """A model of rows that ``fit`` can learn: a ``LatentVariableModel`` or a topic model."""

    likelihood: Likelihood
    sparse: bool = False  # whether the batches of ``Counts`` are to be sparse


class LatentVariableModel(Model):
    """p(z) by ``prior``, p(x|z) by ``likelihood`` with the parameters that ``decoder`` computes from z.

    ``decoder``: ``[N, *E] → [N, P, *X]`` with P the likelihood's parameters per value (``[N, *X]`` where P = 1).
    Any ``nn.Module`` of that shape can be the decoder. It reads all latents of ``priors.Latents``, flattened and joined
    end to end, or those named by ``parents`` alone, in that order.
    """

    def __init__(
        self, prior: Prior, decoder: nn.Module, likelihood: Likelihood, parents: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.parents = None if parents is None else tuple(parents)
        if self.parents is not None:
            there = prior.parts if isinstance(prior, priors.Latents) else ("z",)
            if not self.parents or not set(self.parents) <= set(there):
                raise ValueError(
                    f"parents= of the decoder is {', '.join(self.parents) or 'empty'}, and the prior's latents are "
                    f"{', '.join(there)}."
                )

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The likelihood's parameters ``[K, B, P, *X]`` at ``z [K, B, *E]`` of all latents."""
        out, parameters, rows = self._decoded(z, context), self.likelihood.n_parameters, z.shape[0] * z.shape[1]
        if not isinstance(out, Tensor) or len(out) != rows:
            each = "[N, *X]" if parameters == 1 else f"[N, {parameters}, *X]"
            what = list(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise ValueError(f"the decoder must give a tensor {each} of N = {rows} latents; it gave {what}.")
        if parameters == 1:
            out = out.unsqueeze(1)
        elif out.dim() < 2 or out.shape[1] != parameters:
            raise ValueError(
                f"{type(self.likelihood).__name__} has {parameters} parameters per value, so the decoder must give "
                f"each row [{parameters}, *X]; it gave {list(out.shape[1:])}."
            )
        params: Tensor = out.unflatten(0, z.shape[:2])
        return params

    def _decoded(self, z: Tensor, context: Tensor | None, outputs: Tensor | None = None) -> Tensor:
        """The decoder's results for ``z [K, B, *E]``, ``[K · B, …]``; with ``outputs``, those at these places alone."""
        if self.parents is not None and isinstance(self.prior, priors.Latents):
            latents = split(z, self.prior.events)
            z = torch.cat([latents[name].flatten(2) for name in self.parents], -1)
        if context is not None:
            context = context.expand(len(z), *context.shape).flatten(0, 1)
        flat = z.flatten(0, 1)
        with explained("the decoder", flat):
            return apply(self.decoder, flat, context, outputs=outputs)

    def log_lik(self, z: Tensor, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """log p(x|z) ``[K, B]`` of ``x [B, *X]`` at ``z [K, B, *E]``, over observed values."""
        log_lik = self.likelihood.log_prob(self._params(z, x, context), x, mask)
        expect(f"log_prob of {type(self.likelihood).__name__}", log_lik, z.shape[:2], "[K, B]")
        return log_lik

    def slope(self, z: Tensor, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """∂ log p(x|z)/∂z ``[K, B, *E]``: the likelihood's own ``slope``, pulled back through the decoder."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            params = self._params(z, x, context)
            (found,) = torch.autograd.grad(params, z, self.likelihood.slope(params, x, mask), allow_unused=True)
        return torch.zeros_like(z) if found is None else found

    def _params(self, z: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        """``decode`` for each value of ``x``, or ``[K, B, n, 1]``, only the parameters that the likelihood uses."""
        used: Tensor | None = getattr(self.likelihood, "used", None)
        if used is not None and x.dim() == 2 and getattr(self.decoder, "selects", False):
            found: Tensor = self._decoded(z, context, used).unflatten(0, z.shape[:2])
            return found.unsqueeze(3)
        params = self.decode(z, context)
        if params.shape[3:] != x.shape[1:] and isinstance(self.likelihood, Likelihood):
            params = self.likelihood.fitted(params, x)
        if params.shape[3:] != x.shape[1:]:
            each = "" if self.likelihood.n_parameters == 1 else f"{self.likelihood.n_parameters}, "
            shape, due = (", ".join(map(str, sizes)) for sizes in (params.shape[3:], x.shape[1:]))
            raise ValueError(
                f"the decoder gave each row [{each}{shape}], where [{each}{due}] is expected: the rows are [{due}]."
            )
        return params

    def prior_given(
        self,
        context: Tensor | None = None,
        posterior: Posterior | None = None,
        rows: tuple[Tensor, Tensor | None] | None = None,
    ) -> Distribution:
        """p(z|context) of a batch; ``posterior``: for a prior that is made of it (``Prior.needs_posterior``);
        ``rows``, (x, mask): for one that reads them (``Prior.needs_rows``)."""
        inputs = (context, posterior) if self.prior.needs_posterior else (context,)
        more = {"rows": rows} if self.prior.needs_rows else {}
        return a_distribution("the prior", self.prior(*inputs, **more))

    def log_joint(
        self,
        z: Tensor,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        posterior: Posterior | None = None,
    ) -> Tensor:
        """log p(x, z) ``[K, B]``; ``posterior``: for a prior that is made of it."""
        log_prior = self.prior_given(context, posterior, (x, mask)).log_prob(z)
        expect("log_prob of the prior", log_prior, z.shape[:2], "[K, B]")
        return self.log_lik(z, x, mask, context) + log_prior

    @in_eval_mode
    def sample(
        self,
        n: int,
        generator: torch.Generator,
        context: Tensor | None = None,
        posterior: Posterior | None = None,
        labels: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """``n`` rows from p(x), ``[n, *X]``, one for each row of ``context`` if there is one.

        ``labels [n]``: classes of categorical latents by name, −1 to draw one; the rows are then from p(x|labels).
        """
        if self.prior.needs_rows:
            return self._unrolled(n, generator)
        z = self.sample_latents(n, generator, context, posterior, labels)
        return self.likelihood.sample(self.decode(z.unsqueeze(0), context), generator).squeeze(0)

    def _unrolled(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` rows step by step, where a step of z depends on the steps of x before it."""
        steps, width = self.prior.event
        like = next(self.prior.parameters())
        noise = standard_normal((1, n, steps, width), generator, like.dtype)
        z, x = torch.zeros_like(noise[:, :, 0]), list[Tensor]()
        for t in range(steps):
            p = self.prior_given(rows=(torch.stack(x, 1), None) if x else None)
            assert isinstance(p, Steps)
            z = p.step(z, noise[:, :, t], t)
            x.append(self.likelihood.sample(self.decode(z.unsqueeze(2)), generator)[0, :, 0])
        return torch.stack(x, 1)

    @in_eval_mode
    def sample_latents(
        self,
        n: int,
        generator: torch.Generator,
        context: Tensor | None = None,
        posterior: Posterior | None = None,
        labels: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """``n`` draws of the latents from p(z), ``[n, *E]``, one for each row of ``context`` if there is one.

        ``labels``: as in ``sample``; the latents must have no parents.
        """
        p = self.prior_given(context, posterior)
        return self.prior.draws(observed(p, labels, self.prior.event) if labels else p, n, generator)

    @read_only
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Start where p(x|z) is each value's own distribution in ``x [N, *X]``, whatever z.

        Sets what the likelihood learns or scales by, and the decoder's output bias where it has ``init_bias``; a prior
        may start from data too.
        """
        self.prior.initialise(x if mask is None else torch.where(mask, x, 0))
        bias = self.likelihood.initialise(x, mask)
        init_bias = getattr(self.decoder, "init_bias", None)
        if init_bias is not None:
            with explained("the decoder's init_bias", bias):
                init_bias(bias)


def check_latents(prior: Prior, posterior: Posterior) -> None:
    """Refuse a prior whose latents are not those of ``posterior``: other names, other shapes, or other values.

    Also refuses an order of the latents that has a cycle, where a posterior merges its prior.
    """
    posterior = posterior.amortised
    ours, theirs = _latents(posterior), _latents(prior)
    names = type(posterior).__name__, type(prior).__name__
    if ours.keys() != theirs.keys():
        raise ValueError(
            f"the posterior is of the latents {', '.join(ours)} and the prior of {', '.join(theirs)}; name them alike."
        )
    for name, (event, domain) in ours.items():
        at = f"latent {name!r} of " if len(ours) > 1 else ""
        its_event, its_domain = theirs[name]
        check_domains(domain, its_domain, *names, at)
        if event != its_event:
            raise ValueError(
                f"{at}the posterior {names[0]} has shape {list(event)} and of the prior {names[1]} {list(its_event)}; "
                "make them alike."
            )
    if isinstance(posterior, posteriors.Latents) and isinstance(prior, priors.Latents):
        parents_first(
            {
                name: (*posterior.parents.get(name, ()), *(prior.parents.get(name, ()) if part.merges else ()))
                for name, part in posterior.parts.items()
            }
        )


def check_labels(labels: Mapping[str, Tensor], posterior: Posterior) -> None:
    """Refuse labels ``[N]`` by the names of latents that are not of one categorical latent of ``posterior`` each."""
    posterior = posterior.amortised
    parts = posterior.parts if isinstance(posterior, posteriors.Latents) else {"z": posterior}
    for name, each in labels.items():
        if name not in parts:
            raise ValueError(f"labels= names {name!r}, which is not a latent; the latents are {', '.join(parts)}.")
        part = parts[name]
        if part.family is not Categorical or part.event[0] != 1:
            raise ValueError(
                f"labels= names latent {name!r}, a {type(part).__name__} of shape {list(part.event)}; only a "
                "Categorical of one variable can be observed, such as posteriors.Categorical(1, n_classes, …)."
            )
        if len(each) and int(each.max()) >= part.event[1]:
            raise ValueError(
                f"the label of row {int(each.argmax())} is {int(each.max())}, but latent {name!r} has "
                f"{part.event[1]} classes; number them from 0, and give −1 for no label."
            )


def check_domains(domain: Domain | None, its_domain: Domain | None, posterior: str, prior: str, at: str = "") -> None:
    """Refuse a prior, by name, that has not the values of a posterior; what is None is not known."""
    if domain and its_domain and its_domain not in (domain, *WITHIN.get(domain, ())):
        raise ValueError(
            f"{at}the posterior {posterior} is of {domain} and the prior {prior} of {its_domain}; choose a prior of "
            "the same values, or leave it out for the one that suits."
        )


def _latents(part: Prior | Posterior) -> dict[str, tuple[tuple[int, ...], Domain | None]]:
    """Shape and domain of each latent by its name; of one that has none, by \"z\"."""
    if isinstance(part, priors.Latents | posteriors.Latents):
        parts: Mapping[str, Prior | Posterior] = part.parts
        return {name: _latents(each)["z"] for name, each in parts.items()}
    return {"z": (tuple(part.event), None if part.family is None else part.family.domain)}


def distributions_of(
    model: LatentVariableModel,
    posterior: Posterior,
    x: Tensor,
    mask: Tensor | None = None,
    context: Tensor | None = None,
    labels: Mapping[str, Tensor] | None = None,
) -> tuple[Distribution, Distribution]:
    """q(z|x) and p(z) of a batch of rows, each of all latents as one flat vector.

    ``labels``: classes of latents that were observed in some rows (``Batch.labels``); q is certain of them there.

    The two are known together only: a prior may be made of the posterior (``Prior.needs_posterior``), and a posterior
    with its prior (``Posterior.merges``) or with the model (``Posterior.needs_model``).
    """
    inputs = (x, mask, context, model) if posterior.needs_model else (x, mask, context)
    q = a_distribution("the posterior", posterior(*inputs))
    if labels:
        q = observed(q, labels, posterior.event)
    p = model.prior_given(context, posterior, (x, mask))
    return with_prior(posterior, q, p), p


def with_prior(posterior: Posterior, q: Distribution, p: Distribution) -> Distribution:
    """A q(z|x) that ``posterior`` gave, with its latents joined in the order of p(z), and merged where it merges."""
    ours, theirs = conditionals(q, posterior.event), conditionals(p, posterior.event)
    if ours.keys() != theirs.keys():
        raise ValueError(
            f"the posterior is of the latents {', '.join(ours)} and the prior of {', '.join(theirs)}; name them alike."
        )
    parts = posterior.parts if isinstance(posterior, posteriors.Latents) else {"z": posterior}
    if isinstance(q, Latents):
        q = replace(q, names=tuple(theirs))  # z is joined in one order by both
    if not any(part.merges for part in parts.values()):
        return q
    merged = {n: Merged(own, theirs[n], parts[n].merge) if parts[n].merges else own for n, own in ours.items()}
    return replace(q, conditionals=merged) if isinstance(q, Latents) else merged["z"].given({})


def draw(
    model: LatentVariableModel,
    posterior: Posterior,
    batch: Batch,
    noise: Tensor | torch.Generator,
    K: int = 1,
    detached: bool = False,
) -> Draw:
    """Draw each row's latents ``K`` times from q(z|x), with all that an objective may ask of them.

    ``noise``: what ``posterior.noise`` gives, ``[K, B, …]`` or broadcastable to it, or a generator to draw it
    from, for ``K`` draws. ``detached``: draws through which no gradient flows, as score functions need them.
    """
    if isinstance(noise, torch.Generator):
        noise = posterior.noise(K, len(batch.x), noise, batch.x.dtype)
    q, p = distributions_of(model, posterior, batch.x, batch.mask, batch.context, batch.labels)
    return draw_from(q, p, model, batch, noise, detached)


def draw_from(
    q: Distribution, p: Distribution, model: LatentVariableModel, batch: Batch, noise: Tensor, detached: bool = False
) -> Draw:
    """``draw`` from any q of the rows of a batch, with their prior p; ``noise [K, B, …]``: of q."""
    ours, theirs = conditionals(q, model.prior.event), conditionals(p, model.prior.event)
    return _Rows(model, batch, ours, theirs)(_drawn(q, noise, detached))


def nodes_of(q: Distribution, p: Distribution, event: tuple[int, ...], noise: Tensor) -> tuple[Node, ...]:
    """The latents of ``draw_from``, of shape ``event`` together, without the likelihood: nothing is decoded."""
    return _nodes(conditionals(q, event), conditionals(p, event), _drawn(q, noise))


def _drawn(q: Distribution, noise: Tensor, detached: bool = False) -> Choose:
    """Each latent's own draw, by its part of the noise."""
    noises = q.noises(noise) if isinstance(q, Latents) else {"z": noise}

    def choose(name: str, q: Distribution) -> tuple[Tensor, Tensor | None]:
        z = q.sample(noises[name])
        return (z if not detached and q.reparameterisation is not None else z.detach()), noises[name]

    return choose


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a batch under a model, to be evaluated at any latents. A draw refers to it, and it to no draw: a
    cycle would keep a step's graph until the garbage collector comes by."""

    model: LatentVariableModel
    batch: Batch
    q: Mapping[str, Conditional]
    p: Mapping[str, Conditional]

    def __call__(self, choose: Choose, given: frozenset[str] = frozenset()) -> Draw:
        x, mask = self.batch.x, self.batch.mask
        nodes = _nodes(self.q, self.p, choose, given)
        z = {node.name: node.z for node in nodes}
        several = isinstance(self.model.prior, priors.Latents)
        joined = torch.cat([z[name].flatten(2) for name in self.p], -1) if several else z["z"]
        log_lik = self.model.log_lik(joined, x, mask, self.batch.context)
        return Draw(nodes, log_lik, self, x if mask is None else torch.where(mask, x, 0), self.model.parents)


def _nodes(
    q_of: Mapping[str, Conditional],
    p_of: Mapping[str, Conditional],
    choose: Choose,
    given: frozenset[str] = frozenset(),
) -> tuple[Node, ...]:
    """The latents where ``choose`` puts them, parents first, with their q and p."""
    q, p, z, noise, above = {}, dict[str, Distribution](), dict[str, Tensor](), {}, dict[str, Tensor]()
    read = {name for one in q_of.values() for name in one.parents}
    of = {name: one.stopped() if name in given else one for name, one in q_of.items()}
    for name in order(q_of):
        if isinstance(own := of[name], Merged) and name not in given:
            q[name], p[name] = own.both(above)
        else:
            q[name] = own.given(above)
        above[name], noise[name] = choose(name, q[name])
        # What log p, log q and the decoder see of a parent is another tensor than what its children are drawn from:
        # a hook on it meets the first kind of gradient only.
        z[name] = above[name].view_as(above[name]) if name in read else above[name]
    below = descendants(q_of)
    return tuple(
        Node(
            name,
            z[name],
            q[name],
            p[name] if name in p else p_of[name].given(z),
            noise[name],
            given=name in given,
            parents=one.parents,
            prior_parents=p_of[name].parents,
            closed=below[name].isdisjoint(p_of[name].parents),
            stopped_q=partial(_stopped, one, z) if one.parents else None,
            p_at_z=partial(p_of[name].given, z) if name in p else None,
        )
        for name, one in of.items()
    )


def _stopped(conditional: Conditional, latents: Mapping[str, Tensor]) -> Distribution:
    return conditional.stopped().given(latents)
