"""Few labels, or none: errors of M1, M2, M1+M2 and clusters by GMVAE on the test images of MNIST and of digits.

    python benchmarks/labels.py [--minutes 10] [--only "M2,GMVAE"] [--data digits,mnist] [--epochs 40] [--seeds 3]

MNIST: 100 labels, 10 of each class; scikit-learn's digits: 50 labels, 5 of each class, 1,437 training and 360 test
images. Each seed has its own labels and start. The study can be run again: fits that are in the cache are kept, and
none starts once the minutes are over. Result: benchmarks/results/labels.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression

import lowerbound as lb
from kit import record
from lowerbound import recipes
from lowerbound.data import Dataset

Array = NDArray[Any]
LABELS = {"digits": 5, "mnist": 10}  # of each class
PUBLISHED = {"M1": "11.82 ± 0.25", "M2": "11.97 ± 1.71", "M1+M2": "3.33 ± 0.14", "GMVAE": "12 to 18"}  # MNIST, error %


def logistic_regression(settings: dict[str, Any], x: Array, y: Array) -> Callable[[Array], Array]:
    """Of the pixels of the labelled rows alone."""
    known = y >= 0
    largest = x.max()
    fitted = LogisticRegression(max_iter=2000).fit(_flat(x[known]) / largest, y[known])
    return lambda rows: fitted.predict(_flat(rows) / largest)


def m1(settings: dict[str, Any], x: Array, y: Array) -> Callable[[Array], Array]:
    return recipes.m1(**settings).fit(x, y).predict  # type: ignore[no-any-return]


def m2(settings: dict[str, Any], x: Array, y: Array) -> Callable[[Array], Array]:
    return recipes.m2(**settings, label_weight=WEIGHT).fit(x, y).predict  # type: ignore[no-any-return]


def m2_bound(settings: dict[str, Any], x: Array, y: Array) -> Callable[[Array], Array]:
    return recipes.m2(**settings, label_weight=0.0).fit(x, y).predict  # type: ignore[no-any-return]


def m1_m2(settings: dict[str, Any], x: Array, y: Array) -> Callable[[Array], Array]:
    return recipes.m1_m2(**settings, label_weight=WEIGHT).fit(x, y).predict  # type: ignore[no-any-return]


def labelled_mixture(settings: dict[str, Any], x: Array, y: Array) -> Callable[[Array], Array]:
    mixture = lb.VAE(classes="y", prior="ConditionalNormal", label_weight=WEIGHT, **settings)
    return mixture.fit(x, y).predict  # type: ignore[no-any-return]


def gmvae(settings: dict[str, Any], x: Array, y: Array) -> Callable[[Array], Array]:
    return recipes.gmvae(10, **settings).fit(x).predict  # type: ignore[no-any-return]


WEIGHT = 1.0  # α of log q(y|x) of the labelled rows
WAYS: dict[str, Callable[[dict[str, Any], Array, Array], Callable[[Array], Array]]] = {
    "logistic regression": logistic_regression,
    "M1": m1,
    "M2, α = 0": m2_bound,
    "M2": m2,
    "mixture with labels": labelled_mixture,
    "M1+M2": m1_m2,
    "GMVAE": gmvae,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared/data/mnist")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/lowerbound-bench/labels")
    parser.add_argument("--only", default=",".join(WAYS), help="some of: " + "; ".join(WAYS))
    parser.add_argument("--data", default="digits,mnist", help="digits, mnist or both")
    parser.add_argument("--minutes", type=float, default=10, help="after which no further fit starts")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=128, help="units of the one hidden layer of all networks")
    parser.add_argument("--train-rows", type=int, default=10_000, help="of MNIST")
    options = record.parse(parser, epochs=1, seeds=1, train_rows=200, minutes=2, hidden=8)
    if options.quick:
        options.cache /= "quick"
    options.cache.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * options.minutes
    for data in options.data.split(","):
        known = lb.data.digits() if data == "digits" else record.mnist(options.folder)
        for seed in range(options.seeds):
            for name in (name for name in WAYS if f",{name}," in f",{options.only},"):
                path = options.cache / f"{data}, {name}, {seed}.json"
                if path.exists() or time.monotonic() > until:
                    continue
                found = learn(data, known, name, seed, options)
                path.write_text(json.dumps(found))
                print(f"{data}, {name}, seed {seed}: {found}", file=sys.stderr, flush=True)
    report(options)


def learn(data: str, known: Dataset, name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fit to the training rows, with few labels, and count the errors in the test rows."""
    rows = options.train_rows if data == "mnist" else None
    x, y = np.asarray(known.train)[:rows], np.asarray(known.train_labels)[:rows]
    labels = np.full(len(y), -1)
    rng = np.random.default_rng(seed)
    for label in np.unique(y):
        chosen = rng.choice(np.flatnonzero(y == label), LABELS[data], replace=False)
        labels[chosen] = label
    settings: dict[str, Any] = {
        "latent_dim": 20 if data == "mnist" else 10,
        "hidden": (options.hidden,),
        "activation": "SiLU",
        "epochs": options.epochs,
        "validation": 0.0,
        "random_state": seed,
        "threads": 1,
        **({"binarise": "fixed"} if data == "mnist" else {"likelihood": "Normal"}),
    }
    start, used = time.perf_counter(), time.process_time()
    found = WAYS[name](settings, x, labels)(np.asarray(known.test))
    true = np.asarray(known.test_labels)
    wrong = 1 - matched(found, true) if name == "GMVAE" else float((found != true).mean())
    return {
        "error": wrong,
        "minutes": (time.perf_counter() - start) / 60,
        "processor_minutes": (time.process_time() - used) / 60,
        "epochs": 0 if name == "logistic regression" else options.epochs,
        "rows": len(x),
        "hidden": options.hidden,
        "commit": record.context(seed)["commit"],
    }


