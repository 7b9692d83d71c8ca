"""Sentences of the report, with their numbers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

import lowerbound
from lowerbound import objectives
from lowerbound.evidence import LogLikelihood, Verdict
from lowerbound.evidence.verdict import draws_words, proposals_words
from lowerbound.likelihoods import Likelihood, Measure, Product
from lowerbound.report.facts import STOPPED, FittedVAE, Training, count_of, has_posterior, latents_of
from lowerbound.storage.choice import in_words

_FEW_DRAWS = 10  # effective draws: with fewer, a row's estimate is unreliable
_MANY_ROWS = 0.05
Pairs = tuple[tuple[str, str], ...]
_ELBOS = ("elbo", "elbo_sampled", "elbo_entropy", objectives.elbo, objectives.elbo_sampled, objectives.elbo_entropy)
_NOT_KNOWN = ", which is not known to be a lower bound on log p(x)"
_TWO_PARTS = "The first figure shows that objective. In the second, the ELBO is the difference of the two terms."


@dataclass(frozen=True)
class Evidence:
    """Headline of the report: the mean of log p(x), its error, how it was estimated, and warnings."""

    mean: str
    error: str
    bits: str | None
    how: str
    facts: Pairs
    warning: str | None
    verdict: Verdict

    @classmethod
    def of(cls, evidence: LogLikelihood, verdict: Verdict, vae: FittedVAE) -> Evidence:
        digits = decimals(evidence.mean_standard_error)
        discrete = vae.model_.likelihood.measure == "counting"
        bits = number(evidence.bits_per_dimension(vae.shape_), 3) if discrete else None
        how = (
            f"Over {len(evidence.estimate):,} rows, by importance sampling with {draws_words(evidence)} draws per row "
            f"{proposals_words(evidence)}: a lower bound in expectation. ± is one standard error over rows; the Monte "
            f"Carlo error for these rows is {evidence.mean_monte_carlo_error:.2g}."
        )
        if vae.binarise != "none":
            how += " Grey values were binarised at random, once, for scoring."
        mean, error = number(evidence.mean, digits), number(evidence.mean_standard_error, digits)
        return cls(mean, error, bits, how, _facts(evidence, vae.model_.likelihood.measure), _warning(evidence), verdict)


def _facts(evidence: LogLikelihood, measure: Measure) -> Pairs:
    digits = decimals(evidence.mean_elbo_standard_error)
    elbo = f"{number(evidence.mean_elbo, digits)} ± {number(evidence.mean_elbo_standard_error, digits)} nats per row"
    gap = evidence.mean - evidence.mean_elbo
    measures = {
        "counting": "counting: log probabilities",
        "Lebesgue": "Lebesgue: log densities in the data's units; they depend on the units and can be above\u00a00",
        "mixed": "mixed: log densities of some columns, in their units, and log probabilities of the others",
    }
    ess = f"{_round(evidence.ess.min())} in the worst row, {_round(np.median(evidence.ess))} in the median row"
    ess += f", of {draws_words(evidence)} draws"
    return (
        ("ELBO", f"{elbo}; {number(gap, decimals(gap))} below the estimate"),
        ("Base measure", measures[measure]),
        ("Effective sample size", ess),
    )


def _warning(evidence: LogLikelihood) -> str | None:
    """Return a warning if more than one row in twenty has fewer than ten effective draws."""
    few = evidence.ess < _FEW_DRAWS
    if few.mean() <= _MANY_ROWS:
        return None
    return (
        f"In {few.sum():,} of {len(few):,} rows the effective sample size is below {_FEW_DRAWS}. Their estimates may "
        "be well below log p(x) and the Monte Carlo error too small; use more draws. (This warning is shown if more "
        f"than {_MANY_ROWS:.0%} of rows are affected.)"
    )


def decimals(error: float) -> int:
    """Return the number of decimals that show two digits of ``error``."""
    return int(np.clip(1 - math.floor(math.log10(error)), 0, 4)) if math.isfinite(error) and error > 0 else 2


def number(value: float, digits: int) -> str:
    """Format a number with a true minus sign, and without one at 0."""
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def _round(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def training_notes(vae: FittedVAE, training: Training | None) -> tuple[str, ...]:
    """Describe the objective, if it is not the ELBO, and which epoch was kept."""
    if training is None:
        return ("The fit has no records of its epochs.",)
    notes = [_kept(training), *_maximised(vae)]
    rescues = vae.history_.rescues
    if rescues:
        notes.append(f"Values became infinite or NaN {len(rescues)} times: {'; '.join(rescues)}.")
    return tuple(notes)


def _kept(training: Training) -> str:
    if training.last:
        end = f"a last phase of {training.last} epochs, so the model is that of the last epoch"
        if training.kept is None:
            return f"The fit ended with {end}."
        return f"Epoch {training.kept} was the best by its validation objective. From its state began {end}."
    if training.valid is None:
        return "No rows were held out during training, so the model is that of the last epoch."
    if training.kept is None:
        return "The epoch that was kept is not recorded."
    return f"The model is that of epoch {training.kept}, the best by its validation objective."


def last_phase(training: Training) -> str:
    """What the last phase of a fit is, for the caption of a figure; empty if there was none."""
    if not training.last:
        return ""
    rows = "all rows, those held out too" if training.valid is not None else "the same rows"
    return f" Grey: the last phase, which learns from {rows}, at a learning rate that falls to almost 0."


def chosen(vae: FittedVAE) -> Pairs:
    """The arguments that were "auto", each with the value chosen for these rows and why."""
    found = getattr(vae, "chosen_", {})
    whys = (choice.why for choice in found.values())
    return tuple((name, f"{value} ({why})") for (name, value), why in zip(in_words(found).items(), whys, strict=True))


def training_of(vae: FittedVAE) -> Training | None:
    """Read the training curves of the objective from the history."""
    return Training.of(vae.history_, is_elbo=not _maximised(vae))


def _maximised(vae: FittedVAE) -> list[str]:
    """Describe how the objective differs from the ELBO; empty if it does not."""
    betas = sorted({record.get("beta", 1.0) for record in vae.history_.records})
    floor, draws, objective = getattr(vae, "free_bits", 0), vae.draws_, vae.objective_
    notes = []
    if betas not in ([1.0], []):
        weight = f"β = {betas[0]:.3g}" if len(betas) == 1 else f"β between {betas[0]:.3g} and {betas[-1]:.3g}"
        growing = "" if len(betas) == 1 else " While β grows, the training objective decreases for that reason alone."
        notes.append(f"Training weighted the KL by {weight}, so its objective is not a bound on log p(x).{growing}")
    if floor:
        notes.append(f"Training left {floor:.3g} nats of KL per latent free, so its objective is not a bound.")
    if alpha := getattr(vae, "label_weight", 0):
        notes.append(
            f"Training gave log q(y|x) of labelled rows a weight of {alpha:.3g}: its objective is not a bound."
        )
    if objective == "iwae" or objective is objectives.iwae:
        if draws > 1:
            notes.append(f"Training maximised the importance-weighted objective with {draws} draws, a tighter bound.")
    elif objective not in _ELBOS:
        drawn = f" with {draws} draws" if draws > 1 else ""
        bound = "" if isinstance(objective, str) or not objectives.why_no_bound(objective) else _NOT_KNOWN
        notes.append(f"Training maximised the objective {_called(objective)}{drawn}{bound}.")
    return [*notes[:-1], f"{notes[-1]} {_TWO_PARTS}"] if notes else []


def _called(objective: Any) -> str:
    """Return an objective's name; for a partial, that of its function."""
    if isinstance(objective, partial):
        return _called(objective.func)
    return str(getattr(objective, "__name__", objective if isinstance(objective, str) else type(objective).__name__))


