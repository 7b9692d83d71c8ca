"""A sigmoid belief net on real binary data, learned by four estimators of the same cost in draws, over several seeds.

    python benchmarks/belief_net.py [--epochs 60] [--seeds 5] [--draws 5]

scikit-learn's digits as 64 bits, ten binary latents, linear networks: log p(x) of held-out rows is exact, by summing
over the 1,024 states. Every estimator takes the same number of draws a row and of epochs, from the same start on the
same batches; NVIL has its baseline network besides. Result: benchmarks/results/belief_net.{json,md}.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from typing import Any

import numpy as np
import torch

import lowerbound as lb
from kit import record
from lowerbound import gradients, objectives

LATENTS, PIXELS, BATCH = 10, 64, 50
WAYS: dict[str, tuple[gradients.Objective, Any]] = {
    "score function": (objectives.elbo, gradients.score_function),
    "NVIL": (objectives.elbo, gradients.LearnedBaseline),
    "RLOO": (objectives.elbo, gradients.leave_one_out),
    "VIMCO": (objectives.iwae, gradients.leave_one_out),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=5)
    options = record.parse(parser, epochs=2, seeds=2)
    digits = lb.data.digits()
    train, test = (
        torch.from_numpy((x > 7).astype(np.float32).reshape(-1, PIXELS)) for x in (digits.train, digits.test)
    )
    result = record.context(seed=0) | vars(options) | {"nll": {}, "seconds": {}, "test_rows": len(test)}
    for seed in range(options.seeds):
        for name in WAYS:
            start = time.perf_counter()
            nll = learn(name, train, test, seed, options)
            result["nll"].setdefault(name, []).append(nll)
            result["seconds"].setdefault(name, []).append(time.perf_counter() - start)
    record.write("belief_net", result, page(result), options.quick)


def learn(name: str, train: torch.Tensor, test: torch.Tensor, seed: int, options: argparse.Namespace) -> float:
    """Mean −log p(x) of the test rows, exact, after a fit."""
    objective, gradient = WAYS[name]
    with lb.nn.seeded(seed):
        encoder, decoder = lb.nn.MLP((PIXELS,), (LATENTS,), ()), lb.nn.MLP((LATENTS,), (PIXELS,), ())
        model = lb.LatentVariableModel(lb.priors.Bernoulli(LATENTS), decoder, lb.likelihoods.Bernoulli())
        if gradient is gradients.LearnedBaseline:
            gradient = gradients.LearnedBaseline(lb.nn.MLP((PIXELS,), (1,), (100,)))
    model.initialise(train)
    posterior = lb.posteriors.Bernoulli(LATENTS, encoder)
    rate = lb.training.Cosine(5e-3, epochs=options.epochs)
    inference = lb.AEVB(posterior, objective=objective, gradient=gradient, draws=options.draws, learning_rate=rate)
    lb.fit(model, train, inference, epochs=options.epochs, batch_size=BATCH, validation=0, seed=seed)
    with torch.no_grad():
        states = posterior(test[:1]).states().unsqueeze(1)
        parts = [model.log_joint(states.expand(-1, len(x), LATENTS), x).logsumexp(0) for x in test.split(50)]
    return -float(torch.cat(parts).mean())


def page(r: dict[str, Any]) -> str:
    lines = ["# A belief net on digits, by four estimators", ""]
    lines += [
        "| estimator | −log p(x), nats a row | over seeds | less than the score function's | than NVIL's | s a fit |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    for name, values in r["nll"].items():
        against = [paired(values, r["nll"][other]) if name != other else "" for other in ("score function", "NVIL")]
        spread = f"{min(values):.2f} to {max(values):.2f}"
        seconds = statistics.median(r["seconds"][name])
        lines += [
            f"| {name} | {statistics.mean(values):.2f} | {spread} | {against[0]} | {against[1]} | {seconds:.1f} |"
        ]
    return "\n".join(
        [
            *lines,
            "",
            f"- Exact −log p(x) of {r['test_rows']} held-out rows of 64 bits; ten binary latents, linear networks, "
            f"{r['draws']} draws a row, {r['epochs']} epochs, batch {BATCH}, Adam, 5e-3 to 0 along a cosine.",
            f"- Differences are paired by seed ({r['seeds']} of them), with their standard error.",
            f"- Command: `{r['command']}`, commit {r['commit']}, seeds 0 to {r['seeds'] - 1}.",
            f"- Machine: {r['machine']}; Python {r['versions']['python']}, torch {r['versions']['torch']}.",
            "",
        ]
    )


def paired(ours: list[float], theirs: list[float]) -> str:
    """How much less ours are: mean and its standard error over seeds."""
    less = [their - our for our, their in zip(ours, theirs, strict=True)]
    return f"{statistics.mean(less):+.2f} ± {statistics.stdev(less) / math.sqrt(len(less)):.2f}"


if __name__ == "__main__":
    main()
