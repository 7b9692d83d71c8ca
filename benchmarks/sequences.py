"""JSB chorales: deep Kalman filters and variational RNNs on log p(x) of the test sequences, in nats per step.

    python benchmarks/sequences.py [--minutes 10] [--only "deep Kalman filter,VRNN"] [--seeds 1] [--folder DIR] [--page]

229 training, 76 validation and 77 test chorales in quarter notes, 88 notes per step. A fit is stopped when the minutes
are over, shared between the fits that are not complete, and continues from its last checkpoint when the study is run
again; what a fit has reached is scored in either case, with its epochs. The state with the best bound of the
validation sequences is kept. ``--page`` writes the page from what is there. Result:
benchmarks/results/sequences.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lowerbound as lb
from kit import record
from lowerbound import recipes
from lowerbound.data import Sequences
from lowerbound.distributions import generator
from lowerbound.inference.particles import particle_filter, particle_noise
from lowerbound.model import LatentVariableModel, distributions_of
from lowerbound.posteriors import Posterior

BATCH, LOWEST, NOTES = 20, 21, 88
Made = tuple[LatentVariableModel, Posterior]


@dataclass(frozen=True)
class Way:
    """How a model is made of rows and a seed, and how it is learnt."""

    make: Callable[..., Made]
    particles: int = 0
    published: str = "–"


DMM = "bound 6.93, importance sampling 6.39 (DMM)"
WAYS = {
    "deep Kalman filter": Way(partial(recipes.deep_kalman_filter, latent_dim=32, hidden=64), published=DMM),
    "VRNN": Way(partial(recipes.vrnn, latent_dim=32, hidden=64)),
    "VRNN, FIVO 4": Way(partial(recipes.vrnn, latent_dim=32, hidden=64), particles=4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared/data/jsb_chorales")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/lowerbound-bench/sequences")
    parser.add_argument("--only", default=";".join(WAYS), help="some of, with semicolons: " + "; ".join(WAYS))
    parser.add_argument("--minutes", type=float, default=10, help="of training, over all fits")
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=200, help="importance samples, and particles, per sequence")
    parser.add_argument("--rows", type=int, help="of each part of the data (default: all)")
    parser.add_argument("--page", action="store_true", help="fit nothing, write the page of what there is")
    options = record.parse(parser, epochs=1, rows=4, samples=5, minutes=5)
    if options.quick:
        options.cache /= "quick"
    options.cache.mkdir(parents=True, exist_ok=True)
    fits = [(name, seed) for seed in range(options.seeds) for name in WAYS if name in options.only.split(";")]
    if not fits:
        sys.exit(f"--only {options.only!r} names none of: {'; '.join(WAYS)}.")
    if not options.page:
        parts = chorales(options.folder, options.rows)
        left = [each for each in fits if not _complete(options, *each)]
        for name, seed in left:
            found = learn(name, seed, parts, options, 60 * options.minutes / len(left))
            (options.cache / f"{name}, {seed}.json").write_text(json.dumps(found))
            print(f"{name}, seed {seed}: {found}", file=sys.stderr, flush=True)
    report(options)


def chorales(folder: Path, most: int | None) -> dict[str, Sequences]:
    """Rows ``[T, 88]`` of 0 and 1 of each part."""
    path = folder / "jsb-chorales-quarter.json"
    if not path.exists():
        sys.exit(f"{path} is not there; --folder names the folder that holds it.")

    def roll(steps: list[list[int]]) -> np.ndarray[Any, Any]:
        found = np.zeros((len(steps), NOTES), np.float32)
        for t, notes in enumerate(steps):
            found[t, [note - LOWEST for note in notes if note >= LOWEST]] = 1
        return found

    data = json.loads(path.read_text())
    names = ("train", "valid", "test")
    sizes = [len(data[part][:most]) for part in names]
    every = Sequences([roll(row) for part in names for row in data[part][:most]])  # of one length: the longest of all
    places = torch.arange(len(every)).split(sizes)
    return {part: every.subset(own) for part, own in zip(names, places, strict=True)}


def learn(name: str, seed: int, parts: dict[str, Sequences], options: argparse.Namespace, seconds: float) -> Any:
    """Fit, or continue to fit, until the time or the epochs are over; then log p(x) of the test sequences."""
    way, run, start = WAYS[name], options.cache / f"{name}, {seed}", time.perf_counter()
    model, posterior = way.make(parts["train"], seed=seed)
    rate = lb.training.Cosine(3e-3, options.epochs, end=3e-5)
    settings: dict[str, Any] = {"learning_rate": rate, "clip_norm": 10.0}
    learning: Any = lb.AEVB(posterior, beta=lb.training.WarmUp(10), **settings)
    if way.particles:
        learning = lb.FIVO(posterior, way.particles, **settings)
    stops = [lambda event: time.perf_counter() - start > seconds]
    of_run: dict[str, Any] = {"run_dir": run, "callbacks": stops, "checkpoint_every": 100, "seed": seed}
    found = lb.fit(
        model, parts["train"], learning, epochs=options.epochs, batch_size=BATCH, validation=parts["valid"], **of_run
    )
    before = run / "minutes.json"
    minutes = (time.perf_counter() - start) / 60 + (json.loads(before.read_text()) if before.exists() else 0.0)
    before.write_text(json.dumps(minutes))
    return {
        **scores(model, posterior, parts["test"], options.samples, seed),
        "epochs": len(found.history.records),
        "best_epoch": found.history.best_epoch,
        "minutes": minutes,
        "samples": options.samples,
        "commit": record.context(seed)["commit"],
    }


@torch.no_grad()
def scores(model: LatentVariableModel, posterior: Posterior, rows: Sequences, samples: int, seed: int) -> Any:
    """−ELBO, and −log p(x) by importance sampling and by a particle filter from q, in nats per step, ± over rows."""
    steps = rows.lengths.double()
    by_weights = lb.log_likelihood(model, posterior, rows, samples=samples, seed=seed)
    by_filter, rng = [], generator(seed, "filter")
    for index in torch.arange(len(rows)).split(4):
        batch = rows.batch(index, torch.ones(len(index)))
        q, p = distributions_of(model, posterior, batch.x, batch.mask)
        noise = particle_noise(posterior, samples, len(index), rng, rows.dtype)
        by_filter.append(particle_filter(model, q, p, batch, noise).log_p)
    found = {
        "elbo": torch.from_numpy(by_weights.elbo),
        "importance_sampling": torch.from_numpy(by_weights.estimate),
        "filter": torch.cat(by_filter).double(),
    }
    result: dict[str, Any] = {}
    for name, each in found.items():
        mean = float(each.sum() / steps.sum())
        result[name] = -mean
        result[f"{name}_error"] = float((each - mean * steps).std() * len(rows) ** 0.5 / steps.sum())
    return result


def _complete(options: argparse.Namespace, name: str, seed: int) -> bool:
    path = options.cache / f"{name}, {seed}.json"
    return path.exists() and bool(json.loads(path.read_text())["epochs"] >= options.epochs)


def report(options: argparse.Namespace) -> None:
    """Write the page of all fits in the cache."""
    fits = record.known(options.cache, WAYS, options.seeds)
    result = record.context(0) | {"fits": fits, "of_epochs": options.epochs}
    record.write("sequences", result, page(result), options.quick)


def page(r: dict[str, Any]) -> str:
    lines = ["# JSB chorales: sequences of 88 notes, nats per step", ""]
    lines += [
        "| model | −ELBO | −log p, importance sampling | −log p, particle filter | epochs | minutes | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, fits in r["fits"].items():
        for each in fits:
            cells = [
                f"{each[key]:.3f} ± {each[f'{key}_error']:.3f}" for key in ("elbo", "importance_sampling", "filter")
            ]
            row = [name, *cells, f"{each['epochs']} of {r['of_epochs']}", f"{each['minutes']:.1f}"]
            lines.append(f"| {' | '.join(row)} | {WAYS[name].published} |")
    samples = sorted({each["samples"] for fits in r["fits"].values() for each in fits})
    return "\n".join(
        [
            *lines,
            "",
            f"- 77 test chorales; {', '.join(map(str, samples))} importance samples or particles per sequence from q. "
            "Both figures of log p(x) are lower bounds on it on average. ± is one standard error over sequences.",
            f"- 32 latents, 64 units; batch {BATCH}, Adam, 3e-3 to 3e-5 along a cosine of {r['of_epochs']} epochs, "
            "a KL warm-up of 10 epochs (not for FIVO); the state with the best bound of 76 validation chorales. A fit "
            "with fewer epochs was stopped by the time: its figures are those of a partial fit, above what it would "
            "reach.",
            "- Published: Krishnan, Shalit & Sontag 2017, a deep Markov model with larger networks, quoted from "
            "memory: check the figures before you cite them. The VRNN has no published figure of this protocol here.",
            *["- These are short fits: what a few minutes reach, not what the models can."] * (r["of_epochs"] < 500),
            *record.footer(r),
            "",
        ]
    )


if __name__ == "__main__":
    main()
