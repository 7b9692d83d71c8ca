"""MNIST, binarised once: a plain VAE, two layers from the rows up, and ladders, on log p(x) of the test rows.

    python benchmarks/hierarchies.py [--minutes 60] [--only "VAE,ladder 3"] [--epochs 300] [--seeds 1] [--folder DIR]

60,000 training and 10,000 test images, each pixel 1 with probability grey/255, drawn once; −log p(x) by 1,000 draws. A
fit is stopped when the minutes are over, and continues from its last checkpoint when the study is run again; what a fit
has reached is scored in either case, with its epochs. Result: benchmarks/results/hierarchies.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

import lowerbound as lb
from kit import record
from lowerbound import objectives, posteriors, priors, recipes
from lowerbound.data import Rows
from lowerbound.distributions import generator
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Posterior

BATCH, SAMPLES = 100, 1000
Made = tuple[LatentVariableModel, Posterior]


def one_layer(x: torch.Tensor, seed: int) -> Made:
    """784-200-200-50, tanh: the one-layer model of Burda et al. 2016."""
    with lb.nn.seeded(seed):
        decoder = lb.nn.MLP((50,), (28, 28), (200, 200))
        posterior = posteriors.DiagonalNormal(50, lb.nn.MLP((28, 28), (100,), (200, 200)))
    model = LatentVariableModel(priors.Normal(50), decoder, lb.likelihoods.Bernoulli())
    model.initialise(x)
    return model, posterior


@dataclass(frozen=True)
class Way:
    """How a model is made of rows and a seed, the settings of ``AEVB``, and the published −log p(x)."""

    make: Callable[..., Made]
    settings: dict[str, Any] = field(default_factory=dict)
    published: str = ""


IWAE = {"objective": objectives.iwae, "draws": 50}
WAYS = {
    "VAE": Way(one_layer, published="86.76, afresh"),
    "two layers": Way(recipes.iwae_two_layers, published="85.33, afresh"),
    "two layers, IWAE 50": Way(recipes.iwae_two_layers, IWAE, "82.90, afresh"),
    "ladder 3": Way(partial(recipes.ladder, latents=(64, 32, 16)), published="79.24, 3 layers, convolutional"),
    "ladder 3, convolutional": Way(
        partial(recipes.ladder, latents=(64, 32, 16), channels=(32, 64, 64)), published="79.24, 3 layers"
    ),
    "ladder 5": Way(partial(recipes.ladder, latents=(64, 32, 16, 8, 4)), published="81.74, afresh, 5 layers"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared/data/mnist")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/lowerbound-bench/hierarchies")
    parser.add_argument("--only", default=",".join(WAYS), help="some of: " + ", ".join(WAYS))
    parser.add_argument("--minutes", type=float, default=60, help="of training, over all fits")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--train-rows", type=int, help="of MNIST (default: all)")
    parser.add_argument("--test-rows", type=int, help="of MNIST (default: all)")
    options = record.parse(parser, epochs=1, train_rows=100, test_rows=10, minutes=5)
    if options.quick:
        options.cache /= "quick"
    options.cache.mkdir(parents=True, exist_ok=True)
    names, data = _ways(options.only), record.mnist(options.folder)
    until = time.monotonic() + 60 * options.minutes
    for seed in range(options.seeds):
        train, test = (
            Rows.from_array(own[:most], binarise="fixed", generator=generator(0, name))
            for own, most, name in (
                (data.train, options.train_rows, "train"),
                (data.test, options.test_rows, "test"),
            )
        )
        for name in names:
            path = options.cache / f"{name}, {seed}.json"
            if (path.exists() and json.loads(path.read_text())["epochs"] >= options.epochs) or time.monotonic() > until:
                continue
            found = learn(name, seed, train, test, options, until)
            path.write_text(json.dumps(found))
            print(f"{name}, seed {seed}: {found}", file=sys.stderr, flush=True)
    report(options)


def learn(name: str, seed: int, train: Rows, test: Rows, options: argparse.Namespace, until: float) -> dict[str, Any]:
    """Fit, or continue to fit, until the time or the epochs are over; then log p(x) of the test rows."""
    way, run = WAYS[name], options.cache / f"{name}, {seed}"
    model, posterior = way.make(_some(train), seed=seed)
    rate = lb.training.Cosine(1e-3, options.epochs, end=1e-5)
    inference = lb.AEVB(posterior, learning_rate=rate, compile=not options.quick, **way.settings)
    start = time.perf_counter()
    found = lb.fit(
        model,
        train,
        inference,
        epochs=options.epochs,
        batch_size=BATCH,
        validation=0,
        seed=seed,
        run_dir=run,
        callbacks=[lambda event: time.monotonic() > until],
    )
    trained, last = time.perf_counter(), found.history.records[-1] if found.history.records else {}
    score = lb.log_likelihood(model, posterior, test, samples=SAMPLES, seed=seed)
    before = run / "minutes.json"
    minutes = (trained - start) / 60 + (json.loads(before.read_text()) if before.exists() else 0.0)
    before.write_text(json.dumps(minutes))
    return {
        "nll": -score.mean,
        "standard_error": score.mean_standard_error,
        "monte_carlo_error": score.mean_monte_carlo_error,
        "elbo": score.mean_elbo,
        "kl": {key.removeprefix("train_kl_"): last[key] for key in last if key.startswith("train_kl_")},
        "epochs": len(found.history.records),
        "minutes": minutes,
        "commit": record.context(seed)["commit"],
    }


def report(options: argparse.Namespace) -> None:
    """Write the page of all fits in the cache."""
    fits = record.known(options.cache, WAYS, options.seeds)
    result = record.context(0) | {"fits": fits, "of_epochs": options.epochs}
    record.write("hierarchies", result, page(result), options.quick)


def _some(rows: Rows) -> torch.Tensor:
    index = torch.arange(min(len(rows), 10_000))
    return rows.batch(index, torch.ones(len(index))).x


def _ways(only: str) -> list[str]:
    """The names of ``WAYS`` in a list with commas, some of which have a comma themselves."""
    names = [name for name in WAYS if f",{name}," in f",{only},"]
    if not names:
        sys.exit(f"--only {only!r} names none of: {', '.join(WAYS)}.")
    return names


def page(r: dict[str, Any]) -> str:
    lines = ["# MNIST binarised once: layers of latents", ""]
    lines += ["| model | −log p(x), nats | ± over rows | ELBO | KL of z1, z2, … | epochs | minutes | published |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, fits in r["fits"].items():
        for each in fits:
            kl = ", ".join(f"{value:.1f}" for value in each["kl"].values()) or "–"
            errors = f"{each['standard_error']:.2f} (Monte Carlo {each['monte_carlo_error']:.3f})"
            lines += [
                f"| {name} | {each['nll']:.2f} | {errors} | {each['elbo']:.2f} | {kl} | {each['epochs']} | "
                f"{each['minutes']:.1f} | {WAYS[name].published} |"
            ]
    return "\n".join(
        [
            *lines,
            "",
            f"- −log p(x) of the test rows by importance sampling with {SAMPLES} draws. Batch {BATCH}, Adam, 1e-3 to "
            f"1e-5 along a cosine of {r['of_epochs']} epochs, compiled; a fit with fewer was stopped by the time.",
            "- Pixels are binarised once, by draws of this study, not by the published file of static MNIST. Figures "
            '"afresh" are of MNIST binarised afresh each epoch, which overfits less. Published: Burda et al. 2016, '
            "Sønderby et al. 2016, and the ladder with skip connections of `addtt/ladder-vae-pytorch` (static MNIST).",
            *record.footer(r),
            "",
        ]
    )


if __name__ == "__main__":
    main()
