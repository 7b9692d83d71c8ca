"""Gap between the ELBO and log p(x), split into the loss by the encoder and by the family of q."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.evidence import formatting, proposals
from lowerbound.evidence.adaptive import to_precision
from lowerbound.evidence.bounds import Part, Richer, families
from lowerbound.evidence.decision import Decision, of_mean
from lowerbound.evidence.estimates import Array, Estimates
from lowerbound.evidence.importance import LogLikelihood, concatenated
from lowerbound.evidence.targets import Target, like_of, of_model, settled
from lowerbound.inference import Data
from lowerbound.local_posteriors import LocalPosterior, Optimisation
from lowerbound.model import LatentVariableModel
from lowerbound.modes import in_eval_mode
from lowerbound.posteriors import Posterior

_CONVERGED = 0.01  # largest gain of the last steps, in nats
_TIGHT = 0.2  # a gap below this, in nats per row, counts as small
_ERROR = 0.005  # target standard error of log p(x) per row, in nats


@dataclass(frozen=True)
class Difference(Estimates):
    """Differences between two quantities per row, in nats: ``estimate [N]`` and Monte Carlo ``standard_error [N]``."""


@dataclass(frozen=True)
class Gaps:
    """log p(x) − ELBO = amortisation + approximation, per row and on average, in nats.

    - ``elbo [N]``: the ELBO of the encoder's q(z|x).
    - ``local``: the ELBO ``[N]`` of the best q found per row, by name of its family; the encoder's is first.
    - ``log_p [N]``: estimates of log p(x). ``reliable [N]``: whether their k̂ is below its threshold.
    - ``standard_error``: Monte Carlo errors ``[N]``, for "elbo", "log_p" and each family.
    - ``gained``: local − ELBO, computed with the same noise if both families use the same kind.
    - ``late``: the gain of the last tenth of the optimisation steps.
    - ``kl``: KL(q ‖ p) of the encoder's q, by latent; for latents with parents, averaged over the parents' draws.
    """

    elbo: Array
    local: Mapping[str, Array]
    log_p: Array
    reliable: NDArray[np.bool_]
    standard_error: Mapping[str, Array]
    gained: Mapping[str, Difference]
    late: Mapping[str, Difference]
    kl: Mapping[str, Estimates] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The name of the encoder's family."""
        return next(iter(self.local))

    @property
    def amortisation(self) -> Difference:
        """ELBO of the best q of the encoder's family − ELBO of the encoder's q."""
        return self.gained[self.family]

    def approximation(self, family: str | None = None) -> Difference:
        """log p(x) − ELBO of the best q of ``family`` (default: the encoder's family).

        It is too small in expectation, by as much as ``log_p`` is too low.
        """
        name = self.family if family is None else family
        if name not in self.local:
            raise ValueError(f"family is {name!r}; the report is of {', '.join(self.local)}.")
        return self._above(self.local[name], self.standard_error[name])

    @property
    def total(self) -> Difference:
        """log p(x) − ELBO: the sum of the two."""
        return self._above(self.elbo, self.standard_error["elbo"])

    def convergence(self, family: str | None = None) -> Decision:
        """Decide whether the last tenth of the steps gained at most 0.01 nats per row."""
        late = self.late[self.family if family is None else family]
        return of_mean(late.estimate, most=_CONVERGED, scale=_CONVERGED, comparisons=len(self.late))

    def converged(self, family: str | None = None) -> bool:
        """Whether ``convergence`` is passed."""
        return self.convergence(family).answer == "passed"

    @property
    def larger(self) -> Literal["amortisation", "approximation", "neither", "cannot tell"]:
        """Which part of the gap is larger; "neither" if the whole gap is below 0.2 nats per row."""
        if of_mean(self.total.estimate, most=_TIGHT, scale=_CONVERGED).answer == "passed":
            return "neither"
        first = of_mean(self.amortisation.estimate - self.approximation().estimate, least=0, scale=_CONVERGED)
        if first.answer == "cannot tell":
            return "cannot tell"
        return "amortisation" if first.answer == "passed" else "approximation"

    def words(self) -> str:
        """Describe the gap in a few sentences; ± is the Monte Carlo error for these rows."""
        name, *rest = self.local
        said = [
            f"Over {len(self.elbo):,} rows log p(x) is {self.log_p.mean():.2f} nats per row and the ELBO "
            f"{self.elbo.mean():.2f}: a gap of {_figure(self.total)}, with a standard error of "
            f"{self.total.mean_standard_error:.1g} over rows.",
            f"{_figure(self.amortisation)} of it is amortisation: a {name} fitted to each row separately reaches "
            f"{self.local[name].mean():.2f}.",
            f"{_figure(self.approximation())} of it is approximation: the best {name} found comes no closer.",
        ]
        if len(self.kl) > 1:
            each = ", ".join(f"{_figure(kl)} ({latent})" for latent, kl in self.kl.items())
            said.append(f"The KL(q ‖ p) of each latent in the ELBO is {each}.")
        said += [f"The best {other} found leaves {_figure(self.approximation(other))}." for other in rest]
        late = ", ".join(f"{_figure(each)} ({name})" for name, each in self.late.items())
        said.append(f"The last tenth of the search gained {late}.")
        decisions = {name: self.convergence(name) for name in self.local}
        if unfinished := [name for name, each in decisions.items() if each.answer == "failed"]:
            said.append(f"It has not converged for {' and '.join(unfinished)}: use more steps.")
        unknown = [(name, each) for name, each in decisions.items() if each.answer == "cannot tell"]
        said += [f"Whether the search for {name} has converged: {each}." for name, each in unknown]
        for name in self.local:
            if of_mean(self.approximation(name).estimate, least=0, scale=_CONVERGED).answer == "failed":
                said.append(f"log p(x) cannot be below the bound of {name}, so its estimates here are too low.")
        if doubtful := int((~self.reliable).sum()):
            said.append(
                f"In {doubtful:,} of {len(self.reliable):,} rows the estimate of log p(x) is unreliable (Pareto k̂ above"
                " its threshold): log p(x) may be higher."
            )
        return " ".join(said)

    def _above(self, bound: Array, error: Array) -> Difference:
        with np.errstate(invalid="ignore"):  # −∞ − (−∞), of a row too far out
            return Difference(self.log_p - bound, np.hypot(self.standard_error["log_p"], error))


