"""The latents of an estimator with classes: a categorical y, and z given y, in posterior and prior."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lowerbound import posteriors, priors
from lowerbound.estimators.defaults import build_prior
from lowerbound.nn import MLP
from lowerbound.posteriors import Posterior
from lowerbound.priors import Prior
from lowerbound.storage.registry import find

_FEATURES = 128  # numbers of each row that q(y|x) and q(z|x, y) read, where there are no hidden layers


@dataclass(frozen=True)
class WithClasses:
    """Makes q(y, z|x) = q(y|x) q(z|x, y): ``make`` gives the posterior of z, and y is one of ``classes``.

    The encoder gives each row features, as many as its last hidden layer has units; q(y|x) and q(z|x, y) read these by
    a layer of the same size each, or by linear functions if there are no ``hidden`` layers.
    """

    make: Callable[..., Posterior]
    classes: int
    hidden: Sequence[int]
    activation: type[nn.Module]

    def __call__(self, latent_dim: int, encoder: nn.Module) -> posteriors.Latents:
        last = tuple(self.hidden)[-1:]
        features = last[0] if last else _FEATURES
        like = self.make(latent_dim, encoder=nn.Identity())
        network = MLP((features,), (like.n_outputs,), last, self.activation, context=self.classes)
        z = self.make(latent_dim, encoder=network)
        y = posteriors.Categorical(1, self.classes, MLP((features,), (self.classes,), last, self.activation))
        return posteriors.Latents({"y": y, "z": z}, encoder, {"z": ["y"]}, features)


def is_conditional(prior: str | Prior | None) -> bool:
    """Whether a prior, by name or itself, is p(z|context): with classes it is p(z|y), and the decoder reads z alone."""
    part: Any = find("priors", prior) if isinstance(prior, str) else prior
    return part is not None and bool(part.needs_context)


def prior_for(
    prior: str | Prior | None, posterior: Posterior, shape: tuple[int, ...], context: int | None, classes: bool
) -> Prior:
    """``build_prior``; with ``classes``, p(y) p(z) or, for a conditional ``prior`` of z, p(y) p(z|y)."""
    if not classes or isinstance(prior, priors.Latents):
        return build_prior(prior, posterior, shape, context)
    assert isinstance(posterior, posteriors.Latents)
    parts, depends = posterior.parts, is_conditional(prior)
    _, n_classes = parts["y"].event
    z = copy.deepcopy(prior) if isinstance(prior, Prior) else build_prior(prior, parts["z"], shape, n_classes)
    return priors.Latents({"y": priors.Categorical(1, n_classes), "z": z}, {"z": ["y"]} if depends else {})
