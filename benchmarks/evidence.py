"""How fast log p(x) is found: importance sampling and annealing, beside the matrix products that they need.

    python benchmarks/evidence.py [--rows 10000] [--samples 5000] [--adaptive-rows 300] [--rounds 5] [--folder DIR]
        [--cache DIR]

A 784-200-200-50 model of MNIST (as ``benchmarks/mnist_bounds.py`` trains it, here for 20 epochs, kept in ``--cache``).
The floor: the decoder's products alone, of the same shapes, in turn with what is measured. Adaptive: a number of draws
and a proposal for each row, against as many draws from q for all as give the same error in the worst row. Annealing:
gradients in z, beside forward and backward products and beside a loop over a PyTorch decoder. Result:
benchmarks/results/evidence.{json,md}.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lowerbound as lb
from kit import record
from lowerbound.distributions import generator
from lowerbound.evidence import Settings, annealed, importance_sampling, of_model, to_precision
from lowerbound.mcmc import Path as HamiltonianPath
from lowerbound.mcmc import transition

LATENTS, HIDDEN, CHUNK, EPOCHS = 50, 200, 4096, 20
MOST = 2**16  # draws that a row is given at most where every row has as many
SHAPES = ((LATENTS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 784))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared/data/mnist")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/lowerbound-bench/evidence")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--adaptive-rows", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--train-rows", type=int, help="of MNIST (default: all)")
    options = record.parse(parser, rows=400, samples=200, adaptive_rows=10, rounds=2, epochs=1, train_rows=1000)
    if options.quick:
        options.cache /= "quick"
    model, posterior, rows = prepared(options)
    targets = of_model(model, posterior)
    result = record.context(0) | {"rows": options.rows, "samples": options.samples}
    result["importance"] = of_importance(targets, rows, options)
    result["adaptive"] = of_adaptive(targets, rows, options)
    result["annealing"] = of_annealing(model, targets, rows, options.rounds)
    result["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    record.write("evidence", result, page(result), options.quick)


def prepared(options: argparse.Namespace) -> tuple[lb.LatentVariableModel, Any, lb.data.Rows]:
    """A model, and test rows binarised once."""
    options.cache.mkdir(parents=True, exist_ok=True)
    data = record.mnist(options.folder)
    rows = lb.data.Rows.from_array(data.test[: options.rows], binarise="fixed", generator=generator(0, "test"))
    if not (options.cache / "model" / "config.json").exists():
        with lb.nn.seeded(0):
            encoder = lb.nn.MLP((28, 28), (2 * LATENTS,), (HIDDEN, HIDDEN), torch.nn.Tanh)
            decoder = lb.nn.MLP((LATENTS,), (28, 28), (HIDDEN, HIDDEN), torch.nn.Tanh)
        model = lb.LatentVariableModel(lb.priors.Normal(LATENTS), decoder, lb.likelihoods.Bernoulli())
        train = lb.data.Rows.from_array(data.train[: options.train_rows], binarise="afresh")
        model.initialise(train.x[:10_000].float() / 255)
        posterior = lb.posteriors.DiagonalNormal(LATENTS, encoder)
        lb.fit(model, train, lb.AEVB(posterior), epochs=options.epochs, validation=0)
        lb.save(options.cache / "model", model, posterior)
    found: Any = lb.load(options.cache / "model")
    return found.model.eval(), found.posterior.eval(), rows


def products(rows: int, backward: bool = False) -> Callable[[], None]:
    """The decoder's matrix products for so many rows; ``backward``: those of the gradient in z too."""
    inputs = [torch.randn(rows, shape[0]) for shape in SHAPES]
    weights = [torch.randn(shape[1], shape[0]) for shape in SHAPES]
    outputs = [torch.empty(rows, shape[1]) for shape in SHAPES]

    def run() -> None:
        for x, w, out in zip(inputs, weights, outputs, strict=True):
            torch.mm(x, w.T, out=out)
        if backward:
            for x, w, out in zip(inputs, weights, outputs, strict=True):
                torch.mm(out, w, out=x)

    return run


def seconds(run: Callable[[], Any], repeat: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - start) / repeat