@in_eval_mode
def gap_report(
    model: LatentVariableModel,
    posterior: Posterior,
    x: Data,
    log_p: LogLikelihood | None = None,
    *,
    steps: int = 500,
    draws: int = 8,
    samples: int = 1000,
    richer: Sequence[Richer | Posterior] | None = None,
    learning_rate: float = 0.1,
    rows_at_once: int = 500,
    seed: int = 0,
) -> Gaps:
    """Split log p(x) − ELBO of each row ``x [N, *X]`` into amortisation and approximation, in nats.

    The best q of a row is found by ``steps`` steps of Adam, with ``draws`` draws of z each and a learning rate that
    decreases from ``learning_rate`` to 0, starting from the encoder's output. It is a local optimum. Networks that
    belong to the family (of a flow, say) are not changed, nor is the dependence of a latent's q on its parents
    (``RowFamily``).

    ``richer``: further families by name or as a posterior (its encoder is not used, so it can be ``nn.Identity()``);
    each is optimised from the mean and covariance of the best q of the first family. None: "FullNormal" over all
    latents together, if they are real-valued.

    All bounds use ``samples`` new draws. ``log_p``: the result of ``to_precision`` or ``log_likelihood`` for these
    rows; None: importance sampling from a Student's t around the best q found, with at most 8 ``samples`` draws per
    row. Model and posterior are not changed. Cremer et al. 2018.
    """
    if min(steps, rows_at_once) < 1 or min(samples, draws) < 2:
        raise ValueError("steps and rows_at_once must be at least 1, and draws and samples at least 2.")
    device = like_of(model).device
    others, search = families(posterior, richer), Optimisation(steps, draws, learning_rate)
    # the same stream as in ``log_likelihood``, so that rows are binarised in the same way
    rows = settled(x, model, generator(seed, "evidence", device=device))
    if log_p is not None and len(log_p.estimate) != len(rows):
        raise ValueError(f"log_p has {len(log_p.estimate)} rows and x has {len(rows)}; give log_p of the same rows.")
    rng, found, estimates = generator(seed, "gaps", device=device), [], []
    for number, index in enumerate(torch.arange(len(rows), device=rows.device).split(rows_at_once)):
        part = Part.of(model, posterior, rows.subset(index))
        best = [search.run(part.gradient(part.family), part.family, part.family.start, rng)]
        best += [part.richer(search, family, best[0], rng) for family in others]
        bounds = _bounds(part, best, samples, seed, number)
        found.append(bounds)
        if log_p is None:
            proposal = max(best, key=lambda local: float(bounds[local.name, "local"][0].mean()))
            estimates.append(_log_p(part, proposal, samples, rng))
    return _report(found, concatenated(estimates) if log_p is None else log_p)


