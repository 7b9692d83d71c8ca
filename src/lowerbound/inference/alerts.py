"""What a fit warns of: a decoder that squashes its logits, and a bound that ended far below where it began."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from lowerbound.data import Rows
from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.likelihoods import Bernoulli, Categorical, Likelihood
from lowerbound.model import LatentVariableModel, draw
from lowerbound.modes import eval_mode
from lowerbound.nn import seeded
from lowerbound.posteriors import Posterior
from lowerbound.training import History

_ROWS, _DRAWS = 32, 4
_LATENTS, _FAR = 64, 100.0  # how many latents a decoder is tried at, and their standard deviation
_LOW, _HIGH = 0.01, 0.99  # beyond either lies most of a squashed output so far out
_SQUASHES = ("SigmoidBackward", "SoftmaxBackward", "HardsigmoidBackward")
_SHAPES = ("View", "UnsafeView", "Reshape", "Unsqueeze", "Squeeze", "Permute", "Transpose", "T", "Clone", "Alias")
_SAME = tuple(f"{name}Backward" for name in (*_SHAPES, "ToCopy", "Expand", "Slice", "Clamp", "ClampMin", "ClampMax"))


class Alerts:
    """Taken before the first step of a fit; ``finish`` compares what became of it."""

    def __init__(self, model: LatentVariableModel, posterior: Posterior, rows: Rows) -> None:
        index = torch.arange(min(_ROWS, len(rows)), device=rows.device)
        rng = generator(0, "alerts", device=rows.device)
        batch = rows.batch(index, torch.ones(len(index), device=rows.device), rng)
        with eval_mode(model, posterior), seeded(0):
            if squashed := squashes(model, batch):
                warnings.warn(squashed, RuntimeWarning, stacklevel=3)
            self.start = _elbo(model, posterior, batch, rng)
        self.values = math.prod(rows.shape)

    def finish(self, history: History) -> None:
        """Warn where the last pass lies lower than the start by more than a nat per value and all that it was.

        Both the ELBO and the objective must: an objective of other weights is no ELBO, nor one of many draws.
        """
        if not history.records or not math.isfinite(self.start):
            return
        last = history.records[-1]
        elbo = last["train_log_lik"] - last["train_kl"]
        if max(elbo, last["train_objective"]) >= self.start - abs(self.start) - self.values:
            return
        best = history.best_pass
        kept = "" if best in (None, last["pass"]) else f"; the model kept is that of pass {best}"
        warnings.warn(
            f"the ELBO fell from {self.start:.4g} nats per row before the first step to {elbo:.4g} in the last pass"
            f"{kept}: the learning_rate is probably too high, so lower it (or look for extreme values in the data).",
            RuntimeWarning,
            stacklevel=3,
        )


def squashes(model: LatentVariableModel, batch: Batch) -> str:
    """Why the decoder seems to give probabilities where its likelihood reads logits; "" if it does not seem so.

    By the last operation of its graph; or by its range, where all outputs at latents far out lie in [0, 1] and most of
    them at its ends: those of a layer without an activation do not.
    """
    if not isinstance(model.likelihood, Bernoulli | Categorical):
        return ""
    like, rng = next(model.parameters()), generator(0, "alerts", "latents", device=batch.x.device)
    z = _FAR * torch.randn((1, _LATENTS, *model.prior.event), generator=rng, device=like.device, dtype=like.dtype)
    context = None if batch.context is None else batch.context[:1].expand(_LATENTS, -1)
    try:
        with torch.enable_grad():
            out = model.decode(z, context)
    except (RuntimeError, IndexError, MemoryError):  # latents of other kinds, for which such z are none
        return ""
    if not _ends_in_squash(out) and not _within_unit(out.detach()):
        return ""
    return _words(model.likelihood)


def _words(likelihood: Likelihood) -> str:
    name = type(likelihood).__name__
    last = "softmax" if isinstance(likelihood, Categorical) else "sigmoid"
    return (
        f"the decoder's outputs lie in [0, 1], as those of a {last} do, and {name} reads them as logits: leave the "
        f"{last} out."
    )


def _ends_in_squash(out: Tensor) -> bool:
    """Whether the last operation but those of shape is a sigmoid or a softmax."""
    step = out.grad_fn
    while step is not None and step.name().rstrip("0123456789") in _SAME:
        step = step.next_functions[0][0]
    return step is not None and step.name().rstrip("0123456789") in _SQUASHES


def _within_unit(out: Tensor) -> bool:
    """Whether all outputs lie in [0, 1], most of them at its ends, and some at either."""
    low, high = (out < _LOW).double().mean().item(), (out > _HIGH).double().mean().item()
    return bool(((out >= 0) & (out <= 1)).all()) and min(low, high) > 0 and low + high > 0.5


@torch.no_grad()
def _elbo(model: LatentVariableModel, posterior: Posterior, batch: Batch, rng: torch.Generator) -> float:
    """The mean ELBO of a few rows; NaN where it does not fit in memory."""
    try:
        drawn = draw(model, posterior, batch, rng, _DRAWS)
        kl = (drawn.log_q - drawn.log_prior).mean(0) if drawn.kl is None else drawn.kl
        return float((drawn.log_lik.mean(0) - kl).mean())
    except (RuntimeError, MemoryError):
        return math.nan
