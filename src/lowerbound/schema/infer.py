"""Infer a schema from a frame: the kind and properties of each column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.dialect import csv_of
from lowerbound.data.frames import is_number
from lowerbound.errors import DataError
from lowerbound.schema import bounds, coding, forms, measures, notes, rules, times
from lowerbound.schema import cells as reading
from lowerbound.schema.cells import Cells
from lowerbound.schema.column import CLASSES, KINDS, Column, Level, Name, Storage
from lowerbound.schema.rules import Look, shown
from lowerbound.schema.table import Schema

_MOST_LEVELS = 100_000
_HOLES = 0.9
_MARKS = ("", "?", "-", "--", ".", "NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "nan", "NaN")
Floats = NDArray[np.float64]


def infer(
    df: Any, schema: Mapping[Name, str | Column] | None = None, *, max_categories: int = 100, what: str = "the frame"
) -> Schema:
    """Infer the kind of each column of a pandas, polars or pyarrow frame. ``schema``: kinds to use instead, by name.

    Cells that are null, None, NaN or NaT are missing. The kind of a column follows from its other cells, by the first
    of these rules that applies:

    1. *constant*: all cells are equal, or all are missing.
    2. Text that is written like dates or numbers is parsed (see ``Column.form``): 31.12.2001, 12/31/2001 10:30,
       Dec 31, 2001, 2001-12-31T10:00:00Z, 1,234.50, 1 234,5 €, 12 %, (1,234). At least 95 % of the cells must have one
       form. The few other texts, and blanks, "?", "-", "NA", "null", "unknown" and the like, are then missing. Numbers
       without separators or units stay text if no cell is missing and they have at most ``max_categories`` different
       values (10 if some are fractions), or if some begin with 0. Whole numbers such as 20011231 are dates if all are
       days of 1900 to 2100. The rules below then apply to the parsed cells.
    3. Ordered categories of pandas or pyarrow, more than two: *ordinal*. (An Enum of polars is treated as unordered.)
    4. Text or categories: *binary* if there are two levels; *identifier* (not modelled) if they look personal or
       unique: at least 20 cells of which 80 % differ, or texts written like e-mail, IP or postal addresses or telephone
       numbers, or a column name like e-mail or surname (see ``personal``); *categorical* otherwise. With more than
       ``max_categories`` levels, the most frequent ``max_categories`` − 1 are kept and the others share one class,
       "other".
    5. bool: *binary*. Dates and times: *datetime*, in the largest unit (day, hour, minute, …) that represents all of
       them exactly. Durations: *positive* if none is below 0, else *real*.
    6. Whole numbers, also those stored as floats because cells are missing:
       *binary* for 0 and 1, or for any two values in 20 or more cells;
       *identifier* for 20 or more integers, all present and different, if the name is that of a key (id, customer_id,
       CustomerID, key, uuid, index, …), or if they number the rows from 0 or 1 and the name is not that of a count or
       time (year, t, nTokens, …);
       *ordinal* if some are below 0 and there are at most 20 different values, each 10 times on average;
       *categorical* or *ordinal* for 3 to 10 different values whose name or frequencies do not suggest a count (see
       ``scales``);
       *interval* for percentages (see ``bounds.share_or_percentage``);
       *count* if none is below 0 and none above 2^53; *real* otherwise.
    7. Other numbers: *binary* for two values in 20 or more cells; *interval* for shares (0 to 1) and percentages (0 to
       100), see ``bounds.share_or_percentage``;
       *positive* if none is below 0 (if some are exactly 0, see ``Column.atoms``); *real* otherwise.

    Where another kind is also plausible, ``Column.problems`` gives the argument ``schema`` that selects it.

    Raises ``DataError`` for a frame that cannot be used (two columns with the same name, mixed types, infinite values,
    lists, more than 100,000 levels, no rows or columns), and for a ``schema`` that contradicts the cells.
    """
    return infer_and_encode(df, schema, max_categories=max_categories, what=what)[0]


def infer_and_encode(
    df: Any, schema: Mapping[Name, str | Column] | None = None, *, max_categories: int = 100, what: str = "the frame"
) -> tuple[Schema, Floats]:
    """Infer the schema of a frame and encode its rows ``[N, D]`` as ``Schema.encode`` does, reading the frame once."""
    if max_categories < 2:
        raise ValueError(f"max_categories is {max_categories}; give 2 or more (one class is for all other levels).")
    frame = reading.read(df, what)
    names = frame.source.names
    if not names or not frame.rows:
        raise DataError(f"{what} holds {frame.rows} rows and {len(names)} columns; give at least one of each.")
    given = {name: _given(name, kind) for name, kind in (schema or {}).items()}
    there = set(names)
    unknown = [name for name in given if name not in there]
    if unknown:
        raise DataError(f"schema names {unknown[0]!r}, but {what} has no such column; its columns are {list(names)}.")
    columns, values = [], []
    for name, storage, found in zip(names, frame.source.storages, frame.cells, strict=True):
        column, numbers = _column(name, storage, found, given.get(name), max_categories)
        columns.append(column)
        if numbers is not None:
            values.append(numbers)
    encoded = np.stack(values, axis=1) if values else np.empty((frame.rows, 0))
    return Schema(tuple(columns), frame.source.backend, frame.rows, csv_of(df)), encoded


def _given(name: Name, kind: str | Column) -> Column:
    column = kind if isinstance(kind, Column) else Column(kind)  # type: ignore[arg-type]
    if column.kind not in KINDS:
        raise ValueError(f"schema says that {name!r} is {column.kind!r}; the kinds are {', '.join(KINDS)}.")
    if column.precision is not None and not 0 < column.precision < np.inf:
        raise ValueError(f"schema gives {name!r} a precision of {column.precision}; give a number above 0.")
    return column


def _column(
    name: Name, storage: Storage, found: Cells, given: Column | None, max_categories: int
) -> tuple[Column, Floats | None]:
    """Infer a column's kind, and encode its cells ``[N]``; None if the column is not modelled."""
    read = forms.find(name, storage, found, given, max_categories)
    if read is None:
        return _of_cells(name, storage, found, given, max_categories)
    column, numbers = _of_cells(name, read.storage, read.cells, given, max_categories)
    if read.form is not None:
        column = replace(column, form=read.form, why=f"{column.why}, {read.how}" if read.how else column.why)
    return replace(column, storage=storage, markers=read.markers, problems=(*read.notes, *column.problems)), numbers


