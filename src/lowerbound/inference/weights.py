"""Distributions of a model's parameters θ: the prior p(θ), and q(θ) with its local reparameterisation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lowerbound import distributions, posteriors
from lowerbound.distributions import Distribution
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors.normal import raw

LogPrior = Callable[[Mapping[str, Tensor]], Tensor]
"""log p(θ) in nats, a scalar, as a function of the model's parameters by name."""
Family = Literal["diagonal", "full"]
_MOST = 4096  # parameters with a full covariance: its factor has the square of that


@dataclass(frozen=True)
class NormalWeights:
    """log N(θ; 0, scale² I): a normal prior of all parameters, independent of each other."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale of NormalWeights must be above 0, got {self.scale}.")

    def __call__(self, parameters: Mapping[str, Tensor]) -> Tensor:
        theta = torch.cat([parameter.flatten() for parameter in parameters.values()])
        return self.distribution(theta).log_prob(theta.view(1, 1, -1)).squeeze()

    def distribution(self, like: Tensor) -> distributions.Normal:
        """p(θ) of as many parameters as ``like [P]`` has values."""
        return distributions.Normal(torch.zeros_like(like), torch.full_like(like, self.scale), batch_dims=0)


def described(log_prior: LogPrior) -> str:
    """A prior in words, for what must not change when a fit resumes."""
    return (
        repr(log_prior) if dataclasses.is_dataclass(log_prior) else str(getattr(log_prior, "__qualname__", log_prior))
    )


def learned(model: nn.Module, of: Sequence[str] = ("",)) -> dict[str, Tensor]:
    """The trainable parameters whose names begin with one of ``of``."""
    begins = tuple(of)
    return {name: p for name, p in model.named_parameters() if p.requires_grad and name.startswith(begins)}


class WeightPosterior(nn.Module):
    """q(θ) = N(θ; m, S) of a model's parameters. Their means m are the parameters of the model itself.

    ``family``: "diagonal" (S is diagonal), or "full" (of P parameters P (P + 1)/2 numbers). ``scale``: the standard
    deviations at the start. ``of``: the beginnings of the names of the parameters that q is of, such as "decoder."; the
    default is all that are trained.
    """

    def __init__(
        self, model: LatentVariableModel, family: Family = "diagonal", scale: float = 0.05, of: Sequence[str] = ("",)
    ) -> None:
        super().__init__()
        if family not in get_args(Family):
            raise ValueError(f'family is {family!r}; it takes "diagonal" or "full".')
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}.")
        self.of = (of,) if isinstance(of, str) else tuple(of)
        named = learned(model, self.of)
        if not named:
            raise ValueError(f"of is {', '.join(self.of)}, and no trained parameter of the model has such a name.")
        self.kind, self.shapes = family, {name: value.shape for name, value in named.items()}
        size = sum(value.numel() for value in named.values())
        if family == "full" and size > _MOST:
            raise ValueError(f'the model has {size} parameters, and "full" takes {_MOST} at most; give "diagonal".')
        make = posteriors.DiagonalNormal if family == "diagonal" else posteriors.FullNormal
        self.family: posteriors.Posterior = make(size, nn.Identity())  # used without an encoder
        like = next(iter(named.values())).detach()
        start = like.new_zeros(self.family.n_outputs - size)
        start[:size] = raw(torch.tensor(float(scale))).to(like)
        self.spread = nn.Parameter(start)

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return self.family.latent_dim

    def forward(self, model: LatentVariableModel) -> Distribution:
        """q(θ), as the distribution of one row of P values."""
        means = torch.cat([value.flatten() for value in learned(model, self.of).values()])
        return self.family.distribution(torch.cat([means, self.spread]).unsqueeze(0))

    def noise(self, draws: int, generator: torch.Generator) -> Tensor:
        """The noise of ``draws`` draws of θ, ``[M, 1, P]``."""
        return self.family.noise(draws, 1, generator, self.spread.dtype)

    def by_name(self, values: Tensor) -> dict[str, Tensor]:
        """Split ``values [P]`` into one tensor per parameter, by its name."""
        parts = values.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    @torch.no_grad()
    def sample(self, model: LatentVariableModel, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw θ from q, by name: for ``torch.func.functional_call``, or ``load_state_dict`` with strict=False."""
        return self.by_name(self(model).sample(self.noise(1, generator)).flatten())


def local_layers(model: LatentVariableModel, weights: WeightPosterior) -> dict[str, nn.Linear]:
    """The linear layers of the decoder, by name, whose weights q has and nothing else uses; none if q is not diagonal.

    Only the decoder's: it maps each row's latents by themselves.
    """
    if weights.kind != "diagonal":
        return {}
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return {
        f"decoder.{name}": layer
        for name, layer in model.decoder.named_modules()
        if type(layer) is nn.Linear
        and f"decoder.{name}.weight" in weights.shapes
        and all(uses[id(parameter)] == 1 for parameter in layer.parameters())
    }


@contextlib.contextmanager
def locally_reparameterised(
    decoder: nn.Module, layers: Mapping[str, nn.Linear], scales: Mapping[str, Tensor]
) -> Iterator[None]:
    """Run the block with the outputs of linear ``layers`` drawn, for each row anew, instead of their weights.

    For θ ~ N(m, diag s²) an output is N(aᵀm, (a²)ᵀs²) given the inputs a. The layers hold the means m; ``scales``: s,
    by the name of the parameter. Draws are from torch's global generator. Kingma, Salimans & Welling 2015.
    """
    done: set[str] = set()

    def drawn(name: str, layer: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor:
        (a,) = inputs
        if name in done or a.dim() != 2:
            raise ValueError(
                f"the layer {name} does not map each row once, so its weights must be drawn once for all rows: give "
                "local=False."
            )
        done.add(name)
        variance: Tensor = a.square() @ scales[f"{name}.weight"].square().mT
        if f"{name}.bias" in scales:
            variance = variance + scales[f"{name}.bias"].square()
        return out + variance.clamp(min=torch.finfo(out.dtype).tiny).sqrt() * torch.randn_like(out)

    handles = [layer.register_forward_hook(partial(drawn, name)) for name, layer in layers.items()]
    handles.append(decoder.register_forward_pre_hook(lambda *_: done.clear()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