def likelihood_words(likelihood: Likelihood) -> str:
    """Describe p(x|z) for the lead sentence."""
    if (product := _product(likelihood)) is not None:
        return f"a likelihood for each of {len(product.measures)} columns"
    return f"a {type(likelihood).__name__} likelihood"


def _product(likelihood: Likelihood) -> Product | None:
    """Return the product over columns: the likelihood itself, or the one inside ``SelfMasking``."""
    inner = likelihood.of_values
    return inner if isinstance(inner, Product) else None


def configuration(vae: FittedVAE, rows: int, names: Sequence[str] | None = None) -> Pairs:
    """Describe the model and how it was fitted. ``names``: column names of a table."""
    history, parts = vae.history_, modules_of(vae)
    count = sum(parameter.numel() for part in parts for parameter in part.parameters())
    stopped = STOPPED.get(str(history.stopped), "not recorded")
    classes = getattr(vae, "classes_", None)
    return (
        ("Likelihood p(x|z)", _by_column(vae.model_.likelihood, names) or describe(vae.model_.likelihood)),
        ("Prior p(z)", describe(vae.model_.prior)),
        ("Posterior q(z|x)", posterior_words(vae)),
        ("Inference", vae.inference_),
        ("Latents", latents_words(vae)),
        *(() if classes is None else (("Classes y", f"{len(classes)}: {', '.join(map(str, classes[:20].tolist()))}"),)),
        ("A row", f"{' × '.join(map(str, vae.shape_))} of {vae.dtype_}; {rows:,} of them here"),
        ("Parameters", f"{count:,}"),
        ("Seed", str(vae.seed_)),
        ("Epochs run", f"{len(history.records)}; {stopped}"),
        ("Versions", f"lowerbound {lowerbound.__version__}, torch {torch.__version__}"),
    )


