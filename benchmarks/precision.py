"""MNIST in float32 and with bf16 products: the test ELBO of each, from the same start on the same batches.

    python benchmarks/precision.py [--folder DIR] [--epochs 10] [--seeds 3]

The model of ``mnist_vae.py``. Both are scored in float32, with the same draws, so that rows are paired. Result:
benchmarks/results/precision.{json,md}.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import lowerbound as lb
from kit import record
from lowerbound.distributions import generator
from lowerbound.nn import Precision
from mnist_vae import BATCH, build

DRAWS, BAR = 10, 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared/data/mnist")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--train-rows", type=int, help="of MNIST (default: all)")
    parser.add_argument("--test-rows", type=int, help="of MNIST (default: all)")
    parser.add_argument("--seeds", type=int, default=3)
    options = record.parse(parser, epochs=1, seeds=2, train_rows=1000, test_rows=20)
    context = record.context(seed=0)
    data = record.mnist(options.folder)
    train = lb.data.Rows.from_array(data.train[: options.train_rows], binarise="afresh")
    test = lb.data.Rows.from_array(data.test[: options.test_rows], binarise="fixed", generator=generator(0, "test"))
    found = [
        {each: test_elbo(train, test, each, seed, options.epochs) for each in ("float32", "bf16")}
        for seed in range(options.seeds)
    ]
    differences = [each["bf16"] - each["float32"] for each in found]
    result = context | {
        "epochs": options.epochs,
        "test_elbo": found,
        "difference": statistics.mean(differences),
        "standard_error_over_seeds": statistics.stdev(differences) / math.sqrt(len(differences)),
    }
    record.write("precision", result, page(result), options.quick)


def test_elbo(train: lb.data.Rows, test: lb.data.Rows, precision: Precision, seed: int, epochs: int) -> float:
    model, posterior = build(seed)
    model.initialise(train.x[:10_000].float() / 255)
    inference = lb.AEVB(posterior, precision=precision)
    lb.fit(model, train, inference, epochs=epochs, batch_size=BATCH, validation=0, seed=seed)
    return lb.log_likelihood(model, posterior, test, samples=DRAWS, seed=0).mean_elbo


def page(r: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {seed} | {each['float32']:.2f} | {each['bf16']:.2f} | {each['bf16'] - each['float32']:+.2f} |"
        for seed, each in enumerate(r["test_elbo"])
    )
    return f"""# bf16 products: what they cost in nats

Test ELBO on MNIST, nats per row, after {r["epochs"]} epochs, {DRAWS} draws a row, both scored in float32.

| seed | float32 | bf16 | difference |
|---|---|---|---|
{rows}

Mean difference {r["difference"]:+.3f} ± {r["standard_error_over_seeds"]:.3f} (standard error over seeds); the bar is \
{BAR} either way.

- Command: `{r["command"]}`, commit {r["commit"]}, seeds 0 to {len(r["test_elbo"]) - 1}.
- Machine: {r["machine"]}; Python {r["versions"]["python"]}, torch {r["versions"]["torch"]}.
"""


if __name__ == "__main__":
    main()
