"""The jobs of each part, and what is made of their figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from table_peers.job import Job
from table_peers.scores import paired

OURS = "lowerbound"
IMPUTERS = ("mean or mode", "5-NN", "iterative ridge", "extra-trees")
SYNTHESISERS = ("TVAE", "CTGAN")
REFERENCES = ("real rows", "columns apart")
PUBLISHED_MASK = "1234"
FURTHER_MASKS = tuple(str(seed) for seed in range(1, 11))
TABLE_MASKS = (*(f"20_{k}" for k in range(1, 6)), "50_1")
SEEDS = 3  # of our fits on the published mask of breast
TURNS = 2  # of the comparison of times
SYNTHETIC_TABLES = ("adult", "wine")
RECOGNISED_TABLES = ("adult", "wine", "credit")
TRUST = {"mean or mode": 1.028, "5-NN": 0.569, "iterative ridge": 0.333, "extra-trees": 0.321}
"""What others measured on the published mask of breast: the check that it is the same mask."""

Known = Callable[[Job], dict[str, Any] | None]
Figures = dict[str, Any]


def jobs(part: str, seed: int, quick: bool) -> list[Job]:
    """All of a part's jobs, in the order that they are run in."""
    if part == "breast":
        return _breast_jobs(seed, quick)
    if part == "synthetic":
        pairs = [(table, method) for table in SYNTHETIC_TABLES for method in (*REFERENCES, OURS, *SYNTHESISERS)]
        tasks = [(task, *pair) for pair in pairs for task in ("synthesise", "judge")]
        return [Job(task, table, method, "", seed, quick) for task, table, method in tasks]
    if part == "speed":
        order = [(OURS, "TVAE") if turn % 2 == 0 else ("TVAE", OURS) for turn in range(TURNS)]
        return [
            Job("speed", "adult", method, "", seed + turn, quick) for turn in range(TURNS) for method in order[turn]
        ]
    if part == "recognition":
        return [Job("recognise", table, OURS, "", seed, quick) for table in RECOGNISED_TABLES]
    masks = (TABLE_MASKS[0], TABLE_MASKS[5]) if quick else TABLE_MASKS
    return [Job("impute", part, method, mask, seed, quick) for mask in masks for method in (*IMPUTERS, OURS)]


def _breast_jobs(seed: int, quick: bool) -> list[Job]:
    found = [Job("impute", "breast", method, PUBLISHED_MASK, seed, quick) for method in IMPUTERS]
    found += [Job("impute", "breast", OURS, PUBLISHED_MASK, seed + k, quick) for k in range(SEEDS)]
    masks = FURTHER_MASKS[:2] if quick else FURTHER_MASKS
    return found + [
        Job("impute", "breast", method, mask, seed, quick) for mask in masks for method in (*IMPUTERS, OURS)
    ]


def summarise(part: str, known: Known, seed: int, quick: bool) -> Figures:
    """The part's figures, of the jobs that are done; ``missing``: the names of those that are not."""
    all_jobs = jobs(part, seed, quick)
    found = {job: known(job) for job in all_jobs}
    done = {job: figures for job, figures in found.items() if figures is not None and "not_run" not in figures}
    missing = [job.name for job, figures in found.items() if figures is None]
    not_run = {job.name: figures["not_run"] for job, figures in found.items() if figures and "not_run" in figures}
    make = {"breast": _breast, "synthetic": _synthetic, "speed": _speed, "recognition": _recognition}.get(part, _table)
    commits = sorted({figures["commit"] for job, figures in done.items() if job.ours})
    threads = sorted({figures["threads"] for figures in done.values()})
    return {"missing": missing, "not_run": not_run, "commits": commits, "threads": threads, **make(done)}


def _breast(done: dict[Job, Figures]) -> Figures:
    published = {job: figures for job, figures in done.items() if job.mask == PUBLISHED_MASK}
    further = {job: figures for job, figures in done.items() if job.mask != PUBLISHED_MASK}
    found = {}
    for name, part in (("published", published), ("further", further)):
        rows = {
            method: _spread([f for job, f in part.items() if job.method == method], "mse") for method in _methods(part)
        }
        found[name] = {"methods": rows, "over_best": _over_best(part, "mse")}
    return found


