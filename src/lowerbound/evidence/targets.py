"""Interface to log p(x, z) that the evidence estimators use, with the distributions to draw z from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lowerbound.data import Rows
from lowerbound.distributions import Distribution, a_distribution
from lowerbound.draw import Batch
from lowerbound.inference import Data, as_rows
from lowerbound.likelihoods.support import check_rows
from lowerbound.mcmc import slope_of
from lowerbound.model import LatentVariableModel, check_latents, distributions_of
from lowerbound.posteriors import Posterior
from lowerbound.row_source import RowSource
from lowerbound.shapes import expect
from lowerbound.training import in_order

Source = Literal["posterior", "prior"]


@dataclass(frozen=True)
class Target:
    """log p(x, z) of a batch of rows as a function of z, with distributions from which to draw z.

    - ``log_joint``: z ``[K, B, *E]`` → log p(x, z) ``[K, B]``.
    - ``event``: E, the shape of z.
    - ``posterior``: q(z|x) of each row.
    - ``prior``: p(z), one for all rows or one per row; None if it is not needed.
    - ``width``: values per draw that ``log_joint`` keeps in memory.
    - ``slope``: z → ∂ log p(x, z)/∂z ``[K, B, *E]``, if that is cheaper than differentiating ``log_joint``.
    """

    log_joint: Callable[[Tensor], Tensor]
    event: tuple[int, ...]
    posterior: Distribution
    prior: Distribution | None = None
    width: int = 1
    slope: Callable[[Tensor], Tensor] | None = None

    def slope_at(self, z: Tensor) -> Tensor:
        """Return ∂ log p(x, z)/∂z ``[K, B, *E]``, by ``slope`` if there is one."""
        return slope_of(self.log_joint, z) if self.slope is None else self.slope(z)

    def source(self, name: Source) -> Distribution:
        """The distribution from which to draw, by name."""
        if name not in get_args(Source):
            raise ValueError(f'source must be "posterior" or "prior"; got {name!r}.')
        found = self.posterior if name == "posterior" else self.prior
        if found is None:
            raise ValueError('this model has no prior; use "posterior", or give prior= to of_functions.')
        return found

    def log_weights(self, proposal: Distribution, noise: Tensor) -> Tensor:
        """log p(x, z) − log q(z), ``[K, B]``, for z = ``proposal.sample(noise)``."""
        z = proposal.sample(noise)
        log_joint, log_q = self.log_joint(z), proposal.log_prob_of_sample(z, noise)
        expect("log_joint", log_joint, z.shape[:2], "[K, B]")
        expect("log_prob of the proposal", log_q, z.shape[:2], "[K, B]")
        return log_joint - log_q


Targets = Callable[[Batch], Target]


@dataclass(frozen=True)
class OfModel:
    """The targets of a model of this library: a callable from a batch to its ``Target``."""

    model: LatentVariableModel
    posterior: Posterior

    def __call__(self, batch: Batch) -> Target:
        model, posterior = self.model, self.posterior
        q, prior = distributions_of(model, posterior, batch.x, batch.mask, batch.context)
        width = batch.x[0].numel() * model.likelihood.n_parameters

        def log_joint(z: Tensor) -> Tensor:
            log_prior: Tensor = prior.log_prob(z)
            return model.log_lik(z, batch.x, batch.mask, batch.context) + log_prior

        def slope(z: Tensor) -> Tensor:
            return model.slope(z, batch.x, batch.mask, batch.context) + slope_of(prior.log_prob, z)

        return Target(log_joint, model.prior.event, q, prior, width, slope)


def of_model(model: LatentVariableModel, posterior: Posterior) -> Targets:
    """Make targets from a model of this library and its posterior."""
    check_latents(model.prior, posterior)
    return OfModel(model, posterior)


def of_functions(
    log_joint: Callable[[Tensor, Tensor], Tensor],
    posterior: Callable[[Tensor], Distribution],
    event: tuple[int, ...],
    prior: Distribution | None = None,
) -> Targets:
    """Make targets from functions of a model written elsewhere.

    ``log_joint(z [K, B, *E], x [B, *X]) → [K, B]``. ``posterior(x)``: any proposal, a ``lowerbound.distributions``
    object such as ``Normal(loc, scale)``; so is ``prior``. ``event``: E, the shape of z. On a CPU both functions are
    called from several threads at once, and must not modify shared data.
    """

    if prior is not None:
        a_distribution("prior=", prior)

    def of(batch: Batch) -> Target:
        def checked(z: Tensor) -> Tensor:
            found = log_joint(z, batch.x)
            expect("log_joint", found, z.shape[:2], "[K, B]")
            return found

        q = a_distribution("posterior(x)", posterior(batch.x))
        for name, each in (("posterior", q), ("prior", prior)):
            if each is not None:
                _check_event(name, each, event, batch)
        return Target(checked, event, q, prior, batch.x[0].numel())

    return of


def _check_event(name: str, of: Distribution, event: tuple[int, ...], batch: Batch) -> None:
    """Raise ValueError if draws of a distribution have another shape, by a trial draw."""
    shape = (1, len(batch.x), *event)
    rng = torch.Generator(batch.x.device).manual_seed(0)
    try:
        with torch.no_grad():
            z = of.sample(of.noise(shape[:2], event, rng, batch.x.dtype))
    except RuntimeError as error:
        raise ValueError(f"event is {event}, but draws of the {name} have another shape ({error}).") from error
    if z.shape != shape:
        raise ValueError(
            f"event is {event}, so draws of the {name} must have shape {list(shape)}, not {list(z.shape)}."
        )


def like_of(model: LatentVariableModel) -> Tensor:
    """A parameter of ``model``, for its device and dtype. Raises TypeError if it is not a model of this library."""
    if not isinstance(model, LatentVariableModel):
        raise TypeError(
            f"this needs a LatentVariableModel, got {type(model).__name__}; for a model written elsewhere, use "
            "of_functions with importance_sampling, to_precision, annealed, sandwich or appendix_d."
        )
    return next(model.parameters())


def rows_for(targets: Targets, data: Data) -> RowSource:
    """Convert ``data`` to rows. Raises ``DataError`` for rows outside the support of a model of this library."""
    if isinstance(targets, OfModel):
        rows = as_rows(data, like_of(targets.model))
        check_rows(targets.model.likelihood, rows)
        return rows
    return rows_of(data)


def rows_of(data: Data) -> RowSource:
    """Convert ``data`` to rows of its own floating type, or of torch's default."""
    if isinstance(data, RowSource):
        return data
    like = torch.as_tensor(data)[:0]
    return as_rows(data, like if like.is_floating_point() else torch.empty(0))


def settled(data: Data, model: LatentVariableModel, rng: torch.Generator) -> RowSource:
    """RowSource for ``model`` that do not change: rows to be binarised afresh are binarised once, with ``rng``."""
    rows = as_rows(data, like_of(model))
    check_rows(model.likelihood, rows)
    if not isinstance(rows, Rows) or rows.binarise != "afresh":
        return rows
    x = torch.cat([batch.x[:real].to(torch.uint8) for batch, real in in_order(rows, 1000, rng)])
    return Rows(x, rows.mask, max_value=1.0, dtype=rows.dtype, context=rows.context)
