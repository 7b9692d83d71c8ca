"""MNIST binarised afresh: objectives, estimators, a prior and a posterior on the same network, equal epochs for each.

    python benchmarks/mnist_bounds.py [--only "IWAE 50,DReG 50"] [--epochs 30] [--folder DIR] [--seed 0]

784-200-200-50 tanh, batch 100, 60,000 training rows, 10,000 test rows binarised once; −log p(x) by 1,000 draws, rows
paired. Each contender's rows are kept in ``--cache`` as they come, so that a run in parts makes the same page once all
are there. Result: benchmarks/results/mnist_bounds.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lowerbound as lb
from kit import record
from lowerbound import gradients, objectives, posteriors
from lowerbound.distributions import generator
from lowerbound.posteriors import Posterior

LATENTS, HIDDEN, BATCH, SAMPLES = 50, (200, 200), 100, 1000


@dataclass(frozen=True)
class Way:
    """What differs from the VAE: settings of ``AEVB``, the posterior, and whether the prior is a VampPrior."""

    settings: dict[str, Any] = field(default_factory=dict)
    posterior: Any = posteriors.DiagonalNormal
    vamp: bool = False


WAYS = {
    "VAE": Way(),
    "IWAE 5": Way({"objective": objectives.iwae, "draws": 5}),
    "IWAE 50": Way({"objective": objectives.iwae, "draws": 50}),
    "DReG 50": Way({"objective": objectives.iwae, "draws": 50, "gradient": gradients.doubly_reparameterised}),
    "VampPrior": Way({"objective": objectives.elbo_sampled}, vamp=True),
    "flow": Way({"objective": objectives.elbo_sampled}, partial(posteriors.Flow, kind="realnvp")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared/data/mnist")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/lowerbound-bench/mnist_bounds")
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--train-rows", type=int, help="of MNIST (default: all)")
    parser.add_argument("--test-rows", type=int, help="of MNIST (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    options = record.parse(parser, epochs=1, train_rows=200, test_rows=20)
    if options.quick:
        options.cache /= "quick"
    options.cache.mkdir(parents=True, exist_ok=True)
    data = record.mnist(options.folder)
    rows = lb.data.Rows.from_array(data.train[: options.train_rows], binarise="afresh")
    test = lb.data.Rows.from_array(
        data.test[: options.test_rows], binarise="fixed", generator=generator(options.seed, "test")
    )
    for name in options.only.split(","):
        found = learn(WAYS[name], rows, test, options)
        np.save(options.cache / f"{name}.npy", found.pop("rows"))
        (options.cache / f"{name}.json").write_text(json.dumps(found))
        print(name, found, flush=True)
    there = {name: options.cache / f"{name}.json" for name in WAYS}
    if all(path.exists() for path in there.values()):
        result = record.context(options.seed) | {"epochs": options.epochs, "samples": SAMPLES}
        result["ways"] = {name: json.loads(path.read_text()) for name, path in there.items()}
        scores = {name: np.load(options.cache / f"{name}.npy") for name in WAYS}
        for name, found in result["ways"].items():
            found["over_the_vae"] = paired(scores[name], scores["VAE"])
        record.write("mnist_bounds", result, page(result), options.quick)


def train(way: Way, rows: lb.data.Rows, epochs: int, seed: int) -> tuple[lb.LatentVariableModel, Posterior, float]:
    """A fitted model with its posterior, and the seconds that the fit took."""
    with lb.nn.seeded(seed):
        width = way.posterior(LATENTS, encoder=torch.nn.Identity()).n_outputs
        encoder = lb.nn.MLP((28, 28), (width,), HIDDEN, torch.nn.Tanh)
        decoder = lb.nn.MLP((LATENTS,), (28, 28), HIDDEN, torch.nn.Tanh)
        posterior: Posterior = way.posterior(LATENTS, encoder=encoder)
        prior = lb.priors.VampPrior((LATENTS,), (28, 28)) if way.vamp else lb.priors.Normal(LATENTS)
    model = lb.LatentVariableModel(prior, decoder, lb.likelihoods.Bernoulli())
    model.initialise(rows.x[:10_000].float() / 255)
    rate = lb.training.Cosine(1e-3, epochs=epochs)
    inference = lb.AEVB(posterior, learning_rate=rate, compile=True, **way.settings)
    start = time.perf_counter()
    lb.fit(model, rows, inference, epochs=epochs, batch_size=BATCH, validation=0, seed=seed)
    return model, posterior, time.perf_counter() - start


def learn(way: Way, rows: lb.data.Rows, test: lb.data.Rows, options: argparse.Namespace) -> dict[str, Any]:
    model, posterior, seconds = train(way, rows, options.epochs, options.seed)
    trained = time.perf_counter()
    found = lb.log_likelihood(model, posterior, test, samples=SAMPLES, seed=options.seed)
    return {
        "rows": found.estimate,
        "nll": -found.mean,
        "standard_error": found.mean_standard_error,
        "monte_carlo_error": found.mean_monte_carlo_error,
        "elbo": found.mean_elbo,
        "minutes_training": seconds / 60,
        "minutes_scoring": (time.perf_counter() - trained) / 60,
        "commit": record.context(options.seed)["commit"],
    }


def paired(ours: np.ndarray, theirs: np.ndarray) -> list[float]:
    """Mean difference in log p(x) of the same rows, and its standard error."""
    difference = ours - theirs
    return [float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))]


def page(r: dict[str, Any]) -> str:
    lines = ["# MNIST binarised afresh: bounds, estimators, a prior and a posterior", ""]
    lines += [f"| | −log p(x), IS-{SAMPLES} | ± over rows | ELBO | log p(x) over the VAE's, paired | minutes |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, each in sorted(r["ways"].items(), key=lambda item: item[1]["nll"]):
        mean, error = each["over_the_vae"]
        over = "" if name == "VAE" else f"{mean:+.2f} ± {error:.2f}"
        errors = f"{each['standard_error']:.2f} (Monte Carlo {each['monte_carlo_error']:.3f})"
        lines += [
            f"| {name} | {each['nll']:.2f} | {errors} | {each['elbo']:.2f} | {over} | {each['minutes_training']:.1f} |"
        ]
    return "\n".join(
        [
            *lines,
            "",
            f"- 784-200-200-50 tanh, Bernoulli, batch {BATCH}, Adam, 1e-3 to 0 along a cosine, {r['epochs']} epochs of "
            "60,000 rows for each, compiled; one seed. Published, after 3,280 epochs at batch 20: 86.76 (VAE), 85.54 "
            "(IWAE 5), 84.78 (IWAE 50), 84.32 (DReG 50): the same order.",
            "- The flow is two coupling maps after the diagonal normal and maximises the sampled ELBO: in 30 epochs it "
            "gains nothing over the VAE with its KL in closed form. One seed: fits may differ by more than the errors.",
            *record.footer(r),
            "",
        ]
    )


if __name__ == "__main__":
    main()