def _log_p(part: Part, best: LocalPosterior, samples: int, rng: torch.Generator) -> LogLikelihood:
    """Estimate log p(x) by importance sampling from a Student's t around the best q, which itself is too narrow."""
    identity, targets = part.batch.index, of_model(part.model, part.posterior)
    place = identity.new_zeros(int(identity.max()) + 1)
    place[identity] = torch.arange(len(identity), device=identity.device)
    own = proposals.around(best.family.distribution(best.end), best.end, rng)

    def around(batch: Batch) -> Target:
        return replace(targets(batch), posterior=own.take(place[batch.index]))

    return to_precision(around, part.rows, rng, _ERROR, most=8 * samples, fit=False)


Bounds = Mapping[tuple[str, str], Array]  # by a family's name and a kind, means over draws and errors, [2, B]


def _bounds(part: Part, best: Sequence[LocalPosterior], samples: int, seed: int, stream: int) -> Bounds:
    """From new draws: the ELBO, each local bound, its gain over the ELBO, and its gain in the last steps."""
    start = part.log_weights(part.family, part.family.start, samples, seed, stream)
    found = {("", "elbo"): _mean(start)}
    found |= {(name, "kl"): _mean(kl) for name, kl in part.kl(samples, seed, stream).items()}
    for local in best:
        before, end = (part.log_weights(local.family, at, samples, seed, stream) for at in (local.before, local.end))
        found[local.name, "local"] = _mean(end)
        found[local.name, "gained"] = _mean(end, start)
        found[local.name, "late"] = _mean(end, before)
    return found


def _mean(values: Array, less: Array | None = None) -> Array:
    """The mean over draws ``[S, B]`` (of a difference, if ``less`` is given) and its standard error: ``[2, B]``."""
    with np.errstate(invalid="ignore"):
        values = values if less is None else values - less
        return np.stack([values.mean(0), values.std(0, ddof=1) / math.sqrt(len(values))])


def _report(parts: Sequence[Bounds], log_p: LogLikelihood) -> Gaps:
    found = {key: np.concatenate([part[key] for part in parts], 1) for key in parts[0]}
    by_kind = {kind: {name: each for (name, its), each in found.items() if its == kind} for _, kind in found}
    elbo, local = by_kind["elbo"][""], by_kind["local"]
    errors = {"elbo": elbo[1], "log_p": log_p.standard_error} | {name: each[1] for name, each in local.items()}
    gained, late = ({name: Difference(*each) for name, each in by_kind[kind].items()} for kind in ("gained", "late"))
    bounds = {name: each[0] for name, each in local.items()}
    kl = {name: Estimates(*each) for name, each in by_kind["kl"].items()}
    return Gaps(elbo[0], bounds, log_p.estimate, log_p.reliable, errors, gained, late, kl)


def _figure(estimates: Estimates) -> str:
    error = estimates.mean_monte_carlo_error
    return f"{formatting.signed(estimates.mean, error)} ± {formatting.size(error)}"
