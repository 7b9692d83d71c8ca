"""All that is asked of lowerbound: fit a frame, complete it, score it, draw rows like it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd

import lowerbound as lb
from lowerbound.errors import DataError
from table_peers import scores
from table_peers.data import Table

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "breast": [{"latent_dim": 10, "hidden": (128, 128), "epochs": 400, "validation": 0.0}],
    "adult": [{"latent_dim": 10, "hidden": (128, 128), "batch_size": 500, "epochs": 12, "learning_rate": 2e-3}],
    "wine": [{"latent_dim": 10, "hidden": (128, 128), "batch_size": 200, "epochs": 60, "learning_rate": 2e-3}],
    "credit": [
        {
            "latent_dim": 24,
            "hidden": (256, 256),
            "batch_size": 500,
            "epochs": 100,
            "learning_rate": lb.training.Cosine(4e-3, 100),
            "draws": 1,
            "warm_up": 40.0,
        }
    ],
}
"""The candidates of each table; of several, the one with the best bound on held-out observed cells is kept.

Credit's columns hang together by many weak ties, which are given up early unless the KL is let in slowly. Its settings
were chosen by a tenth of the observed cells of mask 20_1, hidden besides.
"""
QUICK = {"epochs": 20}
JUDGED_ROWS = 300  # whose intervals and densities are looked at


def ours(frame: pd.DataFrame, seed: int, **options: Any) -> lb.VAE:
    """A fitted model; it sees the frame, holes and all, and nothing else."""
    return lb.VAE(random_state=seed, **options).fit(frame)


def chosen(name: str, frame: pd.DataFrame, seed: int, quick: bool, **more: Any) -> tuple[lb.VAE, dict[str, Any]]:
    """The best of the table's candidates, by its bound on the observed cells of held-out rows, and how it went."""
    start, found = time.perf_counter(), []
    candidates = SETTINGS[name][:1] if quick else SETTINGS[name]
    for candidate in candidates:
        options = {**candidate, **(QUICK if quick else {}), **more}
        model = ours(frame, seed, **options)
        found.append((bound(model), model, options))
    best, model, options = max(found, key=lambda each: each[0])
    history = model.history_
    how = {
        "minutes_fitting": (time.perf_counter() - start) / 60,
        "epochs": len(history.records),
        "best_epoch": history.best_epoch,
        "stopped": history.stopped,
        "held_out_bound": best,
        "settings": {key: repr(of) if callable(of) else of for key, of in options.items() if key != "callbacks"},
        "candidates": [each[0] for each in found],
    }
    return model, how


def bound(model: lb.VAE) -> float:
    """The best bound on the observed cells of the held-out rows, nats a row."""
    return model.history_.held_out.get("valid_objective", -np.inf)


def complete(table: Table, hidden: np.ndarray, seed: int, quick: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """``values [N, D]`` with their holes filled; how well draws and densities of what was hidden are calibrated."""
    frame = table.frame(hidden)
    model, how = chosen(table.name, frame, seed, quick)
    start = time.perf_counter()
    filled = table.numbers(model.impute(frame))
    how["minutes_imputing"] = (time.perf_counter() - start) / 60
    completed = np.where(hidden | np.isnan(table.values), filled, table.values)
    start = time.perf_counter()
    how |= judged(model, table, hidden, seed)
    return completed, how | {"minutes_judging": (time.perf_counter() - start) / 60}


def judged(model: lb.VAE, table: Table, hidden: np.ndarray, seed: int) -> dict[str, Any]:
    """Of some rows: coverage of intervals of hidden numbers, in all and by column; the density of what is hidden."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(hidden))[:JUDGED_ROWS])
    hidden, part = hidden[rows], table.with_values(table.values[rows])
    frame = part.frame(hidden)
    draws = np.stack(
        [part.numbers(each) for each in model.impute(frame, draws=scores.DRAWS, samples=1000, refine=False)]
    )
    numeric = np.zeros_like(hidden)
    numeric[:, part.numeric] = hidden[:, part.numeric]
    found = scores.coverage(part.values[numeric], draws[:, numeric], rng)
    by_column = {
        part.columns[j]: scores.coverage(part.values[hidden[:, j], j], draws[:, hidden[:, j], j], rng)["coverage"]
        for j in part.numeric
        if hidden[:, j].any()
    }
    return {"intervals": found | {"by_column": by_column, "cells": int(numeric.sum())}} | density(model, part, hidden)


def density(model: lb.VAE, table: Table, hidden: np.ndarray) -> dict[str, Any]:
    """log p(hidden | observed) = log p(all) − log p(observed), nats a hidden cell, in the columns' own units."""
    try:
        gained = model.score_samples(table.frame()) - model.score_samples(table.frame(hidden))
    except DataError as error:  # a hidden cell may lie outside of what its column was taken for
        return {"log_p_of_hidden": None, "no_density": str(error)}
    return {"log_p_of_hidden": float(gained.sum() / hidden.sum())}


def synthesise(table: Table, count: int, seed: int, quick: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """``count`` rows like the table's."""
    model, how = chosen(table.name, table.frame(), seed, quick)
    start = time.perf_counter()
    drawn = table.numbers(model.sample(count))
    return drawn, how | {"seconds_sampling": time.perf_counter() - start}


def trace(table: Table, seed: int, quick: bool) -> dict[str, Any]:
    """A fit's bound on held-out rows as time goes by: ``[[seconds, nats a row], …]``."""
    points: list[list[float]] = []
    start = time.perf_counter()

    def note(event: Any) -> None:
        if event.record is not None and "valid_objective" in event.record:
            points.append([time.perf_counter() - start, event.record["valid_objective"]])

    _, how = chosen(table.name, table.frame(), seed, quick, callbacks=[note])
    final = max(value for _, value in points)
    reached = next(seconds for seconds, value in points if value >= final - 0.01 * abs(final))
    return how | {"fit_seconds": points[-1][0], "final_bound": final, "seconds_to_1_percent": reached, "trace": points}


def latents(train: Table, test: Table, seed: int, quick: bool) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """``[N, d]`` of the rows learnt from, and of others."""
    model, how = chosen(train.name, train.frame(), seed, quick)
    return np.asarray(model.transform(train.frame())), np.asarray(model.transform(test.frame())), how
