"""RELAX: the score function with a control variate that is learned by minimising the variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound.distributions import Discrete
from lowerbound.draw import Draw
from lowerbound.gradients.base import Objective, Traits, needs_mean, only_node, per_draw
from lowerbound.shapes import expect


class Relax(nn.Module):
    """``rebar`` with a learned term: [f(z) − c(z̃)] ∂log q(z) + ∂c(soft) − ∂c(z̃), c = f + r_ψ; unbiased for any r_ψ.

    ``network``: r_ψ, ``[N, *E] → [N, 1]``. soft is the relaxation of z, and z̃ a relaxation drawn given z. ψ minimises
    the variance of g, the estimated gradient with respect to the logits of q: its gradient in ψ equals that of E|g|².
    With r = 0 this is ``rebar``. Grathwohl et al. 2018.
    """

    traits = Traits(detached=True)

    def __init__(self, network: nn.Module, temperature: float = 0.5) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, draw: Draw, objective: Objective) -> Tensor:
        needs_mean("Relax", objective)
        node = only_node("Relax", draw)
        q, noise = node.q, node.noise
        if not isinstance(q, Discrete) or noise is None:
            raise ValueError(
                f"Relax needs a Bernoulli or Categorical latent, but {node.name!r} is a {type(q).__name__}; use "
                "another gradient estimator."
            )
        soft, given = q.relaxed(noise, self.temperature), q.relaxed_given(node.z, noise, self.temperature)
        f = per_draw(draw, objective)
        f_soft, f_given = (per_draw(draw.moved({node.name: each}), objective) for each in (soft, given))
        fixed = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        at_soft, at_given = f_soft + self._rest(soft, fixed), f_given + self._rest(given, fixed)
        surrogate = ((f - at_given).detach() * node.log_density + f + at_soft - at_given).mean(0)
        signal = (f - f_given).detach() - self._rest(given)
        (score,) = torch.autograd.grad(node.log_density, q.logits, signal, create_graph=True)
        (path,) = torch.autograd.grad((f_soft - f_given).sum(), q.logits, retain_graph=True)
        rest = (self._rest(soft) - self._rest(given)).sum()
        (path_of_rest,) = torch.autograd.grad(rest, q.logits, create_graph=True)
        return surrogate + self._descent((score + path.detach() + path_of_rest) / len(f))

    def _rest(self, z: Tensor, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """r(z) ``[K, B]``, with the network's own or the given parameters."""
        flat = z.flatten(0, 1)
        out: Tensor = (
            self.network(flat) if parameters is None else torch.func.functional_call(self.network, parameters, flat)
        )
        expect("the network of Relax", out, (len(flat), 1), "[N, 1]")
        return out.view(z.shape[:2])

    def _descent(self, gradient: Tensor) -> Tensor:
        """Zeros ``[B]`` whose only gradient is with respect to ψ, equal to that of each row's −|g|²."""
        squares = gradient.square().flatten(1).sum(1)
        learned = list(self.network.parameters())
        found = torch.autograd.grad(squares.mean(), learned, retain_graph=True)
        value = torch.stack([(p * g.detach()).sum() for p, g in zip(learned, found, strict=True)]).sum()
        return (value.detach() - value).expand(len(squares))
