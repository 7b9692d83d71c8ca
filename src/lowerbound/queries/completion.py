"""Complete missing cells given the observed ones (best values or draws), and draw new rows given some cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.data import Rows
from lowerbound.distributions import Randomness, by_row
from lowerbound.evidence.estimates import Array
from lowerbound.evidence.importance import chunks
from lowerbound.evidence.targets import settled
from lowerbound.likelihoods import Factorised, Likelihood, Product
from lowerbound.model import LatentVariableModel
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.queries.posterior_sampling import Part, Sampling, parts, too_few
from lowerbound.queries.refining import Refine, is_informative
from lowerbound.queries.surprise import Surprise
from lowerbound.row_source import RowSource, observed
from lowerbound.training import in_order


@dataclass(frozen=True)
class Completion:
    """Rows with their missing cells filled; observed cells are unchanged.

    - ``best [N, *X]``: one best value per cell.
    - ``draws [M, N, *X]``: random completions, x_missing ~ p(x_missing|x_observed); None if not requested.
    - ``ess [N]``: effective sample size of importance sampling; ``samples`` for rows with nothing missing or nothing
      observed, whose result is exact.
    - ``refined [N]``: rows for which it was too small, and whose result is from MCMC chains.
    """

    best: Array
    draws: Array | None
    ess: Array
    refined: NDArray[np.bool_]


@read_only
def complete(
    model: LatentVariableModel,
    posterior: Posterior,
    rows: RowSource,
    rng: torch.Generator,
    *,
    draws: int | None = None,
    samples: int = 1000,
    refine: Refine | None = "hmc",
    least_ess: float | None = None,
    fit: bool = True,
) -> Completion:
    """Fill the missing cells of ``rows`` by p(x_missing|x_observed) = ∫ p(x_missing|z) p(z|x_observed) dz.

    The ``best`` value minimises an expected loss, which depends on the likelihood. Numbers: the squared error, so it is
    E[x_j|x_observed] (log-normal columns of a ``Product`` with a known ``largest`` value: that of min(x_j, largest)).
    Classes, and binary columns of a ``Product``: the error rate, so it is the most probable class. A ``Bernoulli``
    likelihood of its own (an image, say): the squared error. Ordered classes: the number of levels between estimate and
    value, so it is the median.

    ``draws``: the number of random completions per row. Other arguments: see ``Sampling``. If the likelihood includes
    p(mask|x) (``informative``), values are drawn by its ``sample_missing``. Raises ValueError if cells are not
    independent given z. Mattei & Frellsen 2019, eq. 11; Little & Rubin 2019, ch. 10.
    """
    _check(model)
    if draws is not None and draws < 1:
        raise ValueError(f"draws must be at least 1, or None; got {draws}.")
    how = Sampling(samples, draws or 0, refine, least_ess, draws is not None or refine is not None, fit)
    rows = settled(rows, model, rng)
    values = np.concatenate([batch.x[:real].cpu().double().numpy() for batch, real in in_order(rows, 1000)])
    best, drawn = values, None if draws is None else np.repeat(values[None], draws, 0)
    ess, refined = np.full(len(rows), float(samples)), np.zeros(len(rows), bool)
    holes = _with_holes(rows)
    for part in parts(model, posterior, _at(rows, holes), rng, how) if len(holes) else ():
        places, mask = holes[part.places], part.batch.mask
        assert mask is not None
        seen = part.answered(mask).cpu().numpy()
        best[places] = np.where(seen, values[places], part.answered(_best(model, part)).cpu().numpy())
        if drawn is not None:
            found = part.answered(_missing(model, part), 1).cpu().double().numpy()
            drawn[:, places] = np.where(seen, values[places], found)
        ess[places] = part.answered(part.totals[2]).cpu().numpy()
        refined[places] = part.refined
    return Completion(best, drawn, ess, refined)


@read_only
def conditional(
    model: LatentVariableModel,
    posterior: Posterior,
    x: Tensor,
    mask: Tensor,
    n: int,
    rng: torch.Generator,
    *,
    samples: int | None = None,
    refine: Refine | None = "hmc",
    context: Tensor | None = None,
) -> Tensor:
    """The ``rows [n, *X]`` of ``condition``."""
    return condition(model, posterior, x, mask, n, rng, samples=samples, refine=refine, context=context).rows


@dataclass(frozen=True)
class Conditional:
    """``rows [n, *X]`` drawn given some cells.

    ``unlikely``: whether these cells are very unlikely under the model. ``extreme [*X]``: which of them are outside the
    range of the model's samples (``Surprise``).
    """

    rows: Tensor
    unlikely: bool
    extreme: Tensor


@read_only
def condition(
    model: LatentVariableModel,
    posterior: Posterior,
    x: Tensor,
    mask: Tensor,
    n: int,
    rng: torch.Generator,
    *,
    samples: int | None = None,
    refine: Refine | None = "hmc",
    context: Tensor | None = None,
    fit: bool = True,
) -> Conditional:
    """Draw ``n`` rows ``[n, *X]`` from p(x|x_observed); x_observed are the cells of ``x [*X]`` where ``mask [*X]``.

    Uses importance sampling with ``samples`` draws from q(z|x_observed) (default: 20 n, at least 10,000). There is no
    rejection, so rare cells cost no more than common ones. ``context [C]``: the context of the row. Cells that are not
    given are not treated as missing, so p(mask|x) of an ``informative`` likelihood is not used. Chains (``refine``),
    which take seconds, are not run if a cell is ``extreme``, because p(z|x_observed) is then an extrapolation anyway.
    """
    _check(model)
    model = _of_values(model)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}.")
    like = next(model.parameters())
    given = None if context is None else context.unsqueeze(0)
    row = settled(Rows(x.unsqueeze(0), mask.unsqueeze(0), dtype=like.dtype, context=given), model, rng)
    known, seen = next(in_order(row, 1))[0].x, mask.to(row.device)
    if bool(seen.all()):
        return Conditional(known.expand(n, *known.shape[1:]).clone(), False, torch.zeros_like(seen))
    how = Sampling(max(10_000, 20 * n) if samples is None else samples, n, refine, fit=fit)
    (part,) = parts(model, posterior, row, rng, replace(how, refine=None), warn=False, together=1)
    surprise = Surprise.of(model, posterior, part.batch, rng)
    if refine is not None and not bool(surprise.extreme.any()) and bool(too_few(part, how).any()):
        (part,) = parts(model, posterior, row, rng, how, together=1)
    rows = torch.where(seen, known, part.answered(_missing(model, part), 1).squeeze(1))
    return Conditional(rows, surprise.unlikely(part), surprise.extreme)


def _check(model: LatentVariableModel) -> None:
    if not isinstance(model.likelihood, Factorised) and not is_informative(model):
        raise ValueError(
            f"completion needs cells that are independent given z, but those of {type(model.likelihood).__name__} are "
            "not; use a likelihood of single values, such as Normal."
        )


def _of_values(model: LatentVariableModel) -> LatentVariableModel:
    """The model without p(mask|x)."""
    if (likelihood := model.likelihood.of_values) is model.likelihood:
        return model
    return LatentVariableModel(model.prior, model.decoder, likelihood, model.parents).train(model.training)


def _with_holes(rows: RowSource) -> NDArray[np.int64]:
    """The rows that have a missing cell."""
    return np.flatnonzero((observed(rows) < math.prod(rows.shape)).cpu().numpy())


def _at(rows: RowSource, places: NDArray[np.int64]) -> RowSource:
    return rows.subset(torch.from_numpy(places).to(rows.device))


def _missing(model: LatentVariableModel, part: Part) -> Tensor:
    """Draw x ~ p(x|z) at each drawn z, ``[M, B, *X]``."""
    found, first, rng = [], 0, part.streams.generators("cells")
    for count in chunks(len(part.drawn), len(part.batch.x), part.width):
        found.append(_sample(model, model.decode(part.drawn[first : first + count], part.batch.context), rng))
        first += count
    return torch.cat(found)


def _sample(model: LatentVariableModel, params: Tensor, rng: Randomness) -> Tensor:
    """Draw x ``[K, B, *X]``, given parameters ``[K, B, P, *X]``."""
    sample = model.likelihood.sample_missing if is_informative(model) else model.likelihood.sample
    return by_row(rng, params.shape[1], lambda own, some: sample(params[:, some.start : some.stop], own))  # type: ignore[operator]


def _best(model: LatentVariableModel, part: Part) -> Tensor:
    """Return the best value of each cell, ``[B, *X]``."""
    likelihood = model.likelihood.of_values
    if is_informative(model):
        return _decided(likelihood, _mean_of_draws(model, likelihood, part))
    return _decided(likelihood, part.mean(model, lambda params: _means(likelihood, params)))


def _mean_of_draws(model: LatentVariableModel, likelihood: Likelihood, part: Part) -> Tensor:
    """Return Σ_k share_k x_k ``[B, …]`` with x_k ~ p(x|z_k, missing), for the rows that count; 0 for the others.

    Rows are processed one at a time, because each has its own generator.
    """
    generators, found = part.streams.generators("best").rows, {}
    for row in part.rows.tolist():
        total, first, context = torch.zeros((), dtype=torch.float64), 0, part.batch.context
        context = None if context is None else context[row : row + 1]
        for count in chunks(len(part.z), 1, part.width):
            some = slice(first, first + count)
            params = model.decode(part.z[some, row : row + 1], context)
            values = _seen(likelihood, model.likelihood.sample_missing(params, generators[row]))[:, 0].double()  # type: ignore[operator]
            shares = part.shares[some, row].view(-1, *[1] * (values.dim() - 1))
            total = total.to(values.device) + torch.where(shares > 0, shares * values, 0).sum(0)
            first += count
        found[row] = total
    nothing = torch.zeros_like(next(iter(found.values())))
    return torch.stack([found.get(row, nothing) for row in range(len(part.batch.x))])


def _means(likelihood: Likelihood, params: Tensor) -> Tensor:
    """E[x|z] ``[K, B, *X]``; for classes their probabilities, last. Columns of a product are concatenated."""
    if not isinstance(likelihood, Product):
        return likelihood.mean(params)
    pairs = zip(likelihood.likelihoods, likelihood.split(params), strict=True)
    return torch.cat([_flat(part, part.typical(own)) for part, own in pairs], -1)


def _seen(likelihood: Likelihood, x: Tensor) -> Tensor:
    """Values ``x [K, B, *X]`` in the layout of ``_means``, with classes one-hot."""
    if not isinstance(likelihood, Product):
        return _one_hot(likelihood, x)
    each = (x[..., list(block)] for block in likelihood.of)
    pairs = zip(likelihood.likelihoods, each, strict=True)
    return torch.cat([_flat(part, _one_hot(part, own)) for part, own in pairs], -1)


def _decided(likelihood: Likelihood, means: Tensor) -> Tensor:
    """The best value of each cell, ``[B, *X]``, from expectations in the layout of ``_means``."""
    if not isinstance(likelihood, Product):
        return likelihood.best(means)
    classes = [_classes(part) for part in likelihood.likelihoods]
    sizes = [len(block) * max(1, count) for block, count in zip(likelihood.of, classes, strict=True)]
    found: Sequence[Tensor] = means.split(sizes, -1)
    found = [own.unflatten(-1, (-1, count)) if count else own for own, count in zip(found, classes, strict=True)]
    return likelihood.joined([_in_column(part, own) for part, own in zip(likelihood.likelihoods, found, strict=True)])


def _in_column(likelihood: Likelihood, mean: Tensor) -> Tensor:
    """The best value of a column; for a binary one, the more probable of its two values."""
    return (mean > 0.5).to(mean.dtype) if likelihood.support is constraints.boolean else likelihood.best(mean)


def _classes(likelihood: Likelihood) -> int:
    return (likelihood.n_values or 0) if likelihood.one_hot_mean else 0


def _one_hot(likelihood: Likelihood, x: Tensor) -> Tensor:
    count = _classes(likelihood)
    return functional.one_hot(x.long(), count) if count else x


def _flat(likelihood: Likelihood, values: Tensor) -> Tensor:
    return values.flatten(-2) if _classes(likelihood) else values
