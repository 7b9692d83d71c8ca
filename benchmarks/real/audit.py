"""Readings of a table that a person would call wrong, looked for by rules that know nothing of lowerbound's own."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

MOST = 0.95  # of a text column's values that must read as numbers or dates
DATE = re.compile(r"^\s*\d{1,4}[-/. ](\d{1,2}|[A-Za-z]{3,9})[-/. ]\d{1,4}([T ].*)?$")
NUMBER = re.compile(
    r"^[(\-+]?[$€£]?\s?\d{1,3}([,' ]\d{3})*([.,]\d+)?\s?%?\)?$|^[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?\s?%?$"
)
SHARE = re.compile(r"pct|percent|share|proportion", re.IGNORECASE)


def readings(frame: pd.DataFrame, schema: Any) -> list[str]:
    """What ``schema`` says of each column against what its values look like; a stated problem is no wrong reading."""
    found = []
    for column in schema.columns:
        values = frame[column.name].dropna()
        stated = bool(column.problems)
        numeric = column.kind in ("real", "positive", "interval", "count", "ordinal", "binary", "constant")
        if pd.api.types.is_numeric_dtype(values) or not len(values):
            continue
        texts = values.astype(str)
        if column.kind not in ("datetime", "constant") and texts.str.match(DATE).mean() > MOST and not stated:
            found.append(f"{column.name}: dates such as {texts.iloc[0]!r} are taken as {column.kind}")
        if not numeric and texts.str.match(NUMBER).mean() > MOST and not stated:
            found.append(f"{column.name}: numbers such as {texts.iloc[0]!r} are taken as {column.kind}")
    return found


def dropped(schema: Any, warned: Collection[str]) -> list[str]:
    """Columns that are left out, of which no warning of the fit says so."""
    kept_out = [column for column in schema.columns if column.kind == "identifier"]
    silent = [c for c in kept_out if not any(repr(c.name) in words and "left out" in words for words in warned)]
    return [f"{column.name}: dropped without a word" for column in silent]


def samples(whole: pd.DataFrame, frame: pd.DataFrame, drawn: pd.DataFrame, schema: Any) -> list[str]:
    """Sampled values that no reader would take for the column's: beyond its bounds, its levels or its type.

    ``frame``: what was fitted, of the ``whole`` table.
    """
    found = []
    for column in schema.modelled:
        seen, new = frame[column.name].dropna(), drawn[column.name].dropna()
        if new.dtype != frame[column.name].dtype and not frame[column.name].isna().any():
            found.append(f"{column.name}: {frame[column.name].dtype} came back as {new.dtype}")
        if not pd.api.types.is_numeric_dtype(seen) or pd.api.types.is_bool_dtype(seen):
            if column.kind in ("binary", "ordinal", "categorical") and not new.isin(seen.unique()).all():
                found.append(f"{column.name}: samples have levels that the data have not")
            continue
        found += [
            f"{column.name}: {said}"
            for said in _numbers(str(column.name), whole[column.name].dropna().to_numpy(float), new.to_numpy(float))
        ]
    return found


def completions(frame: pd.DataFrame, hidden: np.ndarray, filled: pd.DataFrame, schema: Any) -> list[str]:
    """Best completions beyond every value that the column has."""
    found = []
    for column in schema.modelled:
        at = frame.columns.get_loc(column.name)
        seen = frame[column.name]
        if not pd.api.types.is_numeric_dtype(seen) or pd.api.types.is_bool_dtype(seen) or not hidden[:, at].any():
            continue
        new, reach = filled[column.name][hidden[:, at]].to_numpy(float), float(seen.max() - seen.min())
        beyond = max(float(np.nanmax(new) - seen.max()), float(seen.min() - np.nanmin(new)), 0.0)
        if beyond > reach:
            found.append(f"{column.name}: a completion lies {beyond / reach:.1f} ranges beyond all data")
        left = int(np.isnan(new).sum())
        if left:
            found.append(f"{column.name}: {left} cells are left unfilled")
    return found


def _numbers(name: str, seen: np.ndarray, new: np.ndarray) -> list[str]:
    found = []
    whole = bool((seen == np.floor(seen)).all())
    if whole and (new != np.floor(new)).any():
        found.append("whole numbers are sampled with fractions")
    if seen.min() >= 0 and (new < 0).any():
        found.append("samples below 0, where the data are not")
    levels = np.unique(seen)
    few = whole and len(levels) <= 3 and len(seen) >= 15
    if few and not np.isin(new, levels).all():
        found.append(f"codes {levels.tolist()} are sampled as {np.setdiff1d(new, levels)[:3].tolist()}")
    for top in (1.0, 100.0):
        near = 0 <= seen.min() < 0.1 * top and 0.9 * top < seen.max() <= top
        if near and ((top == 1.0 and not whole) or SHARE.search(name)) and (new > top).mean() > 0.01:
            found.append(f"{100 * (new > top).mean():.1f} % of samples are above {top:g}")
        if near and not whole and (new == top).mean() > 2 * (seen == top).mean() + 0.03:
            found.append(f"{100 * (new == top).mean():.1f} % of samples are exactly {top:g}")
    if not whole and (new == 0).mean() > 2 * (seen == 0).mean() + 0.03:
        found.append(f"{100 * (new == 0).mean():.1f} % of samples are exactly 0")
    if len(seen) > 20 and ((seen >= 18000101) & (seen <= 21001231)).all():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dates = pd.to_datetime(pd.Series(seen.astype(int).astype(str)), format="%Y%m%d", errors="coerce")
            made = pd.to_datetime(pd.Series(new.astype(int).astype(str)), format="%Y%m%d", errors="coerce")
        if dates.notna().all() and made.notna().mean() < 0.9:
            found.append("days written as whole numbers are sampled as other numbers")
    return found
