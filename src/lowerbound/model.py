"""The model p(x, z) = p(z) p(x|z), and a draw of its latents from an approximate posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowerbound import posteriors, priors
from lowerbound.distributions import Distribution, a_distribution
from lowerbound.distributions.family import WITHIN, Domain
from lowerbound.draw import Batch, Draw, Node
from lowerbound.likelihoods import Likelihood
from lowerbound.modes import in_eval_mode, read_only
from lowerbound.nn import apply
from lowerbound.posteriors import Posterior
from lowerbound.priors import Encode, Prior
from lowerbound.shapes import expect, explained

__all__ = ["LatentVariableModel", "check_domains", "check_latents", "draw"]


class LatentVariableModel(nn.Module):
    """p(z) by ``prior``, p(x|z) by ``likelihood`` with the parameters that ``decoder`` computes from z.

    ``decoder``: ``[N, *E] → [N, P, *X]`` with P the likelihood's parameters per value (``[N, *X]`` where P = 1).
    Any ``nn.Module`` of that shape can be the decoder.
    """

    def __init__(self, prior: Prior, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The likelihood's parameters ``[K, B, P, *X]`` at ``z [K, B, *E]``."""
        if context is not None:
            context = context.expand(len(z), *context.shape).flatten(0, 1)
        flat, parameters = z.flatten(0, 1), self.likelihood.n_parameters
        with explained("the decoder", flat):
            out = apply(self.decoder, flat, context)
        if not isinstance(out, Tensor) or len(out) != len(flat):
            each = "[N, *X]" if parameters == 1 else f"[N, {parameters}, *X]"
            what = list(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise ValueError(f"the decoder must give a tensor {each} of N = {len(flat)} latents; it gave {what}.")
        if parameters == 1:
            out = out.unsqueeze(1)
        elif out.dim() < 2 or out.shape[1] != parameters:
            raise ValueError(
                f"{type(self.likelihood).__name__} has {parameters} parameters per value, so the decoder must give "
                f"each row [{parameters}, *X]; it gave {list(out.shape[1:])}."
            )
        params: Tensor = out.unflatten(0, z.shape[:2])
        return params

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
        """``decode``, of parameters for each value of ``x``."""
        params = self.decode(z, context)
        if params.shape[3:] != x.shape[1:]:
            each = "" if self.likelihood.n_parameters == 1 else f"{self.likelihood.n_parameters}, "
            shape, due = (", ".join(map(str, sizes)) for sizes in (params.shape[3:], x.shape[1:]))
            raise ValueError(
                f"the decoder gave each row [{each}{shape}], where [{each}{due}] is expected: the rows are [{due}]."
            )
        return params

    def log_joint(
        self,
        z: Tensor,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        encode: Encode | None = None,
    ) -> Tensor:
        """log p(x, z) ``[K, B]``; ``encode``: the posterior, for a prior that is made of it."""
        log_prior = a_distribution("the prior", self.prior(context, encode)).log_prob(z)
        expect("log_prob of the prior", log_prior, z.shape[:2], "[K, B]")
        return self.log_lik(z, x, mask, context) + log_prior

    @in_eval_mode
    def sample(
        self, n: int, generator: torch.Generator, context: Tensor | None = None, encode: Encode | None = None
    ) -> Tensor:
        """``n`` rows from p(x), ``[n, *X]``, one for each row of ``context`` if there is one."""
        z = self.prior.sample(n, generator, context, encode)
        return self.likelihood.sample(self.decode(z.unsqueeze(0), context), generator).squeeze(0)

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
    """Refuse a prior whose latents are not those of ``posterior``: other names, other shapes, or values it has not."""
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


def check_domains(domain: Domain | None, its_domain: Domain | None, posterior: str, prior: str, at: str = "") -> None:
    """Refuse a prior, by name, that has not the values of a posterior; what is None is not known."""
    if domain and its_domain and its_domain not in (domain, *WITHIN.get(domain, ())):
        raise ValueError(
            f"{at}the posterior {posterior} is of {domain} and the prior {prior} of {its_domain}; choose a prior of "
            "the same values, or leave it out for the one that suits."
        )


def _latents(part: Prior | Posterior) -> dict[str, tuple[tuple[int, ...], Domain | None]]:
    """Shape and domain of each latent by its name; of one that has none, by \"z\"."""
    if isinstance(part, priors.Joint | posteriors.Joint):
        parts: Sequence[Prior | Posterior] = part.parts
        return {name: _latents(each)["z"] for name, each in zip(part.names, parts, strict=True)}
    return {"z": (tuple(part.event), None if part.family is None else part.family.domain)}


def draw(
    model: LatentVariableModel,
    posterior: Posterior,
    batch: Batch,
    noise: Tensor | torch.Generator,
    K: int = 1,
    detached: bool = False,
) -> Draw:
    """``K`` draws of each row's latent from q(z|x), with all that an objective may ask of them.

    ``noise``: what ``posterior.noise`` gives, ``[K, B, …]`` or broadcastable to it, or a generator to draw it
    from (then ``K`` says how many). ``detached``: draws through which no gradient flows, as score functions need them.
    """
    if isinstance(noise, torch.Generator):
        noise = posterior.noise(K, len(batch.x), noise, batch.x.dtype)
    q = a_distribution("the posterior", posterior(batch.x, batch.mask, batch.context))
    p = a_distribution("the prior", model.prior(batch.context, posterior))
    if q.nodes().keys() != p.nodes().keys():
        ours, theirs = (", ".join(each.nodes()) for each in (q, p))
        raise ValueError(f"the posterior is of the latents {ours} and the prior of {theirs}; name them alike.")
    latents, noises = {}, {}
    for name, (z, own) in q.draw(noise).items():
        path = not detached and q.nodes()[name].reparameterisation is not None
        latents[name], noises[name] = z if path else z.detach(), own
    return _Rows(model, batch, q, p).draw(latents, noises)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a batch under a model, to be evaluated at any latents. A draw refers to it, and it to no draw: a
    cycle would keep a step's graph until the garbage collector comes by."""

    model: LatentVariableModel
    batch: Batch
    q: Distribution
    p: Distribution

    def draw(self, latents: Mapping[str, Tensor], noise: Mapping[str, Tensor]) -> Draw:
        x, mask = self.batch.x, self.batch.mask
        log_lik = self.model.log_lik(self.q.join(latents), x, mask, self.batch.context)
        p = self.p.nodes()
        nodes = tuple(Node(name, latents[name], q, p[name], noise.get(name)) for name, q in self.q.nodes().items())
        return Draw(nodes, log_lik, self.at, x if mask is None else torch.where(mask, x, 0))

    def at(self, latents: Mapping[str, Tensor]) -> Draw:
        return self.draw(latents, {})
