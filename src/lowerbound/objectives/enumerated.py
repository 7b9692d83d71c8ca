"""Bounds in which the expectation over a discrete latent is a sum over its states."""

from __future__ import annotations

from torch import Tensor

from lowerbound.draw import Draw, Node
from lowerbound.objectives.base import lower_bound, sums_states


@sums_states
@lower_bound
def elbo_enumerated(draw: Draw, latent: str | None = None) -> Tensor:
    """The ELBO with E_q(y) of a discrete latent y as a sum, Σ_y q(y|x) [log p(y) − log q(y|x) + ELBO of the rest at y].

    ``latent``: the name of y; None for the only discrete latent. Of the rest, the KL of a latent is in closed form
    where there is one, else log q − log p of its draws. Where the class of a row was observed (``Batch.labels``), q(y)
    has all its probability there, and this is a bound on log p(x, y). The gradient uses reparameterisation for the
    other latents. Kingma, Mohamed, Rezende & Welling 2014, eq. 6 and 7.
    """
    there, y = draw.at_states(latent)
    value = there.log_lik + y.log_p - y.log_q
    for node in there.nodes:
        if node.name != y.name:
            value = value - _divergence(node)
    draws = len(draw.log_lik) if len(draw.nodes) > 1 else 1
    return (y.log_density.exp() * value).sum(0) / draws


def _divergence(node: Node) -> Tensor:
    """KL(q ‖ p) in closed form, or else log q − log p of each draw."""
    return node.log_q - node.log_p if node.kl is None else node.kl
