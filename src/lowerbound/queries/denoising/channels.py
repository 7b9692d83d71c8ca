"""p(y|z) and the moments of x given y and z, in closed form, for each noise and likelihood."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lowerbound import likelihoods
from lowerbound.distributions import FullNormal, normal_log_prob
from lowerbound.distributions.family import standard_normal
from lowerbound.errors import DataError
from lowerbound.queries.denoising.noise import Flips, Gaussian, Noise


class Channel(ABC):
    """p(y|z) = ∫ p(y|x) p(x|z) dx. Shapes: y ``[B, *Y]``, NaN where missing; params ``[K, B, P, *X]``."""

    width: int = 1  # numbers kept in memory per draw
    whole: bool = False  # whether missing values of y are not allowed

    @abstractmethod
    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        """log p(y|z), ``[K, B]``."""

    @abstractmethod
    def moments(self, params: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """E[x|y, z] and Var[x|y, z], ``[K, B, *X]``."""

    @abstractmethod
    def sample(self, params: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Draw from p(x|y, z), ``[K, B, *X]``."""

    def guess(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """A rough estimate of x, ``[B, *X]``, as input of the encoder, and a mask of its known values."""
        seen = ~y.isnan()
        return torch.where(seen, y, 0), seen

    def impossible(self, y: Tensor) -> Tensor:
        """Which values of y are impossible for every x."""
        return y.isinf() | (y.isnan() & self.whole)


class _Values(Channel):
    """Independent noise of each value: Y is X."""

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        return self.log_values(params, y).flatten(2).sum(2)

    @abstractmethod
    def log_values(self, params: Tensor, y: Tensor) -> Tensor:
        """log p(y_i|z), ``[K, B, *X]``; 0 for missing values."""


class _Blurred(_Values):
    """Normal values with normal noise of ``scale`` (broadcast to X)."""

    def __init__(self, likelihood: likelihoods.Normal, scale: Tensor) -> None:
        self.likelihood, self.scale = likelihood, scale

    def log_values(self, params: Tensor, y: Tensor) -> Tensor:
        seen, mu = ~y.isnan(), self.likelihood.mu(params)
        total = torch.hypot(self.likelihood.sigma(params), self.scale)
        return torch.where(seen, normal_log_prob(torch.where(seen, y, 0), mu, total), 0)

    def moments(self, params: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        seen, mu = ~y.isnan(), self.likelihood.mu(params)
        own, noise = self.likelihood.sigma(params).square(), self.scale.square()
        gain = torch.where(seen, own / (own + noise), 0)
        return mu + gain * (torch.where(seen, y, 0) - mu), torch.where(seen, own * noise / (own + noise), own) + 0 * mu

    def sample(self, params: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        mean, variance = self.moments(params, y)
        return mean + variance.sqrt() * standard_normal(tuple(mean.shape), rng, mean.dtype)


class _Bits(_Values):
    """Bernoulli values with flips, or with normal noise."""

    def __init__(self, noise: Noise, scale: Tensor | None) -> None:
        self.noise, self.scale = noise, scale

    def log_values(self, params: Tensor, y: Tensor) -> Tensor:
        (one, zero), logit = self._given(y), params[:, :, 0]
        return torch.logaddexp(functional.logsigmoid(logit) + one, functional.logsigmoid(-logit) + zero)

    def moments(self, params: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        one, zero = self._given(y)
        mean = (params[:, :, 0] + one - zero).sigmoid()
        return mean, mean * (1 - mean)

    def sample(self, params: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        return torch.bernoulli(self.moments(params, y)[0], generator=rng)

    def guess(self, y: Tensor) -> tuple[Tensor, Tensor]:
        known, seen = super().guess(y)
        return known.clamp(0, 1), seen

    def impossible(self, y: Tensor) -> Tensor:
        wrong = (y != 0) & (y != 1) & ~y.isnan() if isinstance(self.noise, Flips) else torch.zeros_like(y).bool()
        return wrong | super().impossible(y)

    def _given(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """log p(y|x = 1) and log p(y|x = 0), ``[B, *X]``; 0 where y is missing."""
        seen = ~y.isnan()
        known = torch.where(seen, y, 0)
        if isinstance(self.noise, Flips):
            kept, flipped = (y.new_tensor(rate).log() for rate in (1 - self.noise.rate, self.noise.rate))
            pair = torch.where(known == 1, kept, flipped), torch.where(known == 1, flipped, kept)
        else:
            assert self.scale is not None
            one, zero = torch.ones_like(known), torch.zeros_like(known)
            pair = normal_log_prob(known, one, self.scale), normal_log_prob(known, zero, self.scale)
        return torch.where(seen, pair[0], 0), torch.where(seen, pair[1], 0)


class _Exact(_Values):
    """Values that the noise does not change."""

    whole = True

    def __init__(self, likelihood: likelihoods.Factorised) -> None:
        self.likelihood = likelihood

    def log_values(self, params: Tensor, y: Tensor) -> Tensor:
        return self.likelihood.log_prob_per_value(params, y)

    def moments(self, params: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        known = y.expand(len(params), *y.shape)
        return known, torch.zeros_like(known)

    def sample(self, params: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        return y.expand(len(params), *y.shape)

    def impossible(self, y: Tensor) -> Tensor:
        inside: Tensor = self.likelihood.support.check(y)
        return ~inside | super().impossible(y)


class _Columns(_Values):
    """The columns of a product: each of its likelihoods has a channel of its own."""

    def __init__(self, columns: Sequence[_Values], product: likelihoods.Product) -> None:
        self.columns, self.product = columns, product

    def log_values(self, params: Tensor, y: Tensor) -> Tensor:
        return self.product.joined([column.log_values(own, known) for column, own, known in self._each(params, y)])

    def moments(self, params: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        means, variances = zip(
            *(column.moments(own, known) for column, own, known in self._each(params, y)), strict=True
        )
        return self.product.joined(means), self.product.joined(variances)

    def sample(self, params: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        return self.product.joined([column.sample(own, known, rng) for column, own, known in self._each(params, y)])

    def impossible(self, y: Tensor) -> Tensor:
        pairs = zip(self.columns, self.product.by_block(y), strict=True)
        return self.product.joined([column.impossible(known) for column, known in pairs])

    def _each(self, params: Tensor, y: Tensor) -> Iterator[tuple[_Values, Tensor, Tensor]]:
        return zip(self.columns, self.product.split(params), self.product.by_block(y), strict=True)


class Projected(Channel):
    """Normal values of ``shape`` through an operator, with normal noise of ``scale`` (broadcast to M)."""

    whole = True

    def __init__(self, likelihood: likelihoods.Normal, operator: Tensor, scale: Tensor, shape: tuple[int, ...]) -> None:
        self.likelihood, self.shape, self.dtype = likelihood, shape, scale.dtype
        self.exact, self.scale = operator.double(), scale.double()
        self.operator = operator.to(self.dtype)
        self.fixed: tuple[Tensor, ...] | None = None
        if likelihood.scale in ("entry", "row"):
            self.width = len(operator) * (len(operator) + 2 * math.prod(shape))
        else:
            self.fixed = self._factors(likelihood.sigma().detach().expand(shape).reshape(1, 1, -1))

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        mu, factors = self._of(params)
        return FullNormal(mu @ self.operator.mT, factors[0]).log_prob(y.flatten(1))

    def moments(self, params: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mu, (_, gain, variance) = self._of(params)
        mean = mu + torch.einsum("...dm,...m->...d", gain, y.flatten(1) - mu @ self.operator.mT)
        return mean.unflatten(2, self.shape), variance.expand_as(mean).unflatten(2, self.shape)

    def sample(self, params: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Draw x and y given z, then correct x by the difference to the known y. Journel & Huijbregts 1978."""
        gain = self._of(params)[1][1]
        x = self.likelihood.sample(params, rng).flatten(2)
        noise = self.scale.to(x) * standard_normal((*x.shape[:2], len(self.scale)), rng, x.dtype)
        lacking = y.flatten(1) - x @ self.operator.mT - noise
        moved = x + torch.einsum("...dm,...m->...d", gain, lacking)
        return moved.view(*moved.shape[:2], *self.shape)

    def guess(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The x nearest to the likelihood's location with A x = y (least squares)."""
        start = self.likelihood.shift.expand(self.shape).flatten()
        inverse = torch.linalg.pinv(self.exact).to(self.dtype)
        x = start + (y.flatten(1) - start @ self.operator.mT) @ inverse.mT
        x = x.view(-1, *self.shape)
        return x, torch.ones_like(x, dtype=torch.bool)

    def _of(self, params: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        mu = self.likelihood.mu(params).flatten(2)
        return mu, self.fixed or self._factors(self.likelihood.sigma(params).flatten(2))

    def _factors(self, sigma: Tensor) -> tuple[Tensor, ...]:
        """With V = diag(σ²) and C = A V Aᵀ + scale² I: the Cholesky factor of C, V Aᵀ C⁻¹, and the diagonal of
        V − V Aᵀ C⁻¹ A V, each ``[K, B, …]``; in double precision, because the noise may be small."""
        variance = sigma.double().square()
        spread = self.exact * variance.unsqueeze(-2)
        lower = torch.linalg.cholesky(spread @ self.exact.mT + torch.diag(self.scale.square()))
        gain = torch.cholesky_solve(spread, lower).mT
        left = (variance - (gain * spread.mT).sum(-1)).clamp(min=0)
        return lower.to(self.dtype), gain.to(self.dtype), left.to(self.dtype)


def channel_of(noise: Noise, likelihood: likelihoods.Likelihood, shape: tuple[int, ...], like: Tensor) -> Channel:
    """The channel for a noise and a likelihood of rows of ``shape``. Raises ValueError for unsupported pairs."""
    if isinstance(noise, Flips):
        return _values(noise, likelihood, None)
    scale = torch.as_tensor(noise.scale).to(like)
    if noise.operator is None:
        return _values(noise, likelihood, _spread(scale, shape))
    if not isinstance(likelihood, likelihoods.Normal):
        raise ValueError(
            f"noise with an operator needs a Normal likelihood, but got {type(likelihood).__name__}; give a model of "
            "these rows with a Normal likelihood."
        )
    rows, columns = noise.operator.shape
    if columns != math.prod(shape):
        raise ValueError(f"operator has {columns} columns, but a row has shape {shape}; give one column per value.")
    return Projected(likelihood, noise.operator.to(like.device), _spread(scale, (rows,)), shape)


def _values(noise: Noise, likelihood: likelihoods.Likelihood, scale: Tensor | None) -> _Values:
    """The channel of independent noise of each value; ``scale [*X]``: of Gaussian noise."""
    match likelihood:
        case likelihoods.Bernoulli():
            return _Bits(noise, scale)
        case likelihoods.Normal() if scale is not None:
            return _Blurred(likelihood, scale)
        case likelihoods.Product():
            return _columns(noise, likelihood, scale)
    raise ValueError(_no_rule(noise, f"the model's likelihood is {type(likelihood).__name__}"))


def _columns(noise: Noise, product: likelihoods.Product, scale: Tensor | None) -> _Columns:
    kind = likelihoods.Bernoulli if scale is None else likelihoods.Normal
    scales = [None] * len(product.of) if scale is None else product.by_block(scale)
    columns: list[_Values] = []
    for part, own, block in zip(product.likelihoods, scales, product.of, strict=True):
        if isinstance(part, kind):
            columns.append(_values(noise, part, own))
        elif scale is None or part.measure == "counting":
            columns.append(_Exact(part))
        else:
            raise ValueError(_no_rule(noise, f"column {block[0]} of the model's Product is {type(part).__name__}"))
    if not any(isinstance(part, kind) for part in product.likelihoods):
        raise ValueError(_no_rule(noise, f"no column of the model's Product is {kind.__name__}"))
    return _Columns(columns, product)


def _no_rule(noise: Noise, found: str) -> str:
    kinds = "Bernoulli" if isinstance(noise, Flips) else "Normal and Bernoulli"
    return f"{type(noise).__name__} noise supports {kinds} likelihoods, but {found}; give a model with one of them."


def _spread(scale: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return scale.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"the noise's scale has shape {tuple(scale.shape)}, but a row of y has shape {shape}; give one "
            "scale per value."
        ) from None


def check(y: Tensor, noise: Noise, channel: Channel, shape: tuple[int, ...]) -> None:
    """Raise an error for a y of the wrong shape or with impossible values."""
    operator = noise.operator if isinstance(noise, Gaussian) else None
    due = shape if operator is None else (len(operator),)
    fits = y.shape[1:] == due if operator is None else y.shape[1:].numel() == due[0]
    if y.dim() < 2 or not len(y) or not fits:
        raise ValueError(
            f"y must be [N, {', '.join(map(str, due))}], rows as this noise makes them; got {list(y.shape)}."
        )
    if bool((wrong := channel.impossible(y)).any()):
        row, *place = wrong.nonzero()[0].tolist()
        value = float(y[row, *place])
        said = (
            "may not be missing here; fill it in or drop the row"
            if math.isnan(value)
            else "is impossible under this noise"
        )
        raise DataError(f"value {place} of row {row} of y, {value:g}, {said}.")
