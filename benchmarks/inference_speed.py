"""EM beside scikit-learn's, and Hamiltonian transitions beside the products that they cannot do without.

    python benchmarks/inference_speed.py [--rows 20000] [--seed 0]

EM: processor time of an iteration, as the difference of fits of 12 and of 2 iterations, in turn in one process, from
the same start for mixtures. Hamiltonian: a transition of ten leapfrog steps on a decoder of 20-500-784, and the
matrix products of its ten forward and backward passes alone. One thread, medians of five.
Result: benchmarks/results/inference_speed.{json,md}.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import lowerbound as lb
from kit import record
from lowerbound import mcmc, recipes

REPETITIONS, SHORT, LONG = 5, 2, 12
COLUMNS, COMPONENTS, FACTORS, BATCH = 20, 10, 5, 2000
LATENTS, HIDDEN, VALUES, ROWS, LEAPFROGS = 20, 500, 784, 100, 10
KINDS = {"spherical": "spherical", "diagonal": "diag", "full": "full"}  # ours → scikit-learn's name
Timed = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = record.parse(parser, rows=500)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    em = {name: of_em(name, options.rows, options.seed) for name in (*KINDS, "factor analysis")}
    chains = {str(count): of_chains(count, options.seed) for count in (1, 10)}
    result = record.context(options.seed) | {"rows": options.rows, "em": em, "chains": chains}
    record.write("inference_speed", result, page(result), options.quick)


def of_em(name: str, rows: int, seed: int) -> dict[str, float]:
    """Processor seconds of an iteration of ours and of scikit-learn's, and their ratio."""
    random = np.random.default_rng(seed)
    x = (
        random.normal(size=(rows, COLUMNS))
        + 3 * random.normal(size=(COMPONENTS, COLUMNS))[random.integers(10, size=rows)]
    )
    if name == "factor analysis":
        x = random.normal(size=(rows, FACTORS)) @ random.normal(size=(FACTORS, COLUMNS)) + random.normal(size=x.shape)
    made = lb.data.Rows(torch.tensor(x), dtype=torch.float64)
    ways: dict[str, Callable[[int], None]] = {
        "lowerbound": partial(ours, name, x, made),
        "scikit-learn": partial(theirs, name, x),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(REPETITIONS):
        for way, run in ways.items():
            run(1)
            short, long = (seconds(partial(run, count)) for count in (SHORT, LONG))
            found[way].append((long - short) / (LONG - SHORT))
    ratio = [a / b for a, b in zip(found["lowerbound"], found["scikit-learn"], strict=True)]
    return {way: statistics.median(times) for way, times in found.items()} | spread(ratio)


def ours(name: str, x: NDArray[np.float64], rows: lb.data.Rows, epochs: int) -> None:
    if name == "factor analysis":
        model = recipes.factor_analysis(x, FACTORS)
    else:
        model = recipes.gaussian_mixture(x, COMPONENTS, name)  # type: ignore[arg-type]
    lb.fit(model, rows, lb.EM(), epochs=epochs, batch_size=min(BATCH, len(rows)), validation=0)


def theirs(name: str, x: NDArray[np.float64], iterations: int) -> None:
    if name == "factor analysis":
        FactorAnalysis(FACTORS, svd_method="lapack", tol=0, max_iter=iterations).fit(x)
        return
    start = {"means_init": x[:COMPONENTS], "weights_init": np.full(COMPONENTS, 1 / COMPONENTS)}
    kind = KINDS[name]
    precisions = {"spherical": np.ones(COMPONENTS), "diag": np.ones((COMPONENTS, COLUMNS))}
    full = np.broadcast_to(np.eye(COLUMNS), (COMPONENTS, COLUMNS, COLUMNS))
    start["precisions_init"] = precisions.get(kind, full)
    GaussianMixture(
        COMPONENTS,
        covariance_type=kind,
        tol=0,
        max_iter=iterations,
        init_params="random_from_data",
        random_state=0,
        **start,
    ).fit(x)


def of_chains(chains: int, seed: int) -> dict[str, float]:
    """Processor seconds of a transition and of its products, and the share of the products."""
    with lb.nn.seeded(seed):
        decoder = lb.nn.MLP((LATENTS,), (VALUES,), (HIDDEN,))
    model = lb.LatentVariableModel(lb.priors.Normal(LATENTS), decoder, lb.likelihoods.Bernoulli())
    rng = torch.Generator().manual_seed(seed)
    x = (torch.rand(ROWS, VALUES, generator=rng) < 0.3).float()
    z, prior = torch.randn(chains, ROWS, LATENTS, generator=rng), model.prior_given()
    path = mcmc.Path(
        lambda z: model.log_joint(z, x), prior, lambda z: model.slope(z, x) + mcmc.slope_of(prior.log_prob, z)
    )
    first, last = (layer.weight.detach() for layer in decoder.layers if isinstance(layer, torch.nn.Linear))
    flat, hidden, out = z.flatten(0, 1), torch.randn(chains * ROWS, HIDDEN), torch.randn(chains * ROWS, VALUES)

    def products() -> None:
        for _ in range(LEAPFROGS):
            flat @ first.T, hidden @ last.T, out @ last, hidden @ first

    with torch.no_grad():
        point, step = path.at(z), torch.full((ROWS,), 0.05)
        found: list[tuple[float, float]] = []
        for _ in range(REPETITIONS + 1):
            moved = seconds(lambda: mcmc.transition(path, point, 1.0, step, LEAPFROGS, rng), 5)
            found.append((moved, seconds(products, 5)))
    transition, floor = ([pair[k] for pair in found[1:]] for k in (0, 1))
    shares = [b / a for a, b in zip(transition, floor, strict=True)]
    return {"transition": statistics.median(transition), "products": statistics.median(floor)} | spread(shares)


def seconds(run: Timed, times: int = 1) -> float:
    """Processor seconds of a call, the mean of some ``times``."""
    start = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - start) / times


def spread(ratios: list[float]) -> dict[str, float]:
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def table(what: str, found: Mapping[str, Any], times: tuple[str, str], columns: tuple[str, str, str]) -> list[str]:
    """A line for each of ``found``: its two times in ms, and their ratio."""
    lines = [f"| {what} | {' | '.join(columns)} [lowest, highest] |", "|---|---|---|---|"]
    for name, each in found.items():
        first, second = (f"{1e3 * each[key]:.1f}" for key in times)
        lines.append(f"| {name} | {first} | {second} | {each['ratio']:.2f} [{each['low']:.2f}, {each['high']:.2f}] |")
    return lines


def page(result: Mapping[str, Any]) -> str:
    lines = ["# EM and Hamiltonian chains: processor time", ""]
    columns = ("lowerbound, ms per iteration", "scikit-learn, ms per iteration", "ratio")
    lines += table("EM of", result["em"], ("lowerbound", "scikit-learn"), columns)
    columns = ("a transition, ms", "its products, ms", "share")
    lines += ["", *table("chains per row", result["chains"], ("transition", "products"), columns)]
    lines += [
        "",
        f"- EM: {result['rows']:,} rows of {COLUMNS} values in double precision, {COMPONENTS} components or {FACTORS} "
        f"factors; lowerbound in batches of {BATCH:,}. Fits of {LONG} and of {SHORT} iterations, in turn.",
        f"- Chains: {ROWS} rows, a decoder of {LATENTS}-{HIDDEN}-{VALUES}, {LEAPFROGS} leapfrog steps. Products: "
        "those of the forward and backward passes alone, without activations and densities.",
        *record.footer(dict(result)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
