"""M-steps of EM in closed form, from sums over rows of expected sufficient statistics. Dempster, Laird & Rubin 1977."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowerbound import distributions, priors
from lowerbound.draw import Batch
from lowerbound.inference.e_steps import linear_map, of_normal, of_states
from lowerbound.likelihoods import Likelihood, Normal
from lowerbound.model import LatentVariableModel
from lowerbound.nn import Table

_LEAST = 1e-10  # of a prior probability: its logarithm stays finite


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

    def _shares(self, states: Tensor, log_joint: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """log p(x) ``[B]`` and p(z|x) ``[S, B]``, 0 for padding, from log p(x, z); adds to the latents' sums."""
        log_p = log_joint.logsumexp(0)
        shares = (log_joint - log_p).exp() * (batch.weight > 0)
        self.rows += shares.sum()
        self.latents += torch.tensordot(shares.sum(1), states, 1)
        return log_p.to(batch.x.dtype), shares

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
        prior, values = model.prior_given(), self.table[0].values
        assert isinstance(prior, distributions.Categorical)
        params = values.view(len(values), model.likelihood.n_parameters, *batch.x.shape[1:])
        statistics = model.likelihood.statistics(batch.x, batch.mask)
        assert statistics is not None
        natural = model.likelihood.natural(params).flatten(1)
        log_joint = natural @ statistics.flatten(1).T + prior.logits.double().log_softmax(1).T
        log_p, shares = self._shares(prior.states().double(), log_joint, batch)
        self.sums += (shares @ statistics.flatten(1)).view_as(self.sums)
        return log_p

    def maximise(self, model: LatentVariableModel) -> None:
        self._set_prior(model.prior)
        set_table(self.table[0], model.likelihood, self.sums)


@torch.no_grad()
def set_table(table: Table, likelihood: Likelihood, sums: Tensor) -> None:
    """Set each state's parameters to those of maximum likelihood; a state that is expected in no row keeps its own."""
    found = likelihood.maximised(sums).to(table.values.dtype).view_as(table.values)
    some = (sums[:, 0] > 0).flatten(1).any(1).view(-1, *[1] * (found.dim() - 1))
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

    def __init__(self, model: LatentVariableModel, values: int, finite: bool, missing: bool) -> None:
        size = 1 + torch.Size(model.prior.event).numel()
        each = values if missing else 1  # sums over rows that are the same for all values, unless some are missing
        shapes = {"inner": (each, size, size), "cross": (values, size), "squares": (values,), "counts": (each,)}
        super().__init__(model, **shapes)
        self.finite, self.missing = finite, missing

    def add(self, model: LatentVariableModel, batch: Batch) -> Tensor:
        likelihood, real = model.likelihood, (batch.weight > 0).double()
        assert isinstance(likelihood, Normal)
        log_p, mean, covariance = self._moments(model, batch)
        t = torch.cat([real.unsqueeze(1), real.unsqueeze(1) * mean], 1)
        own = functional.pad(covariance, (1, 0, 1, 0))  # of t
        if self.missing:
            seen = real.unsqueeze(1) * (1.0 if batch.mask is None else batch.mask.flatten(1))
            both = t.unsqueeze(2) * t.unsqueeze(1) + own
            self.inner += (seen.T @ both.flatten(1)).view_as(self.inner)
        else:
            seen = real.unsqueeze(1)
            self.inner += t.T @ t + torch.tensordot(real if len(own) > 1 else real.sum(0, keepdim=True), own, 1)
        x = torch.where(seen > 0, likelihood.standardised(batch.x).flatten(1), 0)
        self.cross += x.T @ t
        self.squares += x.square().sum(0)
        self.counts += seen.sum(0)
        return log_p.to(batch.x.dtype)

    def _moments(self, model: LatentVariableModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x) ``[B]``, E[z|x] ``[B, d]``, and Cov[z|x] ``[B, d, d]``, or ``[1, d, d]`` if all rows share it."""
        if not self.finite:
            return of_normal(model, batch)
        states, log_joint = of_states(model, batch)
        log_p, shares = self._shares(states.double(), log_joint.double(), batch)
        z = states.double().flatten(1)
        mean = shares.T @ z
        return log_p, mean, torch.einsum("sb,si,sj->bij", shares, z, z) - mean.unsqueeze(2) * mean.unsqueeze(1)

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
        likelihood.maximise_scale(left.view(shape), self.counts.expand_as(left).view(shape))
