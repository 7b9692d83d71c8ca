"""Gradient estimators: a draw and an objective → a surrogate ``[B]`` whose gradient estimates the objective's."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lowerbound.draw import Draw

Objective = Callable[[Draw], Tensor]
GradientEstimator = Callable[[Draw, Objective], Tensor]


def reparameterised(draw: Draw, objective: Objective) -> Tensor:
    """Differentiate through the draws: z = g_φ(ε, x), so that ∂/∂φ E_q[f] = E_ε[∂f(g_φ(ε, x))/∂φ].

    Needs every latent drawn by a reparameterisation. Kingma & Welling 2013, §2.4; Rezende et al. 2014.
    """
    for node in draw.nodes:
        if not node.reparameterised:
            raise ValueError(f"latent {node.name!r} has no reparameterisation: use another gradient estimator.")
    return objective(draw)
