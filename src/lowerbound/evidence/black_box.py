"""Black-box variational inference of a model written elsewhere, and how far to trust its result."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from lowerbound.distributions import Distribution, generator
from lowerbound.draw import Batch
from lowerbound.evidence.importance import LogLikelihood, importance_sampling
from lowerbound.evidence.targets import Target, rows_of
from lowerbound.gradients import GradientEstimator, sticking_the_landing
from lowerbound.inference import BlackBox, Data, LogJointModel, RowPosteriors, Settled, fit
from lowerbound.inference.black_box import Family
from lowerbound.inference.log_joint import LogJoint
from lowerbound.storage.history import History
from lowerbound.training import Schedule


@dataclass(frozen=True)
class BlackBoxFit:
    """The result of ``black_box``.

    - ``q``: the approximate posterior of each row, a normal over the flat z.
    - ``evidence``: importance sampling with q as the proposal: ``elbo [N]``, ``estimate [N]`` of log p(x), and
      ``pareto_k [N]`` with ``reliable [N]``: where it is False, q is too narrow in the tails for the weights.
    - ``settled``: whether the fit ended by its rule, and not at ``most_steps``.
    """

    q: Distribution
    evidence: LogLikelihood
    settled: bool
    history: History


def black_box(
    log_joint: LogJoint,
    x: Data,
    event: tuple[int, ...],
    *,
    family: Family = "diagonal",
    gradient: GradientEstimator = sticking_the_landing,
    draws: int = 10,
    learning_rate: float | Schedule = 0.05,
    scale: float = 1.0,
    window: int = 100,
    most_steps: int = 10_000,
    samples: int = 1000,
    seed: int = 0,
) -> BlackBoxFit:
    """Fit a normal q(z) to p(z|x) of each row of ``x``, for any ``log_joint(z [K, B, *E], x [B, *X]) → [K, B]``.

    ``event``: E, the shape of z. ``family``: "diagonal" (mean-field) or "full". ``gradient``: any gradient estimator;
    ``gradients.leave_one_out`` needs no gradient of ``log_joint``. ``scale``: the standard deviations at the start. On
    a CPU ``log_joint`` is called from several threads at once, as by all estimators of ``evidence``.

    The fit ends by ``inference.Settled``: the mean ELBO of the last ``window`` steps is not larger than that of the
    window before by more than the standard error of the difference. q has the mean of the numbers over the last window.
    ``samples``: importance samples per row for ``evidence``. For a posterior of all data together, give them as one
    row. A long fit that shall survive a kill is ``lb.fit`` with ``BlackBox`` and a ``run_dir``.
    """
    rows = rows_of(x)
    model = LogJointModel(log_joint, event, rows.dtype).to(rows.device)
    q = RowPosteriors(len(rows), model.prior.event[0], family, scale)
    history = fit(
        model,
        rows,
        BlackBox(q, gradient, draws, learning_rate, window=window),
        epochs=most_steps,
        batch_size=len(rows),
        validation=0,
        seed=seed,
        callbacks=[Settled(window)],
    ).history
    if not (settled := history.stopped == "callback"):
        warnings.warn(f"the ELBO still rose after {most_steps} steps; raise most_steps.", RuntimeWarning, stacklevel=2)

    def targets(batch: Batch) -> Target:
        return Target(lambda z: model.log_lik(z, batch.x), model.prior.event, q(batch.index), width=batch.x[0].numel())

    rng = generator(seed, "evidence", device=rows.device)
    with torch.no_grad():
        return BlackBoxFit(q(), importance_sampling(targets, rows, rng, samples), settled, history)
