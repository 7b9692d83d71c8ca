"""Every estimator of log p(x) against PCA, whose evidence is known: digits, standardised, and raw as a control.

    python benchmarks/annealing.py [--rows 100] [--seed 0]

Probabilistic PCA of 2, 10 and 50 latents. Importance sampling from q (widened by 1.1) and from the prior, annealing
from q and from the prior with 100, 1,000 and (50 latents) 10,000 temperatures, backwards from exact draws of p(z|x):
mean error over rows, in nats, and its Monte Carlo error. Result: benchmarks/results/annealing.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from kit import record
from lowerbound.data import Rows
from lowerbound.distributions import generator
from lowerbound.evidence import Settings, annealed, importance_sampling, of_model, sandwich, simulator

sys.path.append(str(Path(__file__).parents[1] / "tests/helpers"))

from oracles import PPCA

CHAINS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = record.parse(parser, rows=4)
    raw = load_digits().data
    raw = raw[:, raw.std(0) > 0]
    standard = (raw - raw.mean(0)) / raw.std(0)
    result = record.context(options.seed) | {"rows": options.rows, "lines": []}
    for name, data, latents, finest in (
        ("standardised", standard, 2, 1000),
        ("standardised", standard, 10, 1000),
        ("standardised", standard, 50, 10_000),
        ("raw", raw, 50, 1000),
    ):
        for line in lines(data, latents, 50 if options.quick else finest, options):
            result["lines"].append({"data": name, "latents": latents} | line)
            print(result["lines"][-1], flush=True)
    record.write("annealing", result, page(result), options.quick)


def lines(data: np.ndarray, latents: int, finest: int, options: argparse.Namespace) -> Any:
    """Each estimator on the first rows."""
    oracle, x = PPCA.of(data, latents), torch.tensor(data[: options.rows])
    truth = PCA(latents).fit(data).score_samples(data[: options.rows])
    model, posterior = oracle.model(), oracle.posterior(1.1)
    targets, rows, rng = of_model(model, posterior), Rows(x, dtype=torch.float64), generator(options.seed, "study")

    def line(name: str, run: Any) -> dict[str, Any]:
        start = time.perf_counter()
        found = run()
        error = found.estimate - truth
        return {
            "estimator": name,
            "mean_error": float(error.mean()),
            "monte_carlo_error": found.mean_monte_carlo_error,
            "seconds": time.perf_counter() - start,
        }

    yield line("IS-1000 from q", lambda: importance_sampling(targets, rows, rng, 1000))
    by_prior = importance_sampling(targets, rows, rng, 1000, source="prior")
    yield line("IS-1000 from p(z)", lambda: by_prior) | {"reliable": int(by_prior.reliable.sum())}
    yield line("AIS from q, 100", lambda: annealed(targets, rows, rng, Settings(100, CHAINS)))
    for temperatures in (100, 1000, 10_000):
        if temperatures <= finest:
            finer = partial(annealed, targets, rows, rng, Settings(temperatures, CHAINS, start="prior"))
            yield line(f"AIS from p(z), {temperatures:,}", finer)
    exact = drawn(oracle, x, options.seed)
    settings = Settings(min(finest, 1000), CHAINS, start="prior")
    yield line("backwards from p(z|x), upper", lambda: annealed(targets, rows, rng, settings, exact))
    both = sandwich(targets, simulator(model, posterior), rng, options.rows, settings)
    yield {"estimator": "sandwich, simulated rows", "gap": both.mean_gap, "gap_standard_error": both.mean_gap_error}


def drawn(oracle: PPCA, x: torch.Tensor, seed: int) -> torch.Tensor:
    """z ~ p(z|x), one for each row."""
    covariance = torch.linalg.inv(oracle.precision)
    mean = (x - oracle.mean) @ oracle.weight @ covariance / oracle.variance
    noise = torch.randn(mean.shape, generator=generator(seed, "exact"), dtype=torch.float64)
    found: torch.Tensor = mean + noise @ torch.linalg.cholesky(covariance).T
    return found


def page(r: dict[str, Any]) -> str:
    table = ["# log p(x) of PCA, by every estimator", ""]
    table += [
        "| digits | latents | estimator | mean error, nats | Monte Carlo | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for each in r["lines"]:
        head = f"| {each['data']} | {each['latents']} | {each['estimator']} |"
        if "gap" in each:
            table.append(f"{head} gap {each['gap']:.3f} | {each['gap_standard_error']:.3f} (rows) | |")
            continue
        doubt = f" ({each['reliable']} of {r['rows']} rows reliable)" if "reliable" in each else ""
        table.append(
            f"{head} {each['mean_error']:+.3f}{doubt} | {each['monte_carlo_error']:.3f} | {each['seconds']:.0f} |"
        )
    return "\n".join(
        [
            *table,
            "",
            f"- {r['rows']} rows; {CHAINS} chains, 10 leapfrogs; truth: scikit-learn's `PCA.score_samples`. Raw digits "
            "are the negative control: annealing from the prior is far off with a small error of its own, and the "
            "sandwich shows it.",
            *record.footer(r),
            "",
        ]
    )


if __name__ == "__main__":
    main()
