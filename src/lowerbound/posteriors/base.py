"""The interface of approximate posteriors q(z|x)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lowerbound.distributions import Distribution, Randomness
from lowerbound.nn import apply
from lowerbound.shapes import explained


class Posterior(nn.Module, ABC):
    """q(z|x), amortised: ``encoder`` gives each row ``n_outputs`` numbers, ``distribution`` reads them.

    To write one: the class of its ``family``, the ``event`` shape of z, ``n_outputs`` and ``distribution``. Any
    ``nn.Module`` of shape ``[B, *X] → [B, n_outputs]`` can be the encoder. Unobserved values reach it as 0.
    """

    family: type[Distribution]
    needs_model = False
    """Whether q(z|x) is made with the model: ``forward`` is then given it, too."""

    def __init__(self, latent_dim: int, encoder: nn.Module) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = encoder

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of z."""
        return (self.latent_dim,)

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Numbers that the encoder gives each row."""

    @property
    def family_name(self) -> str:
        """What reports call its family."""
        return type(self).__name__

    @property
    def amortised(self) -> Posterior:
        """The posterior whose encoder gives q(z|x), or from which a search for it starts: itself, or what it wraps."""
        return self

    @property
    def how(self) -> str:
        """How q(z|x) is found, in words."""
        return "amortised by an encoder"

    @property
    def unconstrained(self) -> bool:
        """Whether each of its latents has a density at every real z, smooth enough for Hamiltonian paths."""
        return self.family.unconstrained

    def outputs_of(self, loc: Tensor, covariance: Tensor, rng: Randomness) -> Tensor:
        """Outputs ``[B, n_outputs]`` of this mean ``[B, d]`` and these variances, for a search of the best ones."""
        raise ValueError(f"no {type(self).__name__} can start from a mean and a covariance: leave it out of richer.")

    def output_units(self, scale: Tensor) -> Tensor:
        """The change of each output ``[B, n_outputs]`` that moves q by about one deviation, ``scale [B, d]``; or 1."""
        return scale.new_ones(len(scale), self.n_outputs)

    @property
    def paths(self) -> tuple[bool, ...]:
        """Whether gradients flow through the draws, for each of its latents."""
        return (self.family.reparameterisation is not None,)

    @property
    def merges(self) -> bool:
        """Whether it is made with its prior, by ``merge``, as in a ladder."""
        return type(self).merge is not Posterior.merge

    @abstractmethod
    def distribution(self, out: Tensor) -> Distribution:
        """The distributions of a batch's latents, from ``out [B, n_outputs]``."""

    def outputs(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """The encoder's outputs for a batch of rows, ``[B, n_outputs]``, given their context."""
        out = self.encoded(x, mask, context)
        if not isinstance(out, Tensor) or out.shape[:1] != x.shape[:1]:
            what = list(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise ValueError(
                f"the encoder must give one tensor [{len(x)}, {self.n_outputs}], the {self.n_outputs} numbers of each "
                f"row that {type(self).__name__} reads; it gave {what}."
            )
        if out.shape[1:] != (self.n_outputs,):
            raise ValueError(
                f"the encoder gave a row {tuple(out.shape[1:])} numbers, but {type(self).__name__} over "
                f"{self.latent_dim} latents needs ({self.n_outputs},)."
            )
        return out

    def encoded(self, x: Tensor, mask: Tensor | None, context: Tensor | None) -> Tensor:
        """The encoder's outputs, of any shape."""
        if mask is not None:
            x = torch.where(mask, x, 0)
        with explained("the encoder", x):
            return apply(self.encoder, x, context, mask)

    def merge(self, q: Distribution, p: Distribution) -> Distribution:
        """The posterior made of q, which the encoder gave, and the prior p: q itself, unless a class has its own."""
        return q

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        """The distributions of a batch's latents."""
        return self.distribution(self.outputs(x, mask, context))

    def noise(self, draws: int, rows: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Draw the noise for K draws of each row's latent, ``[K, B, …]``."""
        return self.family.noise((draws, rows), self.event, generator, dtype)