def _table(done: dict[Job, Figures]) -> Figures:
    found = {}
    for percent in ("20", "50"):
        part = {job: figures for job, figures in done.items() if job.mask.startswith(percent)}
        rows: Figures = {}
        for method in _methods(part):
            figures = [each for job, each in part.items() if job.method == method]
            rows[method] = _spread(figures, "average") | {
                group: float(np.mean([each[group] for each in figures]))
                for group in ("numeric", "categorical", "ordinal")
                if group in figures[0]
            }
        found[percent] = {"methods": rows, "over_best": _over_best(part, "average"), **_calibration(part)}
    return found


def _calibration(part: dict[Job, Figures]) -> Figures:
    ours = [figures for job, figures in part.items() if job.ours]
    if not ours:
        return {}
    names = ("coverage", "inclusive")
    intervals = {name: float(np.mean([each["intervals"][name] for each in ours])) for name in names}
    columns = ours[0]["intervals"]["by_column"]
    by_column = {name: float(np.mean([each["intervals"]["by_column"][name] for each in ours])) for name in columns}
    densities = [each["log_p_of_hidden"] for each in ours if each["log_p_of_hidden"] is not None]
    density = float(np.mean(densities)) if densities else None
    return {"intervals": intervals | {"by_column": by_column}, "log_p_of_hidden": density}


def _synthetic(done: dict[Job, Figures]) -> Figures:
    found: Figures = {}
    for job, figures in done.items():
        methods = found.setdefault(job.table, {})
        methods[job.method] = figures | methods.get(job.method, {})  # minutes and memory are those of the fit
    return {"tables": found}


def _speed(done: dict[Job, Figures]) -> Figures:
    turns: dict[int, Figures] = {}
    for job, figures in done.items():
        turns.setdefault(job.seed, {})[job.method] = figures
    whole = [turn for turn in turns.values() if len(turn) == 2]
    ratios = [turn["TVAE"]["fit_seconds"] / turn[OURS]["fit_seconds"] for turn in whole]
    return {"turns": list(turns.values()), "ratios": ratios}


def _recognition(done: dict[Job, Figures]) -> Figures:
    found: Figures = {}
    for job, figures in done.items():
        for target, areas in figures["targets"].items():
            counts = [count for count in areas if count.isdigit()]
            means = {count: {name: float(np.mean(a)) for name, a in areas[count].items()} for count in counts}
            ahead = {
                count: {
                    name: paired(areas[count]["latents"], other)
                    for name, other in areas[count].items()
                    if name != "latents" and len(other) > 1
                }
                for count in counts
            }
            minutes = areas["fit"]["minutes_fitting"]
            found[f"{job.table}: {target}"] = {
                "areas": means,
                "ahead": ahead,
                "widths": areas["widths"],
                "minutes_fitting": minutes,
            }
    return {"targets": found}


def _methods(part: dict[Job, Figures]) -> list[str]:
    return [method for method in (*IMPUTERS, OURS) if any(job.method == method for job in part)]


def _spread(figures: list[Figures], key: str) -> Figures:
    values = [each[key] for each in figures]
    return {
        "mean": float(np.mean(values)),
        "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": values,
        "minutes": float(np.mean([each["minutes"] for each in figures])),
        "most_minutes": float(max(each["minutes"] for each in figures)),
        "megabytes": float(max(each["megabytes"] for each in figures)),
        "said": figures[0].get("said", ""),
    }


def _over_best(part: dict[Job, Figures], key: str) -> Figures | None:
    """Ours less the best peer's on the same masks; the best is that of the lowest mean over them."""
    ours = _by_mask(part, OURS, key)
    best: tuple[float, str] | None = None
    for method in IMPUTERS:
        theirs = _by_mask(part, method, key)
        if ours and set(ours) <= set(theirs):
            mean = float(np.mean([theirs[mask] for mask in ours]))
            best = (mean, method) if best is None or mean < best[0] else best
    if best is None:
        return None
    theirs = _by_mask(part, best[1], key)
    return {"peer": best[1], **paired([ours[mask] for mask in ours], [theirs[mask] for mask in ours])}


def _by_mask(part: dict[Job, Figures], method: str, key: str) -> dict[str, float]:
    """Means over seeds of each mask."""
    values: dict[str, list[float]] = {}
    for job, figures in part.items():
        if job.method == method:
            values.setdefault(job.mask, []).append(figures[key])
    return {mask: float(np.mean(each)) for mask, each in values.items()}
