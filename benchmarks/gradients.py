"""Every gradient estimator on one model: the variance of its gradient, what it costs, and its bias where it has one.

    python benchmarks/gradients.py [--replicates 1000] [--draws 8] [--seed 0]

Two models of scikit-learn's digits as bits, after a short fit: a belief net of 8 binary latents, and a VAE of 8 normal
ones; one batch of 100 rows, the ELBO. The variance is that of φ's gradient, summed over its components; the belief
net's exact gradient is by enumeration of its 256 states. Result: benchmarks/results/gradients.{json,md} and
docs/gradients.png.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lowerbound as lb
from kit import record
from lowerbound import gradients as g
from lowerbound.distributions import generator
from lowerbound.draw import Batch, Draw
from lowerbound.model import draw

FIGURE = Path(__file__).parents[1] / "docs/gradients.png"
LATENTS, ROWS = 8, 100
FINITE: dict[str, Callable[..., Tensor] | None] = {
    "score function": g.score_function,
    "Rao-Blackwell": g.rao_blackwellised,
    "control variate a*": g.control_variate,
    "leave-one-out": g.leave_one_out,
    "learned baseline": None,  # made below, for it has a network of its own, as RELAX has
    "REBAR": g.rebar,
    "RELAX": None,
    "Gumbel-softmax": g.relaxed,
    "straight-through": g.straight_through,
    "enumerated": g.enumerated,
}
NORMAL: dict[str, Callable[..., Tensor]] = {
    "score function": g.score_function,
    "Rao-Blackwell": g.rao_blackwellised,
    "control variate a*": g.control_variate,
    "leave-one-out": g.leave_one_out,
    "second-order Taylor": partial(g.bounded, control=g.second_order),
    "reparameterised": g.reparameterised,
    "sticking the landing": g.sticking_the_landing,
    "DReG": g.doubly_reparameterised,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = record.parse(parser, replicates=10)
    result = record.context(options.seed) | {"replicates": options.replicates, "draws": options.draws, "found": {}}
    x = (lb.data.digits().train > 7).astype(np.float32).reshape(-1, 64)
    for name, posterior, those in (("binary", "Bernoulli", FINITE), ("normal", "DiagonalNormal", NORMAL)):
        result["found"][name] = study(x, posterior, those, options)
    record.write("gradients", result, page(result), options.quick)
    if not options.quick:
        figure(result)


def study(x: np.ndarray, posterior: str, those: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    vae = lb.VAE(LATENTS, posterior=posterior, hidden=(64,), draws=options.draws, epochs=20, validation=0.0)
    vae.set_params(random_state=options.seed).fit(x)
    model, q = vae.model_.eval(), vae.posterior_.eval()
    rows = torch.from_numpy(x[:ROWS])
    batch = Batch(rows, None, torch.arange(ROWS), torch.full((ROWS,), 1 / ROWS))
    truth = gradient(model, q, batch, options.draws, g.enumerated, 0) if posterior == "Bernoulli" else None
    return {
        name: measure(model, q, batch, each or learned(name, model, q, batch, options), truth, options)
        for name, each in those.items()
    }


def learned(name: str, model: Any, q: Any, batch: Batch, options: argparse.Namespace) -> Any:
    """A baseline, or a control, learned on the batch."""
    found: g.Relax | g.LearnedBaseline
    with lb.nn.seeded(options.seed):
        if name == "RELAX":
            found = g.Relax(lb.nn.MLP((LATENTS,), (1,), (64,), torch.nn.SiLU)).train()
        else:
            found = g.LearnedBaseline(lb.nn.MLP((64,), (1,), (64,), torch.nn.SiLU)).train()
    optimizer = torch.optim.Adam(found.network.parameters(), 3e-3)
    for step in range(500):
        there = one_draw(model, q, batch, options.draws, found, step)
        optimizer.zero_grad()
        (-found(there, lb.objectives.elbo).mean()).backward()
        optimizer.step()
    return found.eval()


def one_draw(model: Any, q: Any, batch: Batch, draws: int, estimator: Any, seed: int) -> Draw:
    return draw(model, q, batch, generator(seed, "gradients"), draws, detached=g.traits(estimator).detached)


def gradient(model: Any, q: Any, batch: Batch, draws: int, estimator: Any, seed: int) -> Tensor:
    there = one_draw(model, q, batch, draws, estimator, seed)
    found = torch.autograd.grad(estimator(there, lb.objectives.elbo).mean(), list(q.parameters()))
    return torch.cat([each.flatten() for each in found])


def measure(
    model: Any, q: Any, batch: Batch, estimator: Any, truth: Tensor | None, options: argparse.Namespace
) -> dict[str, Any]:
    found, seconds = [], []
    for seed in range(options.replicates):
        start = time.perf_counter()
        found.append(gradient(model, q, batch, options.draws, estimator, seed))
        seconds.append(time.perf_counter() - start)
    samples = torch.stack(found).double()
    variance = float(samples.var(0).sum())
    figures = {"variance": variance, "milliseconds": 1e3 * statistics.median(seconds)}
    if truth is not None:
        along = samples @ truth.double() / truth.double().square().sum()  # 1 in the mean, if unbiased
        figures |= {"along": float(along.mean()), "along_error": float(along.std() / math.sqrt(len(along)))}
    return figures | {"biased": g.why_biased(estimator, lb.objectives.elbo)}


def page(r: dict[str, Any]) -> str:
    lines = ["# Gradient estimators: variance and cost", ""]
    titles = {"binary": "Eight binary latents: a belief net", "normal": "Eight normal latents: a VAE"}
    for model, found in r["found"].items():
        least = min(each["milliseconds"] for each in found.values())
        lines += [f"## {titles[model]}", ""]
        bias = model == "binary"
        lines += ["| estimator | variance | cost | variance × cost |" + (" along the exact one |" if bias else "")]
        lines += ["|---|---|---|---|" + ("---|" if bias else "")]
        for name, each in found.items():
            cost = each["milliseconds"] / least
            row = f"| {name} | {each['variance']:.3g} | {cost:.2f} | {each['variance'] * cost:.3g} |"
            along = f" {each['along']:.3f} ± {each['along_error']:.3f}" if bias else ""
            shown = f"{along}{' (biased)' if each['biased'] else ''} |" if bias else ""
            lines += [row + shown]
        lines += [""]
    return "\n".join(
        [
            *lines,
            f"- The gradient in φ of the ELBO of one batch of {ROWS} rows, {r['draws']} draws each, in nats per row; "
            f"its variance summed over components, from {r['replicates']} replicates. Cost: median time of one "
            "gradient, over the cheapest.",
            "- Along the exact gradient: the mean of (estimate · exact)/|exact|², with its standard error; 1 where "
            "there is no bias in that direction.",
            *record.footer(r),
            "",
        ]
    )


def figure(r: dict[str, Any]) -> None:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, (model, found) in zip(drawn.subplots(1, 2), r["found"].items(), strict=True):
        least = min(each["milliseconds"] for each in found.values())
        names = sorted(found, key=lambda name: -found[name]["variance"] * found[name]["milliseconds"])
        values = [max(found[name]["variance"], 1e-12) * found[name]["milliseconds"] / least for name in names]
        shown = [f"{name} (biased)" if found[name]["biased"] else name for name in names]
        axes.barh(shown, values, color=["#b8b8b8" if found[name]["biased"] else "#31688e" for name in names])
        axes.set_xscale("log")
        axes.set_xlim(left=min(v for v in values if v > 1e-9) / 5)
        axes.set_xlabel("variance × cost of φ's gradient")
        axes.set_title({"binary": "binary latents", "normal": "normal latents"}[model])
        axes.spines[["top", "right"]].set_visible(False)
    drawn.savefig(FIGURE, dpi=120)


if __name__ == "__main__":
    main()