def _of_cells(
    name: Name, storage: Storage, found: Cells, given: Column | None, max_categories: int
) -> tuple[Column, Floats | None]:
    """Infer a column's kind from its (parsed) cells, and encode them."""
    bare = Column("constant" if given is None else given.kind, name, storage=storage)
    if bare.kind != "identifier":
        coding.refuse_infinite(bare, found)
    look = rules.look(name, storage, found)
    if given is None:
        kind, why = rules.kind_of(look, max_categories)
    else:
        kind, why = given.kind, "declared"
        _check_declared(look, given)
    problems = _problems(look, kind, why)
    missing = 1 - len(look.seen) / look.rows
    column = Column(kind, name, why, problems, missing, storage)
    if look.distinct == 0 or kind == "constant":
        value = _constant(storage, found) if look.distinct else None
        return replace(column, kind="constant", value=value), None
    if kind == "identifier":
        return _key(column, look), None
    if kind in CLASSES:
        column = _classes(column, look, found, given, max_categories)
        return column, coding.codes(column, found)
    return _measured(column, look, found, given)


def _key(column: Column, look: Look) -> Column:
    """An identifier column; if it is a key of whole numbers, the largest of them is kept to continue from."""
    if look.storage.family != "int" or not look.complete or look.distinct < look.rows:
        return column
    return replace(column, high=float(look.levels[-1]), offset=int(look.levels[-1]))


def _check_declared(look: Look, given: Column) -> None:
    """Raise ``DataError`` if the cells cannot be of the declared kind."""
    name, kind, family = look.name, given.kind, look.storage.family
    if look.distinct == 0:
        return  # all cells are missing
    if kind not in (allowed := rules.ALLOWED[family]):
        raise DataError(
            f"schema says that {name!r} is {kind}, but it holds {coding.group(look.storage)} ({look.storage.dtype}; "
            f"the first is {shown(look.seen[0], look.storage)}), which can be {', '.join(allowed)}; convert it to "
            "another type, or leave it out of schema."
        )
    if kind == "constant" and look.distinct > 1:
        first, second = shown(look.levels[0]), shown(look.levels[1])
        raise DataError(
            f"schema says that {name!r} is constant, but it holds {first} and {second}; leave it out of schema."
        )
    if kind == "ordinal" and family == "text" and not given.levels:
        raise DataError(
            f"schema says that {name!r} is ordinal, but text has no order; give Column('ordinal', levels=(…)), "
            f"or --schema {name}=ordinal:LOWEST,…,HIGHEST."
        )


