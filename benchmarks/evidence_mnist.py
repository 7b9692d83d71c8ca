"""How much each estimator of log p(x) hides: a VAE, an IWAE and a VampPrior model of MNIST binarised afresh.

    python benchmarks/evidence_mnist.py [--epochs 30] [--rows 500] [--annealed 50] [--folder DIR] [--cache DIR]

The models of ``benchmarks/mnist_bounds.py`` (784-200-200-50 tanh, equal epochs), kept in ``--cache``. ELBO and IS-50,
-500 and -5000 of ``--rows`` test rows; annealing from q of ``--annealed`` of them, with 500 and 1,000 temperatures;
the sandwich of as many simulated rows. Result: benchmarks/results/evidence_mnist.{json,md} and docs/evidence.png.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
import torch
from matplotlib import pyplot

import lowerbound as lb
from kit import record
from lowerbound import evidence
from lowerbound.distributions import generator
from lowerbound.evidence import Settings
from lowerbound.evidence.estimates import error_of_mean
from mnist_bounds import WAYS, train

MODELS = {"VAE": "VAE", "IWAE 5": "IWAE 5", "VampPrior": "VampPrior"}
DRAWS = (50, 500, 5000)
SETTINGS = Settings(temperatures=500, chains=4, leapfrogs=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared/data/mnist")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/lowerbound-bench/mnist_bounds")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--train-rows", type=int, help="of MNIST (default: all)")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--annealed", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = record.parse(parser, epochs=1, rows=4, annealed=2, train_rows=200)
    if options.quick:
        options.cache /= "quick"
    data = record.mnist(options.folder)
    test = lb.data.Rows.from_array(data.test[: options.rows], binarise="fixed", generator=generator(0, "test"))
    result = record.context(options.seed) | {"epochs": options.epochs, "rows": options.rows, "models": {}}
    for name, title in MODELS.items():
        folder = options.cache / name
        if not (folder / "config.json").exists():
            rows = lb.data.Rows.from_array(data.train[: options.train_rows], binarise="afresh")
            model, posterior, _ = train(WAYS[name], rows, options.epochs, options.seed)
            lb.save(folder, model, posterior)
        found: Any = lb.load(folder)
        result["models"][title] = judged(found.model.eval(), found.posterior.eval(), test, options)
        print(title, result["models"][title], flush=True)
    record.write("evidence_mnist", result, page(result), options.quick)
    if not options.quick:
        picture(result, Path(__file__).parents[1] / "docs/evidence.png")


def judged(model: lb.LatentVariableModel, posterior: Any, test: lb.data.Rows, options: Any) -> dict[str, Any]:
    """Every estimator on the same rows; those that anneal on the first of them."""
    targets, rng = evidence.of_model(model, posterior), generator(options.seed, "study")
    settings = replace(SETTINGS, temperatures=10) if options.quick else SETTINGS
    some, found = test.subset(torch.arange(options.annealed)), {}
    for draws in DRAWS:
        start = time.perf_counter()
        each = evidence.importance_sampling(targets, test, rng, draws)
        found[f"IS-{draws}"] = summary(each.estimate, each.mean_monte_carlo_error, start, options.annealed)
        found[f"IS-{draws}"]["unreliable"] = int((~each.reliable).sum())
        found["ELBO"] = summary(each.elbo, float("nan"), start, options.annealed)
    start = time.perf_counter()
    real = evidence.steadiness(targets, some, rng, settings)
    found["AIS"] = summary(real.twice.estimate, real.twice.mean_monte_carlo_error, start, options.annealed)
    found["AIS"] |= {"moved": real.moved, "acceptance": real.acceptance[0], "deviation": real.spread[0]}
    start = time.perf_counter()
    both = evidence.sandwich(targets, evidence.simulator(model, posterior), rng, options.annealed, settings)
    found["sandwich"] = {
        "gap": both.mean_gap,
        "gap_standard_error": both.mean_gap_error,
        "lower": both.lower.mean,
        "upper": both.upper.mean,
        "acceptance": float(both.lower.acceptance.mean()),
        "seconds": time.perf_counter() - start,
    }
    return found


def summary(values: np.ndarray, monte_carlo: float, start: float, annealed: int) -> dict[str, Any]:
    """Of all rows, and of those that are annealed too."""
    return {
        "mean": float(values.mean()),
        "standard_error": error_of_mean(values),
        "monte_carlo_error": monte_carlo,
        "of_the_annealed": float(values[:annealed].mean()),
        "seconds": time.perf_counter() - start,
    }


def page(r: dict[str, Any]) -> str:
    lines = ["# How much each estimator hides", ""]
    for title, found in r["models"].items():
        lines += [f"## {title}", "", "| estimator | rows | nats per row | Monte Carlo | annealed rows | seconds |"]
        lines += ["|---|---|---|---|---|---|"]
        for name in ("ELBO", *(f"IS-{draws}" for draws in DRAWS), "AIS"):
            each = found[name]
            doubtful = f" ({each['unreliable']} rows unreliable)" if "unreliable" in each else ""
            rows = r["rows"] if name != "AIS" else "annealed"
            error = "" if np.isnan(each["monte_carlo_error"]) else f"{each['monte_carlo_error']:.3f}"
            lines += [
                f"| {name} | {rows}{doubtful} | {each['mean']:.2f} ± {each['standard_error']:.2f} | {error} | "
                f"{each['of_the_annealed']:.2f} | {each['seconds']:.0f} |"
            ]
        both, real = found["sandwich"], found["AIS"]
        moved, moved_error = real["moved"]
        lines += [
            "",
            f"Twice the temperatures move AIS by {moved:+.3f} ± {moved_error:.3f}; the sandwich of simulated rows: "
            f"{both['lower']:.2f} to {both['upper']:.2f}, gap {both['gap']:.3f} ± {both['gap_standard_error']:.3f} "
            f"({both['seconds']:.0f} s). Acceptance {real['acceptance']:.0%} on real rows, {both['acceptance']:.0%} on "
            f"simulated ones.",
            "",
        ]
    return "\n".join(
        [
            *lines,
            f"- 784-200-200-50 tanh, Bernoulli (counting measure), {r['epochs']} epochs; ± over rows. AIS from q: "
            f"{SETTINGS.temperatures} and {2 * SETTINGS.temperatures} temperatures, {SETTINGS.chains} chains, "
            f"{SETTINGS.leapfrogs} leapfrogs. All but the ELBO are lower bounds in expectation that close as they are "
            "given more; the ELBO is a lower bound that does not.",
            *record.footer(r),
            "",
        ]
    )


def picture(r: dict[str, Any], path: Path) -> None:
    """What each estimator finds above the ELBO, on the rows that all were given."""
    names = ["ELBO", *(f"IS-{draws}" for draws in DRAWS), "AIS"]
    figure, ax = pyplot.subplots(figsize=(7.2, 3.6), layout="constrained")
    for offset, (title, found) in enumerate(r["models"].items()):
        heights = [found[name]["of_the_annealed"] for name in names]
        places = np.arange(len(names)) + 0.27 * (offset - 1)
        bars = ax.bar(places, np.array(heights) - min(heights), 0.25, label=f"{title}: ELBO {heights[0]:.1f}")
        ax.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=7, padding=2)
    ax.set_xticks(range(len(names)), names)
    ax.set_ylabel("nats per row above the model's ELBO")
    ax.set_title("log p(x) of the same test rows, by estimator: all are lower bounds in expectation", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