def of_importance(targets: Any, rows: lb.data.Rows, options: argparse.Namespace) -> dict[str, Any]:
    """The whole, and in turn with the floor on 200 of the rows."""
    some, draws = rows.subset(torch.arange(200)), 200 * options.samples
    floor, ours = products(CHUNK), generator(0, "bench")
    with torch.no_grad():
        floor()
        shares = []
        for _ in range(options.rounds):
            least = seconds(floor, draws // CHUNK) * (draws / CHUNK)
            shares.append(least / seconds(lambda: importance_sampling(targets, some, ours, options.samples)))
    start = time.perf_counter()
    found = importance_sampling(targets, rows, ours, options.samples)
    return {
        "share_of_floor": statistics.median(shares),
        "quartiles": np.quantile(shares, [0.25, 0.75]).tolist(),
        "seconds": time.perf_counter() - start,
        "log_likelihood": found.mean,
        "standard_error": found.mean_standard_error,
        "unreliable": int((~found.reliable).sum()),
    }


def of_adaptive(targets: Any, rows: lb.data.Rows, options: argparse.Namespace) -> dict[str, Any]:
    """``to_precision`` of some rows, and as many draws from q for each of them as its worst row would need."""
    some, rng = rows.subset(torch.arange(min(options.adaptive_rows, len(rows)))), generator(1, "bench")
    start = time.perf_counter()
    found = to_precision(targets, some, rng, 0.1)
    taken = time.perf_counter() - start
    error, common = (float(np.quantile(found.standard_error, share)) for share in (1, 0.99))
    uniform, reached, one = of_uniform(targets, some, error)
    usual, usually, _ = of_uniform(targets, some, common, 0.01)
    plain = to_precision(targets, some, generator(1, "bench"), 0.1, fit=False)
    return {
        "rows": len(some),
        "worst_error": error,
        "draws": found.work,
        "uniform_draws": uniform * len(some),
        "common_error": common,
        "share_of_common": found.work / (usual * len(some)),
        "common_reached": usually,
        "reached": reached,
        "share": found.work / (uniform * len(some)),
        "share_of_seconds": taken / (uniform * len(some) * one),
        "seconds": taken,
        "largest": int(found.samples.max()),
        "median": int(np.median(found.samples)),
        "fitted": int(found.fitted.sum()),
        "unreliable": int((~found.reliable).sum()),
        "log_likelihood": found.mean,
        "monte_carlo_error": found.mean_monte_carlo_error,
        "without_fits": {
            "draws": plain.work,
            "log_likelihood": plain.mean,
            "monte_carlo_error": plain.mean_monte_carlo_error,
            "unreliable": int((~plain.reliable).sum()),
        },
    }


def of_uniform(targets: Any, rows: lb.data.Rows, error: float, share: float = 0) -> tuple[int, bool, float]:
    """The K up to ``MOST`` at which no more than a ``share`` of rows has an error above ``error``; whether; seconds.

    A row that has come below it is not drawn for again: one that would rise above it with more draws counts for it.
    """
    left, rng, samples = torch.arange(len(rows)), generator(2, "bench"), 512
    start, drawn = time.perf_counter(), 0
    while len(left) > share * len(rows) and samples < MOST:
        samples *= 2
        found = importance_sampling(targets, rows.subset(left), rng, samples)
        drawn += samples * len(left)
        left = left[torch.from_numpy(found.standard_error > error)]
    return samples, len(left) <= share * len(rows), (time.perf_counter() - start) / drawn


def of_annealing(model: lb.LatentVariableModel, targets: Any, rows: lb.data.Rows, rounds: int) -> dict[str, Any]:
    """Gradients of log p(x, z) in z per second: ours in a Hamiltonian path, a plain loop's, and the floor's."""
    chains, count, leapfrogs = 16, CHUNK // 16, 10
    batch = rows.batch(torch.arange(count), torch.full((count,), 1 / count))
    target = targets(batch)
    path = HamiltonianPath(target.log_joint, target.prior, target.slope)
    z = torch.randn(chains, count, LATENTS, generator=generator(0, "z"))
    step, rng, floor = torch.full((count,), 0.01), generator(0, "path"), products(CHUNK, backward=True)
    point = path.at(z)
    layers = [layer for layer in model.decoder.modules() if isinstance(layer, torch.nn.Linear)]

    def plain() -> None:
        at = z.clone().requires_grad_()
        logits = layers[2](torch.tanh(layers[1](torch.tanh(layers[0](at)))))
        target_x = batch.x.flatten(1).expand(chains, -1, -1)
        log_lik = -torch.nn.functional.binary_cross_entropy_with_logits(logits, target_x, reduction="none").sum(-1)
        (log_lik - 0.5 * at.square().sum(-1)).sum().backward()

    def ours() -> None:
        transition(path, point, 0.5, step, leapfrogs, rng)

    for way in (floor, plain, ours):
        way()
    times: dict[str, list[float]] = {"floor": [], "plain": [], "ours": []}
    for _ in range(4 * rounds):
        times["floor"].append(seconds(floor, leapfrogs))
        times["plain"].append(seconds(plain, leapfrogs))
        times["ours"].append(seconds(ours) / leapfrogs)
    shares = {name: [a / b for a, b in zip(times["floor"], times[name], strict=True)] for name in ("ours", "plain")}
    some, settings = rows.subset(torch.arange(50)), Settings(200, 8)
    start = time.perf_counter()
    found = annealed(targets, some, generator(0, "annealed"), settings)
    return {
        "share_of_floor": statistics.median(shares["ours"]),
        "quartiles": np.quantile(shares["ours"], [0.25, 0.75]).tolist(),
        "plain_share_of_floor": statistics.median(shares["plain"]),
        "gradients_per_second": CHUNK / statistics.median(times["ours"]),
        "fifty_rows_200_temperatures_seconds": time.perf_counter() - start,
        "fifty_rows_log_likelihood": found.mean,
    }


def page(r: dict[str, Any]) -> str:
    i, a, n = r["importance"], r["adaptive"], r["annealing"]
    low, high = i["quartiles"]
    below, above = n["quartiles"]
    p, below_it = a["without_fits"], "" if a["reached"] else "below "
    return "\n".join(
        [
            "# Evidence: speed",
            "",
            "| what | measured |",
            "|---|---|",
            f"| importance sampling, share of the floor of its matrix products | {i['share_of_floor']:.2f} "
            f"[{low:.2f}–{high:.2f}] |",
            f"| IS-{r['samples']} of {r['rows']:,} rows | {i['seconds']:.0f} s |",
            f"| adaptive: draws over as many from q for every row, for an error of {a['worst_error']:.2f} in the worst "
            f"of {a['rows']:,} rows, pilots and fits counted | {below_it}{a['share']:.3f} "
            f"({a['draws'] / a['rows']:,.0f} a row of {a['uniform_draws'] / a['rows']:,.0f}) |",
            f"| the same for an error of {a['common_error']:.2f} in all rows but one in a hundred | "
            f"{'' if a['common_reached'] else 'below '}{a['share_of_common']:.3f} |",
            f"| of the worst row, in seconds | {below_it}{a['share_of_seconds']:.3f} ({a['seconds']:.0f} s) |",
            f"| annealing: gradients in z, share of the floor of forward and backward products | "
            f"{n['share_of_floor']:.2f} [{below:.2f}–{above:.2f}] |",
            f"| a plain loop over the PyTorch decoder, share of the floor | {n['plain_share_of_floor']:.2f} |",
            f"| gradients in z per second | {n['gradients_per_second']:,.0f} |",
            f"| peak memory of the process | {r['peak_memory_mb']:.0f} MB |",
            "",
            f"- IS-{r['samples']}: {i['log_likelihood']:.2f} ± {i['standard_error']:.2f} nats per row, "
            f"{i['unreliable']:,} of {r['rows']:,} rows unreliable (k̂).",
            f"- Adaptive, of {a['rows']:,} rows: {a['log_likelihood']:.3f} (Monte Carlo ± "
            f"{a['monte_carlo_error']:.3f}), {a['unreliable']:,} unreliable, {a['fitted']:,} from normals fitted "
            f"to them, {a['median']:,} draws in the median row, {a['largest']:,} at most. Without fits "
            f"{p['log_likelihood']:.3f} ± {p['monte_carlo_error']:.3f} by {p['draws'] / a['rows']:,.0f} draws a row, "
            f"{p['unreliable']:,} unreliable.",
            f"- 784-200-200-50 tanh, Bernoulli, {EPOCHS} epochs of MNIST. Medians [quartiles] of ratios in turn.",
            *record.footer(r),
            "",
        ]
    )


if __name__ == "__main__":
    main()
