"""A training step of a deep Kalman filter on the chorales, next to the same networks in a loop written by hand.

    python benchmarks/sequences_step.py [--steps 12] [--folder DIR]

Both make the ELBO of the same batches from the same noise, which must agree, and its gradient and Adam's update; the
steps alternate. Result: benchmarks/results/sequences_step.{json,md}.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import lowerbound as lb
from kit import record
from lowerbound import recipes
from lowerbound.draw import Batch
from lowerbound.model import LatentVariableModel, draw
from lowerbound.posteriors import Posterior
from sequences import BATCH, chorales

SHIFT, LEAST = math.log(math.e - 1), 1e-6


def by_library(model: LatentVariableModel, posterior: Posterior, batch: Batch, noise: Tensor) -> Tensor:
    return (batch.weight * lb.objectives.elbo(draw(model, posterior, batch, noise))).sum()


def by_hand(model: Any, posterior: Any, batch: Batch, noise: Tensor) -> Tensor:
    """The ELBO with one draw per row: a loop over time for z, and one call of each network for everything else."""
    assert batch.mask is not None
    h, eps, prior = posterior.encoder(batch.x, batch.mask), noise[0].unbind(1), model.prior
    z, stats, previous = [], [], torch.zeros_like(eps[0])
    for t in range(batch.x.shape[1]):
        loc, scale = moments(posterior.network(previous, h[:, t]))
        previous = loc + scale * eps[t]
        z.append(previous)
        stats.append(log_normal(previous, loc, scale))
    latents = torch.stack(z, 1)
    first = log_normal(latents[:, :1], prior.loc, functional.softplus(prior.raw_scale + SHIFT) + LEAST)
    flat = latents[:, :-1].flatten(0, 1)
    loc, scale = (each.unflatten(0, latents[:, 1:].shape[:2]) for each in moments(prior.network(flat)))
    log_p = torch.cat([first, log_normal(latents[:, 1:], loc, scale)], 1)
    logits = model.decoder.network(latents.flatten(0, 1)).view_as(batch.x)
    log_lik = -functional.binary_cross_entropy_with_logits(logits, batch.x, reduction="none")
    live = batch.mask[:, :, 0]
    per_step = (log_lik * batch.mask).sum(2) + (log_p - torch.stack(stats, 1)) * live
    return (batch.weight * per_step.sum(1)).sum()


def moments(out: Tensor) -> tuple[Tensor, Tensor]:
    loc, raw = out.chunk(2, -1)
    return loc, functional.softplus(raw + SHIFT) + LEAST


def log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return (-0.5 * ((z - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared/data/jsb_chorales")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each")
    options = record.parse(parser, steps=1)
    rows = chorales(options.folder, None)["train"]
    order, ways = rows.order(0, 0), {"by hand": by_hand, "lowerbound": by_library}
    times: dict[str, list[float]] = {name: [] for name in ways}
    made = {name: recipes.deep_kalman_filter(rows, 32, 64) for name in ways}
    optimizers = {name: torch.optim.Adam([*m.parameters(), *q.parameters()], 1e-3) for name, (m, q) in made.items()}
    for step in range(options.steps + 2):  # the first two are not timed
        index = order[(first := BATCH * (step % (len(rows) // BATCH))) : first + BATCH]
        batch = rows.batch(index, torch.full((BATCH,), 1 / BATCH))
        noise = torch.randn(1, BATCH, rows.shape[0], 32, generator=torch.Generator().manual_seed(step))
        values = []
        for name, way in ways.items():
            start = time.perf_counter()
            value = way(*made[name], batch, noise)
            optimizers[name].zero_grad()
            (-value).backward()
            optimizers[name].step()
            times[name].append(time.perf_counter() - start)
            values.append(float(value))
        if abs(values[0] - values[1]) > 1e-3 * abs(values[0]):
            raise SystemExit(f"the two bounds differ: {values}.")
    each = {name: sum(sorted(own[2:])[: max(1, options.steps // 2)]) for name, own in times.items()}
    result = record.context(0) | {"milliseconds": {name: [1e3 * one for one in own[2:]] for name, own in times.items()}}
    result["ratio"] = each["lowerbound"] / each["by hand"]
    record.write("sequences_step", result, page(result), options.quick)


def page(r: dict[str, Any]) -> str:
    lines = ["# A step of a deep Kalman filter on the chorales", ""]
    lines += ["| way | median, ms | least, ms |", "|---|---|---|"]
    for name, own in r["milliseconds"].items():
        lines.append(f"| {name} | {sorted(own)[len(own) // 2]:.0f} | {min(own):.0f} |")
    return "\n".join(
        [
            *lines,
            "",
            f"- Ratio {r['ratio']:.2f}, of the faster half of the steps of each; the steps alternate.",
            f"- Batches of {BATCH} chorales, 32 latents, 64 units; forward, backward and Adam. The bounds agree within "
            "0.1 %.",
            *record.footer(r),
            "",
        ]
    )


if __name__ == "__main__":
    main()