def matched(clusters: Array, classes: Array) -> float:
    """The share of rows whose class is that of their cluster, by the best one-to-one map of clusters to classes."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (clusters, classes), 1)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(classes))


def report(options: argparse.Namespace) -> None:
    """Write the page of all fits in the cache."""
    fits: dict[str, dict[str, list[Any]]] = {}
    for data in LABELS:
        for name in WAYS:
            paths = sorted(options.cache.glob(f"{data}, {name}, [0-9]*.json"))
            if there := [json.loads(path.read_text()) for path in paths]:
                fits.setdefault(data, {})[name] = there
    result = record.context(0) | {"fits": fits, "weight": WEIGHT}
    record.write("labels", result, page(result), options.quick)


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1)


def page(r: dict[str, Any]) -> str:
    lines = ["# Few labels, or none", ""]
    for data, ways in r["fits"].items():
        rows = next(iter(ways.values()))[0]["rows"]
        each = LABELS[data]
        lines += [f"## {data}: {rows:,} training rows, {10 * each} labels ({each} per class)", ""]
        lines += [
            "| model | test error, % | ± over label draws | draws | epochs | hidden | minutes per fit | published |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for name, fits in ways.items():
            errors = [100 * fit["error"] for fit in fits]
            spread = f"{statistics.stdev(errors):.2f}" if len(errors) > 1 else "–"
            published = PUBLISHED.get(name, "–") if data == "mnist" else "–"
            minutes = statistics.mean(fit["minutes"] for fit in fits)
            lines += [
                f"| {name} | {statistics.mean(errors):.2f} | {spread} | {len(fits)} | {fits[0]['epochs']} | "
                f"{fits[0]['hidden']} | {minutes:.1f} | {published} |"
            ]
        lines += [""]
    return "\n".join(
        [
            *lines,
            "- ± is the standard deviation over draws of the labels, each with its own start. Logistic regression sees "
            "the labelled rows alone, M1 is a logistic regression of the latents of a VAE. M2 and M1+M2 have α = "
            f'{r["weight"]:g} of log q(y|x), which makes the objective no bound; "α = 0" is the bound.',
            '- "Mixture with labels" is p(y) p(z|y) p(x|z), with the same α.',
            "- GMVAE has no labels and 10 clusters; its error is by the best one-to-one map of clusters to digits.",
            "- Partial: the networks are small, the epochs few, and MNIST's training rows are some of 60,000. The "
            "published figures are of all rows and of larger networks (Kingma et al. 2014, M1 with a transductive SVM; "
            "GMVAE: Dilokthanakul et al. 2016, and Shu 2016), quoted from memory: check them before you cite them.",
            *record.footer(r),
            "",
        ]
    )


if __name__ == "__main__":
    main()
