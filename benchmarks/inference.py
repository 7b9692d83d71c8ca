"""Ways to learn one model: the bound against processor seconds and against rows; and what a step of each costs.

    python benchmarks/inference.py [--only "AEVB;WakeSleep"] [--epochs 300] [--seconds 60] [--cache DIR] [--seed 0]

Probabilistic PCA of scikit-learn's digits, ten latents: log p(x) of the training rows, and its maximum, are known in
closed form, and every way applies, also EM. All start from the same model, with the same rows, batches and learning
rate, on one thread. A step: a model of 784-500-20, batch 100, in turn in one process, medians of five. Each way's
figures are kept in ``--cache`` as they come, so that a run in parts makes the same page once all are there.
Result: benchmarks/results/inference.{json,md,png}.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lowerbound as lb
from kit import record
from lowerbound.inference import Inference
from lowerbound.posteriors import Posterior
from lowerbound.training import Event
from lowerbound.training.bookkeeping import Progress

LATENTS, BATCH, RATE = 10, 100, 3e-3
REPETITIONS, BURST_SECONDS = 5, 0.4
FIGURE = record.RESULTS / "inference.png"
Make = Callable[[lb.LatentVariableModel, Posterior, float], Inference[lb.LatentVariableModel]]


def _of_posterior(kind: Any, **settings: Any) -> Make:
    return lambda model, posterior, rate: kind(posterior, learning_rate=rate, **settings)


def _of_learning(kind: Any) -> Make:
    return lambda model, posterior, rate: kind(lb.AEVB(posterior, learning_rate=rate))


WAYS: Mapping[str, Make] = {
    "AEVB": _of_posterior(lb.AEVB),
    "AEVB, iwae of 5 draws": _of_posterior(lb.AEVB, objective=lb.objectives.iwae, draws=5),
    "WakeSleep": _of_posterior(lb.WakeSleep),
    "ReweightedWakeSleep": _of_posterior(lb.ReweightedWakeSleep),
    "Local": _of_posterior(lb.Local),
    "SemiAmortised": _of_posterior(lb.SemiAmortised),
    "FullVB": _of_learning(lb.FullVB),
    "MAP": _of_learning(lb.MAP),
    "MonteCarloEM": lambda model, posterior, rate: lb.MonteCarloEM(learning_rate=rate),
    "EM": lambda model, posterior, rate: lb.EM(),
}
NO_STEP = {"EM"}
"""Ways whose step is not one of a model with a decoder of several layers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=";".join(WAYS), help="ways to run now, separated by semicolons")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/lowerbound-bench/inference")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=60.0, help="most processor seconds of a fit")
    parser.add_argument("--seed", type=int, default=0)
    options = record.parse(parser, epochs=2, seconds=5.0)
    torch.set_num_threads(1)
    if options.quick:
        options.cache /= "quick"
    options.cache.mkdir(parents=True, exist_ok=True)
    there = {name: options.cache / f"{name}.json" for name in WAYS}
    for name in options.only.split(";"):
        settings = {"epochs": options.epochs, "seconds": options.seconds, "seed": options.seed, "rate": RATE}
        if there[name].exists() and json.loads(there[name].read_text())["settings"] == settings:
            continue
        learn(name, argparse.Namespace(**vars(options) | {"epochs": 1}))  # the first steps of a process are slow
        found = {"settings": settings} | learn(name, options) | {"step": step(name, options)}
        there[name].write_text(json.dumps(found))
        print(name, found["log_p"][-1], found["step"], flush=True)
    if all(path.exists() for path in there.values()):
        result = record.context(options.seed) | {"maximum": maximum(digits()), "epochs": options.epochs}
        result |= {"seconds": options.seconds, "ways": {n: json.loads(path.read_text()) for n, path in there.items()}}
        record.write("inference", result, page(result), options.quick)
        if not options.quick:
            figure(result)


def digits() -> Tensor:
    """Grey digits as 64 values less their means, in units of their common deviation, ``[1437, 64]``."""
    x = torch.from_numpy(lb.data.digits().train.reshape(-1, 64).astype(np.float32))
    return (x - x.mean(0)) / (x - x.mean(0)).square().mean().sqrt()


