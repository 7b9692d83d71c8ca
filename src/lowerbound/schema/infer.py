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
_MARKS = ("", "?", "-", "--", ".", "NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "nan", "NaN")  # of text
Floats = NDArray[np.float64]


def infer(
    df: Any, schema: Mapping[Name, str | Column] | None = None, *, max_categories: int = 100, what: str = "the frame"
) -> Schema:
    """Infer the kind of each column of a pandas, polars or pyarrow frame. ``schema``: kinds to use instead, by name.

    A cell that is null, None, NaN or NaT is missing. Of the others, the first rule that holds:

    1. *constant*: they are all the same, or there are none.
    2. Text that is written like dates or numbers is read as such, where at least 95 % of its cells (and all but a few
       different ones) are of one form: 31.12.2001, 12/31/2001 10:30, Dec 31, 2001, 2001-12-31T10:00:00Z, 1,234.50,
       1 234,5 €, 12 %, (1,234); see ``Column.form``. Blanks, "?", "-", "NA", "null", "unknown" and the like, and the
       few other texts, are then missing. Numbers without separators or marks stay text if none is missing and at most
       ``max_categories`` differ (10 of fractions), or some begin with 0. Whole numbers that are all days of 1900 to
       2100, as 20011231, are dates. Then the rules below hold of what is read: *datetime*, or as of numbers.
    3. Ordered categories of pandas or pyarrow, more than two: *ordinal*. (An Enum of polars is not taken for a scale.)
    4. Text or categories: *binary* of two kinds; *identifier*, which is dropped, of what looks like somebody's own: of
       20 cells or more of which 80 % differ, of texts written as e-mail, IP or postal addresses or telephone numbers
       are, or by the column's name (e-mail, surname, …; see ``personal``); *categorical* otherwise. Of more than
       ``max_categories`` levels, all but the most frequent ``max_categories`` − 1 share one class, "other".
    5. bool: *binary*. Dates and times: *datetime*, counted in the longest of day, hour, minute, … that all lie on.
       Durations: *positive* if none is below 0, else *real*.
    6. Whole numbers, floats too (of a column with missing cells): *binary* of 0 and 1, or of any two in 20 cells
       or more; *identifier* if they are stored as whole numbers, 20 or more, none missing or repeated, and the name is
       a key's (id, customer_id, CustomerID, key, uuid, index, …) or they count the rows from 0 or 1 and the name is not
       that of a count or a time (year, t, nTokens, …); *ordinal* if some are below 0, but there are at most 20
       different ones, each 10 times on average; of 3 to 10 different ones that no count looks like *categorical* or
       *ordinal* (by the name and by their frequencies, see ``scales``); *interval* of percentages (as below, where they
       pile up at 100 or the name says so); *count* if none is below 0 and all are up to 2^53; *real* otherwise.
    7. Other numbers: *interval*, bounded by 0 and 1 or by 0 and 100, of shares and percentages (see
       ``bounds.share_or_percentage``); *positive* if none is below 0 (an exact 0 among them is an atom, see
       ``Column.atoms``); *real* otherwise.

    Where another reading is likely, ``Column.problems`` gives the line of ``schema`` for it.

    Raises ``DataError`` in a sentence for what cannot be used: columns with one name, mixed types, infinities, lists,
    more than 100,000 levels, an empty table; and for a ``schema`` that the cells contradict.
    """
    return infer_and_encode(df, schema, max_categories=max_categories, what=what)[0]


def infer_and_encode(
    df: Any, schema: Mapping[Name, str | Column] | None = None, *, max_categories: int = 100, what: str = "the frame"
) -> tuple[Schema, Floats]:
    """Infer the schema of a frame and encode its rows, reading it once: ``[N, D]``, as ``Schema.encode`` would."""
    if max_categories < 2:
        raise ValueError(f"max_categories is {max_categories}; give 2 or more, of which one is for all others.")
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
    """Infer a column's kind, and encode its cells ``[N]``: None if no model sees it."""
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
    """A column by its cells, read by their form if they have one."""
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
    """An identifier; where it is a key of whole numbers, with the largest as ``offset``."""
    if look.storage.family != "int" or not look.complete or look.distinct < look.rows:
        return column
    return replace(column, high=float(look.levels[-1]), offset=int(look.levels[-1]))


def _check_declared(look: Look, given: Column) -> None:
    """Refuse a declared kind that the cells cannot be of."""
    name, kind, family = look.name, given.kind, look.storage.family
    if look.distinct == 0:
        return  # nothing speaks against it, and nothing can be learned
    if kind not in (allowed := rules.ALLOWED[family]):
        raise DataError(
            f"schema says that {name!r} is {kind}, and it holds {coding.group(look.storage)} ({look.storage.dtype}; "
            f"the first is {shown(look.seen[0], look.storage)}), which can be {', '.join(allowed)}; turn it into "
            "another type, or leave it out of schema."
        )
    if kind == "constant" and look.distinct > 1:
        first, second = shown(look.levels[0]), shown(look.levels[1])
        raise DataError(
            f"schema says that {name!r} is constant, and it holds {first} and {second}; leave it out of it."
        )
    if kind == "ordinal" and family == "text" and not given.levels:
        raise DataError(
            f"schema says that {name!r} is ordinal, and text has no order; give Column('ordinal', levels=(…)), "
            f"or --schema {name}=ordinal:LOWEST,…,HIGHEST."
        )


def _problems(look: Look, kind: str, why: str) -> tuple[str, ...]:
    found, missing = [], 1 - len(look.seen) / look.rows
    if not len(look.seen):
        return ("all cells are missing; they stay so",)
    if missing > _HOLES:
        found.append(f"{100 * missing:.3g} % of its cells are missing")
    if why != "declared":
        found.extend(_other_readings(look, kind))
    elif kind not in ("identifier", "constant") and (what := rules.reads_as_personal(look)) is not None:
        found.append(f"it looks like {what}; samples will repeat them")
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
        found.append("its text reads as numbers")
    if marks := tuple(text for text in texts if text.strip() in _MARKS):
        said = f"schema={{{look.name!r}: Column({kind!r}, markers={marks!r})}}"
        found.append(
            f"{', '.join(map(repr, marks))} counts as a level; if it stands for a missing cell, declare {said}"
        )
    if kind not in ("identifier", "categorical") and rules.reads_as_key(look.name):
        found.append("its name is that of a key: declare it 'identifier' or 'categorical' if it is one")
    return tuple(found)


def _other_readings(look: Look, kind: str) -> list[str]:
    """Where a column can be read in two ways: which was taken, and the line of ``schema=`` for the other."""
    name, low, high = look.name, look.levels[0], look.levels[-1]
    if kind == "identifier" and (what := rules.reads_as_personal(look)) is not None:
        return [
            f"left out, because it looks like {what}, which samples would repeat; to model it, declare "
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
            f"column {column.name!r} has {len(levels):,} different cells, too many for classes; declare it by "
            f"schema={{{column.name!r}: 'identifier'}}, or group them."
        )
    held = column.storage.categories
    if held is not None and (beyond := [level for level in levels if level not in held]):
        raise ValueError(
            f"schema gives {column.name!r} the level {shown(beyond[0])}, which is not a category of its type; "
            "add it to them, or leave it out."
        )
    column = replace(column, levels=levels)
    unknown = found.mask & (coding.codes(column, found) < 0)
    if unknown.any():
        row = int(np.argmax(unknown))
        value = shown(found.values[row])
        raise DataError(f"row {row} of column {column.name!r} is {value}, which is not one of the levels in schema.")
    if column.kind == "binary" and len(levels) != 2:
        raise DataError(
            f"schema says that {column.name!r} is binary, and it has {len(levels)} levels, of which the first is "
            f"{shown(levels[0])}; declare it categorical, or give its two by Column('binary', levels=(…))."
        )
    if column.kind != "categorical" or len(levels) <= most or (given is not None and given.levels):
        return column
    order = np.argsort(-look.counts, kind="stable")
    kept, pooled = np.sort(order[: most - 1]), np.sort(order[most - 1 :])
    share = look.counts[pooled].sum() / look.counts.sum()
    said = f"{len(pooled)} rare levels ({100 * share:.3g} % of the cells) share the class 'other'"
    return replace(
        column,
        problems=(*column.problems, said),
        levels=tuple(levels[at] for at in kept),
        pooled=tuple(levels[at] for at in pooled),
        weights=tuple(int(count) for count in look.counts[pooled]),
    )


def _measured(column: Column, look: Look, found: Cells, given: Column | None) -> tuple[Column, Floats]:
    """A column of numbers or times with what is measured of them, and its encoded cells."""
    column = _placed(column, found)
    values = coding.numbers(column, column.storage, found)
    seen = values[found.mask]
    low, high, bounded = bounds.found(column, given, seen)
    column = replace(column, low=low, high=high, bounded=bounded)
    coding.check_range(column, values, found)
    atom, atoms = measures.most_repeated(seen)
    grid = _recorded(column, seen) if given is None or given.precision is None else float(given.precision)
    centre, scale = _centre_and_scale(column, seen)
    column = replace(column, precision=grid, atom=atom, atoms=atoms, centre=centre, scale=scale)
    column = replace(column, heavy_tailed=_heavy(column, seen), dispersion=_dispersion(column, seen))
    problems = (*column.problems, *notes.of_values(column, seen))
    return replace(column, why=column.why + _grid(column), problems=problems), values


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
    """The grid of the values: of times and durations their step, of whole numbers 1 at least."""
    storage = column.storage
    if column.unit is not None:
        return 1.0
    found = measures.precision(seen, storage.floating)
    return 1.0 if found is None and storage.family == "int" else found


def _centre_and_scale(column: Column, seen: Floats) -> tuple[float, float]:
    """Of ``Schema.standardise``: an interval goes to [0, 1], positive numbers keep their 0, counts to 1,000 stay."""
    low = column.low if column.is_between and column.low is not None else 0.0
    if column.kind == "count" and not column.large:
        return low, 1.0
    if column.is_between and column.high is not None:
        return low, measures.usable(column.high - low)
    if column.kind in ("positive", "count"):
        return 0.0, measures.usable(float(np.median(seen[seen > 0]))) if (seen > 0).any() else 1.0
    return measures.centre_and_scale(seen)


def _heavy(column: Column, seen: Floats) -> bool:
    """The tails of the logarithms of positive numbers."""
    if column.kind == "positive" or column.large:
        above = seen[seen > 0]
        return len(above) > 0 and measures.heavy_tailed(np.log(above))
    return column.kind == "real" and measures.heavy_tailed(seen)


def _dispersion(column: Column, seen: Floats) -> float | None:
    return float(seen.var() / seen.mean()) if column.kind == "count" and len(seen) >= measures.FEW else None


def _grid(column: Column) -> str:
    if column.precision is None:
        return ""
    if column.unit is not None:
        name = times.NATURAL[column.step * times.PER_UNIT[column.unit]]
        return f", in whole {name}s"
    return "" if column.precision == 1 and column.why.startswith("whole") else f", in steps of {column.precision:g}"