def _problems(look: Look, kind: str, why: str) -> tuple[str, ...]:
    found, missing = [], 1 - len(look.seen) / look.rows
    if not len(look.seen):
        return ("all cells are missing; the column is not modelled",)
    if missing > _HOLES:
        found.append(f"{100 * missing:.3g} % of its cells are missing")
    if why != "declared":
        found.extend(_other_readings(look, kind))
    elif kind not in ("identifier", "constant") and (what := rules.reads_as_personal(look)) is not None:
        found.append(f"it looks like {what}; samples will repeat real values")
    if kind == "identifier" and rules.counts_rows(look) and not rules.reads_as_key(look.name):
        found.append(
            "left out, because it numbers the rows; if it is a time axis or a count, declare schema="
            f"{{{look.name!r}: 'count'}}"
        )
    elif kind == "count" and why != "declared" and rules.counts_rows(look):
        found.append(
            "it numbers the rows and is modelled as a count or a time; if it is only a row number, declare schema="
            f"{{{look.name!r}: 'identifier'}}"
        )
    texts = look.levels.tolist() if kind in CLASSES and look.storage.family == "text" else []
    if texts and all(map(is_number, texts)) and not rules.are_codes(texts):
        found.append("its text consists of numbers")
    if marks := tuple(text for text in texts if text.strip() in _MARKS):
        said = f"schema={{{look.name!r}: Column({kind!r}, markers={marks!r})}}"
        found.append(
            f"{', '.join(map(repr, marks))} counts as a level; if it stands for a missing cell, declare {said}"
        )
    if kind not in ("identifier", "categorical") and rules.reads_as_key(look.name):
        found.append("its name is that of a key; if it is one, declare it 'identifier' or 'categorical'")
    return tuple(found)


def _other_readings(look: Look, kind: str) -> list[str]:
    """If a column can be read in two ways: a note that gives the chosen one and ``schema=`` for the other."""
    name, low, high = look.name, look.levels[0], look.levels[-1]
    if kind == "identifier" and (what := rules.reads_as_personal(look)) is not None:
        return [
            f"left out, because it looks like {what}, and samples would repeat real values; to model it, declare "
            f"schema={{{name!r}: 'categorical'}}"
        ]
    if kind == "interval" and not bounds.is_plain(float(low), float(high)):
        top = 1 if high <= 1 else 100
        return [f"bounded by 0 and {top}; if values can be outside, declare schema={{{name!r}: 'positive'}}"]
    if kind in ("ordinal", "categorical") and look.storage.family in ("int", "float") and low >= 0:
        other = "'categorical' if they have no order" if kind == "ordinal" else "'ordinal' if they have an order"
        return [
            f"modelled as {'levels of a scale' if kind == 'ordinal' else 'codes of classes'}; declare "
            f"schema={{{name!r}: 'count'}} if they count, {other}"
        ]
    return []


def _constant(storage: Storage, found: Cells) -> Level:
    value = found.values[int(np.argmax(found.mask))]
    if isinstance(value, Decimal):
        return str(value)
    plain: Level = value.item() if isinstance(value, np.generic) else value
    return plain


def _classes(column: Column, look: Look, found: Cells, given: Column | None, most: int) -> Column:
    levels = rules.levels_of(look) if given is None or not given.levels else tuple(given.levels)
    if len(set(levels)) < len(levels):
        raise ValueError(f"schema gives {column.name!r} a level twice: {list(levels)[:9]}; give each once.")
    if len(levels) > _MOST_LEVELS:
        raise DataError(
            f"column {column.name!r} has {len(levels):,} different values, too many for classes; leave it out of the "
            f"model by schema={{{column.name!r}: 'identifier'}}, or group its values."
        )
    held = column.storage.categories
    if held is not None and (beyond := [level for level in levels if level not in held]):
        raise ValueError(
            f"schema gives {column.name!r} the level {shown(beyond[0])}, which is not a category of the column; add "
            "it to the column's categories, or leave it out of levels."
        )
    column = replace(column, levels=levels)
    unknown = found.mask & (coding.codes(column, found) < 0)
    if unknown.any():
        row = int(np.argmax(unknown))
        value = shown(found.values[row])
        raise DataError(f"row {row} of column {column.name!r} is {value}, which is not one of the levels in schema.")
    if column.kind == "binary" and len(levels) != 2:
        raise DataError(
            f"schema says that {column.name!r} is binary, but it has {len(levels)} levels (the first is "
            f"{shown(levels[0])}); declare it categorical, or give its two levels by Column('binary', levels=(…))."
        )
    if column.kind != "categorical" or len(levels) <= most or (given is not None and given.levels):
        return column
    order = np.argsort(-look.counts, kind="stable")
    kept, pooled = np.sort(order[: most - 1]), np.sort(order[most - 1 :])
    share = look.counts[pooled].sum() / look.counts.sum()
    note = f"{len(pooled)} rare levels ({100 * share:.3g} % of the cells) share the class 'other'"
    return replace(
        column,
        problems=(*column.problems, note),
        levels=tuple(levels[at] for at in kept),
        pooled=tuple(levels[at] for at in pooled),
        weights=tuple(int(count) for count in look.counts[pooled]),
    )