def maximum(x: Tensor) -> float:
    """The largest mean log p(x) of probabilistic PCA. Tipping & Bishop 1999."""
    values = torch.linalg.eigvalsh(x.double().T.cov(correction=0))
    noise = values[:-LATENTS].mean()
    log_det = values[-LATENTS:].log().sum() + (64 - LATENTS) * noise.log()
    return float(-0.5 * (64 * math.log(2 * math.pi) + log_det + 64))


@torch.no_grad()
def log_p(model: lb.LatentVariableModel, x: Tensor) -> float:
    """Mean log p(x) of a model whose decoder is linear, in closed form."""
    z = torch.cat([torch.zeros(1, LATENTS), torch.eye(LATENTS)])
    mean, *columns = model.likelihood.mean(model.decode(z.unsqueeze(0)))[0].double()
    weight = torch.stack(columns) - mean
    noise = model.likelihood.sigma().double().square().expand(64).diag()  # type: ignore[operator]
    rows = torch.distributions.MultivariateNormal(mean, weight.T @ weight + noise).log_prob(x.double())
    return float(rows.mean())


def parts(x: Tensor, latents: int, hidden: tuple[int, ...], likelihood: Any) -> tuple[Any, Posterior]:
    """The model of a study, at its start, and an encoder's posterior for it."""
    width = x.shape[1]
    with lb.nn.seeded(0):
        posterior = lb.posteriors.DiagonalNormal(latents, lb.nn.MLP((width,), (2 * latents,), hidden))
        decoder = lb.nn.MLP((latents,), (width,), hidden)
    model = lb.LatentVariableModel(lb.priors.Normal(latents), decoder, likelihood)
    model.initialise(x)
    return model, posterior