def modules_of(vae: FittedVAE) -> tuple[torch.nn.Module, ...]:
    """The model, and the posterior if the inference learnt one."""
    return (vae.model_, vae.posterior_) if has_posterior(vae) else (vae.model_,)


def latents_words(vae: FittedVAE) -> str:
    """Count the latents; where they have names, those of each."""
    parts = latents_of(vae) if has_posterior(vae) else {}
    each = ", ".join(f"{part.latent_dim} of {name}" for name, part in parts.items()) if len(parts) > 1 else ""
    return f"{count_of(vae)} ({each})" if each else str(count_of(vae))


def posterior_words(vae: FittedVAE) -> str:
    """Describe q(z|x)."""
    if not has_posterior(vae):
        return "none was learnt"
    return f"{type(vae.posterior_.amortised).__name__}, {vae.posterior_.how}"


def _by_column(likelihood: Likelihood, names: Sequence[str] | None) -> str:
    """List the likelihoods of a product, each with its columns; empty for other likelihoods."""
    product = _product(likelihood)
    if names is None or product is None:
        return ""
    pairs = zip(product.likelihoods, product.of, strict=True)
    found = "; ".join(f"{type(part).__name__} of {', '.join(names[j] for j in block)}" for part, block in pairs)
    return found if product is likelihood else f"{type(likelihood).__name__}: {found}"


def describe(part: Any) -> str:
    """Describe a part by its class name and constructor arguments."""
    names = [name for name in inspect.signature(type(part)).parameters if hasattr(part, name)]
    return f"{type(part).__name__}({', '.join(f'{name}={getattr(part, name)!r}' for name in names)})"


READING = (
    "The ELBO is below log p(x) by KL(q(z|x) ‖ p(z|x)), the divergence of the encoder's posterior from the true one "
    "(Kingma & Welling 2013). Importance sampling closes part of that gap; more draws close more (Burda et al. 2016).",
    "Compare two models on the same rows: take the difference per row, and report its mean and standard error. Both "
    "models must have the same base measure and units.",
    "Reconstructions show what information the latents hold on a row; samples show whether the prior covers such "
    "latents. A model can do well at one and badly at the other.",
)


def headline(evidence: LogLikelihood | None, held_out: bool) -> str:
    """Return the estimate and its standard error in one line."""
    if evidence is None:
        return "no posterior, so no estimate of log p(x)"
    digits = decimals(evidence.mean_standard_error)
    mean, error = number(evidence.mean, digits), number(evidence.mean_standard_error, digits)
    return f"{'held-out ' if held_out else ''}log p(x) {mean} ± {error} nats per row"


def legible(text: str) -> str:
    """Replace bytes of a path that are not UTF-8, so that the text can be written."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