def _measured(column: Column, look: Look, found: Cells, given: Column | None) -> tuple[Column, Floats]:
    """Measure a column of numbers or times: the column with all measured fields, and its encoded cells."""
    column = _placed(column, found)
    values = coding.numbers(column, column.storage, found)
    seen = values[found.mask]
    low, high, bounded = bounds.found(column, given, seen)
    column = replace(column, low=low, high=high, bounded=bounded)
    coding.check_range(column, values, found)
    atom, atoms = measures.most_repeated(seen)
    grid = _recorded(column, seen) if given is None or given.precision is None else float(given.precision)
    column = replace(column, precision=grid, atom=atom, atoms=atoms)
    column = replace(column, heavy=_point_masses(column, seen))
    others = seen[~np.isin(seen, column.heavy)]
    others = others if len(others) >= measures.FEW else seen
    centre, scale = _centre_and_scale(column, others)
    column = replace(column, centre=centre, scale=scale)
    column = replace(column, heavy_tailed=_heavy_tailed(column, others), curved=_curved(column, others))
    column = replace(column, dispersion=_dispersion(column, others))
    problems = (*column.problems, *notes.of_values(column, seen))
    return replace(column, why=column.why + _grid(column, seen), problems=problems), values


def _placed(column: Column, found: Cells) -> Column:
    """Add the offset and the step that keep whole numbers and times exact."""
    seen, family = found.values[found.mask], column.storage.family
    if family == "int":
        far = max(abs(int(seen.min())), abs(int(seen.max()))) > times.EXACT
        return replace(column, offset=int(seen.min())) if far and column.kind == "real" else column
    if family not in ("time", "duration"):
        return column
    offset = 0 if family == "duration" else int(seen.min())
    return replace(column, offset=offset, step=times.natural_step(seen, offset, column.unit or "ns"))


def _recorded(column: Column, seen: Floats) -> float | None:
    """The precision of encoded values: 1 for times and durations (their step), at least 1 for whole numbers."""
    storage = column.storage
    if column.unit is not None:
        return 1.0
    found = measures.precision(seen, storage.floating)
    return 1.0 if found is None and storage.family == "int" else found


def _centre_and_scale(column: Column, seen: Floats) -> tuple[float, float]:
    """The parameters of ``Schema.standardise``, which describes them."""
    low = column.low if column.is_between and column.low is not None else 0.0
    if column.kind == "count" and not column.large:
        return low, 1.0
    if column.is_between and column.high is not None:
        return low, measures.usable(column.high - low)
    if column.kind in ("positive", "count"):
        return 0.0, measures.usable(float(np.median(seen[seen > 0]))) if (seen > 0).any() else 1.0
    return measures.centre_and_scale(seen)


def _point_masses(column: Column, seen: Floats) -> tuple[float, ...]:
    """The values that the column's likelihood gives a probability of their own, besides the ends of an interval."""
    if column.kind == "datetime":
        return ()
    ends = (column.low, column.high) if column.is_between and column.kind != "count" else ()
    return tuple(value for value in measures.heavy(seen, column.precision) if value not in ends)


def _heavy_tailed(column: Column, seen: Floats) -> bool:
    """Whether the values have heavy tails; for positive numbers and large counts, the logarithms of those above 0."""
    if column.kind == "positive" or column.large:
        above = seen[seen > 0]
        return len(above) > 0 and measures.heavy_tailed(np.log(above))
    return column.kind == "real" and measures.heavy_tailed(seen)


def _curved(column: Column, seen: Floats) -> bool:
    """Whether the values inside their domain are far from normal; see ``Column.domain``."""
    if column.domain == "unit" and column.low is not None and column.high is not None:
        seen = (seen - column.low) / (column.high - column.low)
        inside = seen[(seen > 0) & (seen < 1)]
        return measures.curved(np.log(inside) - np.log1p(-inside))
    return measures.curved(np.log(seen[seen > 0]) if column.domain == "positive" else seen)


def _dispersion(column: Column, seen: Floats) -> float | None:
    return float(seen.var() / seen.mean()) if column.kind == "count" and len(seen) >= measures.FEW else None


def _grid(column: Column, seen: Floats) -> str:
    if column.precision is None:
        return ""
    if column.unit is not None:
        name = times.NATURAL[column.step * times.PER_UNIT[column.unit]]
        return f", in whole {name}s"
    if column.precision == 1 and column.why.startswith("whole"):
        return ""
    finer = measures.off_grid(seen, column.precision, column.storage.floating)
    return f", in steps of {column.precision:g}" + (f" ({100 * finer:.2g} % of the cells are finer)" if finer else "")
