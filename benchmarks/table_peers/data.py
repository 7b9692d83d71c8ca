"""The tables, their columns' types, and the published lists of missing cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

FOLDERS = {"adult": "adult", "wine": "wine", "credit": "default_credit"}
NAMES = {
    "adult": "age workclass weight education marital occupation relationship race sex gain loss hours",
    "wine": "fixed volatile citric sugar chlorides free total density ph sulphates alcohol quality type",
    "credit": "limit sex education marriage age pay_1 pay_2 pay_3 pay_4 pay_5 pay_6 bill_1 bill_2 bill_3 bill_4 bill_5 "
    "bill_6 paid_1 paid_2 paid_3 paid_4 paid_5 paid_6 default",
}
QUICK_ROWS = 400


@dataclass(frozen=True)
class Table:
    """``values [N, D]``, NaN for what no one knows; classes as codes 0 … C − 1; ``kinds`` as the data's files say."""

    name: str
    values: np.ndarray
    columns: tuple[str, ...]
    kinds: tuple[str, ...]  # real, pos, count, cat, ordinal
    classes: tuple[int, ...]  # of cat and ordinal, else 0

    def where(self, *kinds: str) -> list[int]:
        """Places of the columns of some kinds."""
        return [j for j, kind in enumerate(self.kinds) if kind in kinds]

    @property
    def numeric(self) -> list[int]:
        return self.where("real", "pos", "count")

    def with_values(self, values: np.ndarray) -> Table:
        """The same columns with other rows."""
        return Table(self.name, values, self.columns, self.kinds, self.classes)

    def without(self, columns: list[str]) -> Table:
        """The same rows with fewer columns."""
        keep = [j for j, name in enumerate(self.columns) if name not in columns]
        names, kinds = (tuple(part[j] for j in keep) for part in (self.columns, self.kinds))
        return Table(self.name, self.values[:, keep], names, kinds, tuple(self.classes[j] for j in keep))

    def levels(self, j: int) -> list[str]:
        """The classes of column ``j`` as a person's frame would have them: words, in their order."""
        return [f"{self.columns[j]} {chr(65 + code)}" for code in range(self.classes[j])]

    def frame(self, hidden: np.ndarray | None = None) -> pd.DataFrame:
        """As a frame: numbers as float64, classes as (ordered) categories; ``hidden [N, D]`` cells are missing."""
        values = self.values if hidden is None else np.where(hidden, np.nan, self.values)
        found: dict[str, object] = {}
        for j, name in enumerate(self.columns):
            if self.classes[j]:
                codes = np.where(np.isnan(values[:, j]), -1, values[:, j]).astype(int)
                found[name] = pd.Categorical.from_codes(codes, self.levels(j), ordered=self.kinds[j] == "ordinal")
            else:
                found[name] = values[:, j]
        return pd.DataFrame(found)

    def numbers(self, frame: pd.DataFrame) -> np.ndarray:
        """``values [N, D]`` from what ``frame`` made, or made so by another."""
        columns = []
        for j, name in enumerate(self.columns):
            if self.classes[j]:
                code = {level: number for number, level in enumerate(self.levels(j))}
                columns.append(frame[name].astype(object).map(code).to_numpy(np.float64))
            else:
                columns.append(frame[name].to_numpy(np.float64))
        return np.column_stack(columns)


def load(name: str, folder: Path) -> Table:
    """A table. "breast" is scikit-learn's, standardised by mean and deviation."""
    if name == "breast":
        return _breast()
    folder = folder / FOLDERS[name]
    values = np.genfromtxt(folder / "data.csv", delimiter=",", dtype=np.float64)
    lines = [line.split(",") for line in (folder / "data_types.csv").read_text().split()[1:]]
    kinds = tuple(line[0] for line in lines)
    classes = tuple(int(line[2]) if line[0] in ("cat", "ordinal") else 0 for line in lines)
    for j, count in enumerate(classes):
        if count:
            values[:, j] = _coded(values[:, j], count)
    return Table(name, values, tuple(NAMES[name].split()), kinds, classes)


def few(table: Table, hidden: np.ndarray) -> tuple[Table, np.ndarray]:
    """Some rows from all over the table, and their hidden cells."""
    rows = np.linspace(0, len(table.values) - 1, QUICK_ROWS).astype(int)
    return table.with_values(table.values[rows]), hidden[rows]


def _coded(values: np.ndarray, count: int) -> np.ndarray:
    """Codes from 0 in the order of the values; of as many consecutive whole numbers, their distance from the least."""
    seen = np.unique(values[~np.isnan(values)])
    if seen[-1] - seen[0] < count:
        return np.asarray(values - seen[0])
    return np.where(np.isnan(values), np.nan, np.searchsorted(seen, values))


def _breast() -> Table:
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    values = (found.data - found.data.mean(0)) / found.data.std(0)
    columns = tuple(str(name) for name in found.feature_names)
    width = values.shape[1]
    return Table("breast", values, columns, ("real",) * width, (0,) * width)


def hidden_cells(table: Table, mask: str, folder: Path) -> np.ndarray:
    """Which cells are hidden, ``[N, D]``; not those that were missing anyway.

    "1234" of breast: the generator that ``np.random.seed(1234)`` makes chooses half of the cells, as in the notebook
    of MIWAE; other numbers are other seeds. "20_3" of others: ``missing20_3.csv``.
    """
    shape = table.values.shape
    if table.name == "breast":
        found = np.zeros(table.values.size, bool)
        found[np.random.RandomState(int(mask)).choice(found.size, found.size // 2, replace=False)] = True
        return found.reshape(shape)
    places = np.loadtxt(folder / FOLDERS[table.name] / f"missing{mask}.csv", delimiter=",", dtype=int) - 1
    found = np.zeros(shape, bool)
    found[places[:, 0], places[:, 1]] = True
    return np.asarray(found & ~np.isnan(table.values))


def split(table: Table, seed: int, share: float = 0.2) -> tuple[Table, Table]:
    """Rows to learn from, and others to judge by."""
    order = np.random.default_rng(seed).permutation(len(table.values))
    held = int(share * len(order))
    return table.with_values(table.values[order[held:]]), table.with_values(table.values[order[:held]])


def targets(table: Table) -> dict[str, tuple[np.ndarray, list[str]]]:
    """What is to be told of a row from the others' cells: 0 or 1, NaN if unknown; and the columns that tell it.

    As prepared, adult has no column of incomes: in its place, whether one has a degree, or is married.
    """
    column = {name: table.values[:, j] for j, name in enumerate(table.columns)}
    tables: dict[str, dict[str, tuple[str, float, float | None]]] = {
        "adult": {"degree": ("education", 12, None), "married": ("marital", 0, 0)},
        "wine": {"type": ("type", 1, None), "quality": ("quality", 7, None)},
        "credit": {"default": ("default", 1, None)},
    }
    found = {}
    for target, (name, low, high) in tables[table.name].items():
        values = column[name]
        label = (values >= low) & (values <= (np.inf if high is None else high))
        drop = [name, "relationship"] if target == "married" else [name]  # a husband is married
        found[target] = (np.where(np.isnan(values), np.nan, label.astype(float)), drop)
    return found
