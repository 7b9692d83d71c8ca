"""Exact E-steps of EM, and M-steps in closed form: sums over rows of expected sufficient statistics.

Dempster, Laird & Rubin 1977; Ghahramani & Hinton 1996.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from lowerbound import distributions, priors
from lowerbound.draw import Batch
from lowerbound.likelihoods import Likelihood, Normal
from lowerbound.model import LatentVariableModel
from lowerbound.nn import MLP, Table

_LEAST = 1e-10  # of a prior probability: its logarithm stays finite


def of_states(model: LatentVariableModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """All states of a finite latent ``[S, *E]``, and log p(x, z) at each of them ``[S, B]``."""
    states = model.prior_given(batch.context).states()
    assert states is not None
    z = states.unsqueeze(1).expand(-1, len(batch.x), *states.shape[1:])
    return states, model.log_joint(z, batch.x, batch.mask, batch.context)


def of_normal(model: LatentVariableModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x) ``[B]`` of a linear decoder with a normal prior and likelihood; mean and covariance of p(z|x).

    With Λ⁻¹ = Cov[z|x]: Λ = Wᵀ Ψ⁻¹ W + Λ_prior over the observed values, E[z|x] = Λ⁻¹ (Wᵀ Ψ⁻¹ (x − b) + Λ_prior m),
    and log p(x) = log p(x, z) − log p(z|x) at any z.
    """
    likelihood, prior = model.likelihood, model.prior_given()
    assert isinstance(likelihood, Normal)
    assert isinstance(prior, distributions.Normal)
    weight, bias = linear_map(model.decoder)
    scale = (likelihood.sigma() / likelihood.spread).expand(batch.x.shape[1:]).flatten()
    seen = _seen(batch)[: 1 if batch.mask is None else None].to(scale.dtype)
    white = seen * (likelihood.standardised(batch.x).flatten(1).nan_to_num() - bias).to(scale.dtype) / scale
    precise, scaled = prior.scale.square().reciprocal(), weight / scale.unsqueeze(1)
    precision = torch.einsum("bd,di,dj->bij", seen, scaled, scaled) + precise.diag()
    lower = torch.linalg.cholesky(precision)
    mean = torch.cholesky_solve((white @ scaled + precise * prior.loc).unsqueeze(2), lower).squeeze(2)
    log_joint = model.log_joint(mean.unsqueeze(0), batch.x, batch.mask).squeeze(0)
    half_log_det = lower.diagonal(dim1=1, dim2=2).log().sum(1)
    log_p = log_joint + 0.5 * mean.shape[1] * math.log(2 * math.pi) - half_log_det
    return log_p, mean, torch.cholesky_inverse(lower).expand(len(mean), -1, -1)


class ClosedForm(nn.Module):
    """Sums over the rows of an epoch of expected sufficient statistics, from which the M-step sets the model."""

    rows: Tensor
    latents: Tensor

    def __init__(self, model: LatentVariableModel, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        device = next(model.parameters()).device
        for name, shape in {"rows": (), "latents": model.prior.event, **shapes}.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64, device=device))

    @abstractmethod
    def add(self, model: LatentVariableModel, batch: Batch) -> Tensor:
        """The E-step of a batch: add its statistics, and return log p(x) ``[B]``. Rows of weight 0 add nothing."""

    @abstractmethod
    def maximise(self, model: LatentVariableModel) -> None:
        """The M-step."""

    def start_again(self) -> None:
        """Set all sums to 0."""
        for total in self.buffers():
            total.zero_()

    def _shares(self, model: LatentVariableModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x) ``[B]``, the states ``[S, *E]`` and p(z|x) ``[S, B]``, 0 for padding; adds to the latents' sums."""
        states, log_joint = of_states(model, batch)
        shares = log_joint.double().softmax(0) * (batch.weight > 0)
        self.rows += shares.sum()
        self.latents += torch.tensordot(shares.sum(1), states.double(), 1)
        return log_joint.logsumexp(0), states.double(), shares

    def _set_prior(self, prior: nn.Module) -> None:
        """Set the probabilities of the latents' values to their expected frequencies; a normal prior stays."""
        share = (self.latents / self.rows).clamp(_LEAST, 1 - _LEAST)
        if isinstance(prior, priors.Bernoulli):
            prior.logits.copy_(share.logit())
        elif isinstance(prior, priors.Categorical):
            prior.logits.copy_(share.log())


