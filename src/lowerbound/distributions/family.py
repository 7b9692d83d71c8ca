"""The interface of families of distributions."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

from lowerbound.distributions.detaching import detached_fields

Domain = Literal[
    "real numbers",
    "positive numbers",
    "numbers from 0 to 1",
    "zeros and ones",
    "one-hot classes",
    "proportions that sum to 1",
    "unit vectors",
]
WITHIN: Mapping[Domain, tuple[Domain, ...]] = {
    "positive numbers": ("real numbers",),
    "numbers from 0 to 1": ("positive numbers", "real numbers"),
}
"""For a domain, the larger domains that contain it and have the same base measure."""
Reparameterisation = Literal["location-scale", "inverse CDF", "composition", "implicit"]


class Family(NamedTuple):
    """The properties of a latent's distribution that do not depend on its parameters."""

    name: str
    unconstrained: bool
    """Whether it has a density at every real z that is smooth enough for Hamiltonian Monte Carlo."""
    differentiable: bool
    """Whether its draws are differentiable with respect to its parameters."""


class Distribution(ABC):
    """A distribution of a latent ``z [*E]``: one per row of a batch (a posterior), or one for all rows (a prior).

    To write your own: make a frozen dataclass whose fields are the parameters, and define ``noise``, ``sample`` and
    ``log_prob``. ``batch_dims`` is the number of leading dimensions of the parameters: 1 for a posterior (``[B, *P]``),
    0 for a prior (``[*P]``), 2 for a latent with parents (``[K, B, *P]``). The formulas must broadcast over them.
    Methods that need a closed form return None if there is none.
    """

    reparameterisation: ClassVar[Reparameterisation | None] = None
    """How ``sample`` is differentiable with respect to the parameters; None if it is not."""
    domain: ClassVar[Domain | None] = None
    """The domain of its values; None if unknown."""
    unconstrained: ClassVar[bool] = False
    """Whether it has a density at every real z that is smooth enough for Hamiltonian Monte Carlo."""
    has_states: ClassVar[bool] = False
    """Whether a part of z is a function of the parameters and of the rest of z, such as the units of a network."""
    batch_dims: int

    @staticmethod
    @abstractmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Draw the noise ``[*lead, …]`` that ``sample`` needs for values of shape ``lead + event``.

        It must not depend on the parameters.
        """

    @abstractmethod
    def sample(self, noise: Tensor) -> Tensor:
        """Draw z ``[K, B, *E]`` from ``noise [K, B, …]``."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log-density (or log-probability) of ``z [K, B, *E]``, ``[K, B]``."""

    def log_prob_of_sample(self, z: Tensor, noise: Tensor) -> Tensor:
        """``log_prob(z)`` for z = ``sample(noise)``. Flows compute it from the noise, which is cheaper."""
        return self.log_prob(z)

    def log_prob_per_dim(self, z: Tensor) -> Tensor | None:
        """The terms ``[K, B, *E]`` that ``log_prob`` sums; None if the dimensions of z are not independent."""
        return None

    def log_prob_of_each(self, z: Tensor) -> Tensor:
        """log-density of each of ``z [N, *E]`` under each row's distribution, ``[N, B]``; for a prior, ``[N, 1]``."""
        return self.log_prob(z.unsqueeze(1))

    def entropy(self) -> Tensor | None:
        """−E[log q] in nats, ``[B]``."""
        return None

    def mean(self) -> Tensor | None:
        """E[z], ``[B, *E]``."""
        return None

    def covariance(self) -> Tensor | None:
        """Cov[z] of a vector in double precision, ``[B, d, d]``; None where there is no closed form."""
        return None

    def states(self) -> Tensor | None:
        """All S values of a discrete z, ``[S, *E]``; None if z is continuous. Raises ValueError if S is too large."""
        return None

    def nodes(self) -> Mapping[str, Distribution]:
        """The distribution of each latent by name."""
        return {"z": self}

    def families(self) -> Mapping[str, Family]:
        """The family of each of its latents, by name."""
        return {"z": Family(type(self).__name__, self.unconstrained, self.reparameterisation is not None)}

    def draw(self, noise: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Draw each latent of ``nodes``: z and the noise from which it was drawn, by name."""
        return {"z": (self.sample(noise), noise)}

    def join(self, latents: Mapping[str, Tensor]) -> Tensor:
        """z of all latents together, from the z of each by name."""
        return latents["z"]

    def stopped(self) -> Self:
        """A copy through which no gradient flows to the distribution's parameters or to those of its networks."""
        return dataclasses.replace(self, **detached_fields(self))  # type: ignore[type-var]

    def take(self, index: Tensor) -> Self:
        """The distributions of the rows ``index``."""
        taken = {name: value.index_select(self.batch_dims - 1, index) for name, value in self._tensors().items()}
        return dataclasses.replace(self, **taken)  # type: ignore[type-var]

    def by_draw(self, draws: int, rows: int) -> Self:
        """Reshape parameters ``[K·B, *P]`` to ``[K, B, *P]``, for K = ``draws`` and B = ``rows``."""
        if self.batch_dims != 1:
            return self
        lead = {name: value.unflatten(0, (draws, rows)) for name, value in self._tensors().items()}
        own = {
            name: value.by_draw(draws, rows) for name, value in vars(self).items() if isinstance(value, Distribution)
        }
        return dataclasses.replace(self, **lead, **own, batch_dims=2)  # type: ignore[type-var]

    def score(self, z: Tensor) -> Tensor:
        """∂ log q(z) / ∂ parameters for each draw of ``z [K, B, *E]``: ``[K, B, P]``."""
        with torch.enable_grad():
            own = {
                name: value.detach().expand(len(z), *value.shape[self.batch_dims - 1 :]).clone().requires_grad_()
                for name, value in self._tensors().items()
            }
            log_prob = dataclasses.replace(self, **own).log_prob(z.detach())  # type: ignore[type-var]
            found = torch.autograd.grad(log_prob.sum(), list(own.values()))
        return torch.cat([gradient.reshape(*z.shape[:2], -1) for gradient in found], 2)

    def _tensors(self) -> dict[str, Tensor]:
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {field.name: getattr(self, field.name) for field in fields}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def a_distribution(what: str, found: object) -> Distribution:
    """Return ``found`` if it is a ``Distribution``. Raises TypeError, which names its origin ``what``, otherwise."""
    if isinstance(found, Distribution):
        return found
    kind = type(found)
    raise TypeError(
        f"{what} returned a {kind.__module__}.{kind.__name__}; return one of lowerbound.distributions, such as "
        "Normal(loc, scale), or a Distribution of your own."
    )


def uniform(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Uniform values strictly inside (0, 1)."""
    tiny = torch.finfo(dtype).eps / 2
    values = torch.rand(shape, generator=generator, device=generator.device, dtype=dtype)
    return values.clamp(tiny, 1 - tiny)


def standard_normal(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Standard normal values."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