def learn(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Rows seen, processor seconds, log p(x) and the objective after some of the epochs of a fit."""
    x = digits()
    model, posterior = parts(x, LATENTS, (), lb.likelihoods.Normal())
    inference = WAYS[name](model, posterior, RATE)
    found: dict[str, Any] = {"is_bound": inference.is_bound, "start": log_p(model, x)}
    found |= {"rows": [], "seconds": [], "log_p": [], "objective": []}
    noted = {round(1.15**power) for power in range(80)} | {options.epochs}
    paused, start = 0.0, time.process_time()

    def note(event: Event) -> bool:
        nonlocal paused
        if event.record is None:
            return False
        now = time.process_time()
        spent, epoch = now - start - paused, int(event.record["epoch"])
        late = bool(spent > options.seconds)
        if late or epoch in noted:
            values = (epoch * len(x), spent, log_p(model, x), event.record["train_objective"])
            for key, value in zip(("rows", "seconds", "log_p", "objective"), values, strict=True):
                found[key].append(value)
        paused += time.process_time() - now
        return late

    fit = partial(lb.fit, model, x, inference, batch_size=BATCH, validation=0, seed=options.seed)
    fit(epochs=options.epochs, threads=1, callbacks=[note])
    return found


def step(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of the processor for a step of a way and of AEVB, in turn; medians of five."""
    if name in NO_STEP:
        return {}
    both = {key: a_step(key, options.seed) for key in dict.fromkeys(("AEVB", name))}
    spent: dict[str, list[float]] = {key: [] for key in both}
    for way in both.values():
        milliseconds(way, 3)  # warms up
    least = 0.0 if options.quick else 1e3 * BURST_SECONDS
    counts = {key: max(1, round(least / milliseconds(way, 1))) for key, way in both.items()}
    for _ in range(REPETITIONS):
        for key, way in both.items():
            spent[key].append(milliseconds(way, counts[key]))
    return {"own": statistics.median(spent[name]), "aevb": statistics.median(spent["AEVB"])}


def milliseconds(way: Callable[[], None], count: int) -> float:
    """Of the processor, for one call of ``way``."""
    start = time.process_time()
    for _ in range(count):
        way()
    return 1e3 * (time.process_time() - start) / count


def a_step(name: str, seed: int) -> Callable[[], None]:
    """The loop's step on random bits, in a model of 784-500-20."""
    x = (torch.rand(2000, 784, generator=torch.Generator().manual_seed(seed)) < 0.3).float()
    model, posterior = parts(x, 20, (500,), lb.likelihoods.Bernoulli())
    rows = lb.data.Rows(x)
    procedure = WAYS[name](model, posterior, 1e-3).start(model, rows)
    run = Progress(procedure, rows, BATCH, seed)

    def once() -> None:
        scalars = run.clock.at(run.cursor.time)
        batch, real = run.cursor.next()
        noise = procedure.noise(len(batch.index), run.cursor.rng)
        _, metrics = procedure.step(run.state, batch, noise, scalars)
        run.meter.add(metrics, real)

    return once


def page(r: dict[str, Any]) -> str:
    best = r["maximum"]
    lines = ["# Ways to learn one model", "", "![nats below the maximum](inference.png)", ""]
    lines += [
        "| way | log p(x) at the end, below the maximum | its objective, below the maximum | bound | epochs | "
        "processor s | s to 1 nat | a step, of AEVB's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, each in sorted(r["ways"].items(), key=lambda item: -item[1]["log_p"][-1]):
        epochs = each["rows"][-1] // each["rows"][0]
        near = next((s for s, value in zip(each["seconds"], each["log_p"], strict=True) if best - value < 1), None)
        ratio = f"{each['step']['own'] / each['step']['aevb']:.2f}" if each["step"] else ""
        lines += [
            f"| {name} | {below(each['log_p'][-1], best)} | {below(each['objective'][-1], best)} | "
            f"{'yes' if each['is_bound'] else 'no'} | {epochs} | {each['seconds'][-1]:.1f} | "
            f"{'' if near is None else f'{near:.2f}'} | {ratio} |"
        ]
    return "\n".join(
        [
            *lines,
            "",
            f"- Probabilistic PCA of scikit-learn's digits, {LATENTS} latents, 1,437 rows of 64 values; encoders are "
            f"linear with a diagonal normal q. Batch {BATCH}, Adam at a constant {RATE:g}, the same start and order of "
            f"batches, {r['epochs']} epochs or {r['seconds']:g} processor seconds, one thread. In nats per row: the "
            f"largest mean log p(x) of this model is {best:.3f}, by its closed form.",
            "- log p(x) of the training rows is exact. The objective is what each way maximises, a mean over its last "
            "epoch; where it is no bound, or has a prior of the parameters, it is not comparable.",
            "- The picture: solid, log p(x); dotted, the objective where it is a bound. EM goes on below it.",
            "- A step: processor time on one thread, 784-500-20, batch 100, Bernoulli rows, next to AEVB's in the same "
            f"process; medians of {REPETITIONS}. iwae and ReweightedWakeSleep take 5 draws per row, the others 1.",
            "- Not here: BlackBox learns q of a model that is fixed; CoordinateAscent is for Bayesian mixtures and "
            "regression.",
            *record.footer(r),
            "",
        ]
    )


def below(value: float, best: float) -> str:
    return f"{round(best - value, 3) + 0.0:.3f}"  # + 0.0: no minus before a zero


def figure(r: dict[str, Any]) -> None:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    for axes, key, label in ((left, "seconds", "processor seconds"), (right, "rows", "rows")):
        for number, (name, each) in enumerate(r["ways"].items()):
            colour = f"C{number % 10}"
            below = [r["maximum"] - value for value in each["log_p"]]
            axes.plot(each[key], below, color=colour, label=name, lw=1.6)
            if each["is_bound"]:
                below = [r["maximum"] - value for value in each["objective"]]
                axes.plot(each[key], below, color=colour, ls=":", lw=1)
        axes.set(xscale="log", yscale="log", xlabel=label, ylim=(0.02, 60))
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("nats per row below the largest log p(x)")
    drawn.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
    drawn.savefig(FIGURE, dpi=120)


if __name__ == "__main__":
    main()