class OfTable(ClosedForm):
    """A decoder that is a ``Table``: each state has parameters of its own, and its share of each row's statistics."""

    sums: Tensor

    def __init__(self, model: LatentVariableModel, table: Table, statistics: Tensor) -> None:
        super().__init__(model, sums=(table.n_states, *statistics.shape[1:]))
        self.table = [table]  # in a list: a part of the model, and not of the sums

    def add(self, model: LatentVariableModel, batch: Batch) -> Tensor:
        log_p, _, shares = self._shares(model, batch)
        statistics = model.likelihood.statistics(batch.x, batch.mask)
        assert statistics is not None
        self.sums += torch.tensordot(shares, statistics, 1)
        return log_p

    def maximise(self, model: LatentVariableModel) -> None:
        self._set_prior(model.prior)
        set_table(self.table[0], model.likelihood, self.sums)


@torch.no_grad()
def set_table(table: Table, likelihood: Likelihood, sums: Tensor) -> None:
    """Set each state's parameters to those of maximum likelihood; one that no value is expected in keeps its own."""
    found = likelihood.maximised(sums).to(table.values.dtype).reshape(table.values.shape)
    some = (sums[:, 0] > 0).flatten(1).all(1).view(-1, *[1] * (found.dim() - 1))
    table.values.copy_(torch.where(some, found, table.values))


class OfLinear(ClosedForm):
    """A linear decoder with a normal likelihood: regressions of each value on the latents, given their moments.

    w_d = (Σ E[t tᵀ])⁻¹ Σ x_d E[t] with t = (1, z), over the rows where value d is observed; σ² is the mean of
    E[(x_d − w_dᵀ t)²].
    """

    inner: Tensor
    cross: Tensor
    squares: Tensor
    counts: Tensor

    def __init__(self, model: LatentVariableModel, values: int, finite: bool) -> None:
        size = 1 + torch.Size(model.prior.event).numel()
        shapes = {"inner": (values, size, size), "cross": (values, size), "squares": (values,), "counts": (values,)}
        super().__init__(model, **shapes)
        self.finite = finite

    def add(self, model: LatentVariableModel, batch: Batch) -> Tensor:
        likelihood = model.likelihood
        assert isinstance(likelihood, Normal)
        if self.finite:
            log_p, states, shares = self._shares(model, batch)
            z = states.flatten(1)
            mean, second = shares.T @ z, torch.einsum("sb,si,sj->bij", shares, z, z)
        else:
            log_p, mean, covariance = of_normal(model, batch)
            mean = mean.double()
            second = covariance.double() + mean.unsqueeze(2) * mean.unsqueeze(1)
        t = torch.cat([torch.ones_like(mean[:, :1]), mean], 1)
        both = torch.cat([t.unsqueeze(1), torch.cat([mean.unsqueeze(2), second], 2)], 1)
        seen = (_seen(batch) & (batch.weight > 0).unsqueeze(1)).double()
        x = seen * likelihood.standardised(batch.x).flatten(1).nan_to_num()
        self.inner += torch.einsum("bd,bij->dij", seen, both)
        self.cross += x.T @ t
        self.squares += x.square().sum(0)
        self.counts += seen.sum(0)
        return log_p

    def maximise(self, model: LatentVariableModel) -> None:
        self._set_prior(model.prior)
        likelihood = model.likelihood
        assert isinstance(likelihood, Normal)
        weight, bias = linear_map(model.decoder)
        free = slice(0 if isinstance(bias, nn.Parameter) else 1, None)
        inner, cross = self.inner[:, free, free], self.cross[:, free]
        found = (torch.linalg.pinv(inner, hermitian=True) @ cross.unsqueeze(2)).squeeze(2)
        left = (self.squares - (found * cross).sum(1)).clamp(min=0)
        weight.copy_(found[:, -weight.shape[1] :])
        if isinstance(bias, nn.Parameter):
            bias.copy_(found[:, 0])
        shape = likelihood.shape or left.shape
        likelihood.maximise_scale(left.view(shape), self.counts.view(shape))


def linear_map(decoder: nn.Module) -> tuple[Tensor, Tensor]:
    """The weight ``[D, d]`` and bias ``[D]`` of a linear decoder, live; the bias of a ``Table`` is 0, and not learned.

    Raises TypeError if the decoder is not linear.
    """
    if isinstance(decoder, Table):
        return decoder.values.flatten(1).T, decoder.values.new_zeros(())
    layer, *more = decoder.layers if isinstance(decoder, MLP) and decoder.direct is None else [decoder]
    if more or not isinstance(layer, nn.Linear):
        raise TypeError(f"{type(decoder).__name__} is no linear decoder; give an MLP with hidden=(), or a Table.")
    bias: Tensor | None = layer.bias
    return layer.weight, layer.weight.new_zeros(()) if bias is None else bias


def _seen(batch: Batch) -> Tensor:
    """Which values are observed, ``[B, D]``."""
    return torch.ones_like(batch.x, dtype=torch.bool).flatten(1) if batch.mask is None else batch.mask.flatten(1)
