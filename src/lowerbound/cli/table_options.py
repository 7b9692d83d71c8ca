"""Tables at the command line: kinds of columns and cells from options, frames into files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lowerbound.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from lowerbound.data import Csv
    from lowerbound.estimators import VAE
    from lowerbound.schema import Column, Schema


def schema_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--schema NAME=KIND``, as often as there are columns to name."""
    return click.option(
        "--schema",
        "kinds",
        multiple=True,
        metavar="NAME=KIND[:LEVEL,…|:LOW,HIGH|:FORM]",
        callback=_kinds,
        help="What a column of a table is to be taken for; of text in an order, as size=ordinal:S,M,L; with bounds, as "
        "pct=interval:0,100; of text in a form, as day=datetime:%d/%m/%Y or price=positive:#.##0,00.",
    )(command)


def _kinds(context: click.Context, option: click.Parameter, pairs: Sequence[str]) -> dict[str, str | Column] | None:
    if not pairs:
        return None
    import difflib

    from lowerbound.schema import KINDS, Column
    from lowerbound.schema.column import CLASSES

    found: dict[str, str | Column] = {}
    for pair in pairs:
        name, equals, declared = pair.rpartition("=")
        kind, colon, levels = declared.partition(":")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=KIND, as age=count.")
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the kinds are {', '.join(KINDS)}."
            raise click.BadParameter(f"{kind!r} is no kind of column ({pair}); {hint}")
        more = {"levels": tuple(levels.split(","))} if kind in CLASSES else _bounds(levels) or {"form": levels}
        found[name] = Column(kind, **more) if colon else kind
    return found


def _bounds(text: str) -> dict[str, Any]:
    """``low`` and ``high`` of "0,100", "0,", ",100" or "2001-01-01,"; nothing of a form."""
    low, comma, high = text.partition(",")
    if not comma or not (low or high) or re.search(r"[#%,]", low + high) or re.fullmatch("0*,0+", text):
        return {}
    try:
        return {"low": float(low) if low else None, "high": float(high) if high else None}
    except ValueError:
        return {"low": low or None, "high": high or None}


def keep_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--keep NAME,…``: columns of DATA to be written too."""
    return click.option(
        "--keep",
        multiple=True,
        metavar="NAME[,NAME…]",
        callback=lambda context, option, given: tuple(name for each in given for name in each.split(",")),
        help="Columns of the table DATA to write before the results, as keys to join by.",
    )(command)


def strict_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--strict``: of values that the model cannot take."""
    return click.option(
        "--strict",
        is_flag=True,
        help="Refuse levels never seen in fitting and values beyond a column's kind, instead of using them as missing.",
    )(command)


def check_table(vae: VAE, run: Path, strict: bool, keep: Sequence[str], out: Path | None) -> None:
    """Refuse options of tables of other models and files; have the model refuse what it cannot take, if ``strict``."""
    for name, given in (("--strict", strict), ("--keep", keep)):
        if given and vae.schema_ is None:
            raise DataError(f"{name} is of tables, and {run} was fitted to an array; leave it out.")
    if keep and (out is None or out.suffix.lower() == ".npy"):
        raise click.BadParameter("columns are kept in a .csv or .parquet file; give one by --out.", param_hint="--keep")
    vae.strict = vae.strict or strict


def types_of(schema: Schema) -> dict[str, pa.DataType]:
    """Arrow's types of a schema's columns, where a csv file may be read as another than was fitted."""
    from lowerbound.schema import cells, in_arrow

    found = {}
    for column in schema.columns:
        storage = column.storage
        if schema.backend != "pyarrow" or storage.family not in ("float", "int", "bool", "time"):
            storage = cells.plain("pyarrow", storage)
        if storage.family != "null":
            found[str(column.name)] = in_arrow.type_of(storage)
    return found


def given_cells(vae: VAE, pairs: Sequence[str]) -> dict[Any, Any] | None:
    """The cells that NAME=VALUE say, as text; None without any."""
    found: dict[Any, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        columns = () if vae.schema_ is None else vae.schema_.columns
        names = [str(column.name) for column in columns if pair.startswith(f"{column.name}=")]
        if names:  # a name may hold an = itself
            name = max(names, key=len)
            text = pair[len(name) + 1 :]
        elif not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE, as age=37.", param_hint="--given")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice.", param_hint="--given")
        column = next((column for column in columns if str(column.name) == name), None)
        found[name if column is None else column.name] = text
    return found or None


def check_writable(vae: VAE, out: Path) -> None:
    """Refuse to write rows of a table to .npy where any column holds more than numbers."""
    if out.suffix.lower() != ".npy" or vae.schema_ is None:
        return
    other = next((c for c in vae.schema_.columns if c.storage.family not in ("float", "int", "bool", "decimal")), None)
    if other is not None:
        raise click.BadParameter(
            f"{out} holds numbers alone, and column {other.name!r} of this model holds {other.storage.dtype or 'none'};"
            " use .csv or .parquet.",
            param_hint="--out",
        )


def write_rows(out: Path, frame: Any, form: Csv | None = None, texts: Mapping[str, Any] | None = None) -> None:
    """A frame into a file, by its suffix; see ``write_frame``."""
    from lowerbound.data import from_frame, write, write_frame

    if out.suffix.lower() == ".npy":
        write(out, from_frame(frame)[0])
    else:
        write_frame(out, frame, form, texts)


def to_the_letter(data: Path, x: pa.Table, found: Sequence[pa.Table], form: Csv) -> dict[str, list[str | None]]:
    """What stood in the csv file ``data`` in each cell that tables of its rows ``x``, one under the other, still hold.

    None where a cell has been filled.
    """
    from pyarrow import compute

    from lowerbound.data.table_files import read_texts

    there = set(x.column_names).intersection(*(table.column_names for table in found))
    names = [name for name in x.column_names if name in there]
    texts: dict[str, list[str | None]] = {name: [] for name in names}
    for name, cells in read_texts(data, form, names).items():
        for table in found:
            kept = compute.is_null(table[name])
            if table[name].type == x[name].type and x[name].null_count < len(x):
                kept = compute.or_(kept, compute.fill_null(compute.equal(table[name], x[name]), False))
            pairs = zip(cells, kept.to_pylist(), strict=True)
            texts[name] += [text if as_it_was else None for text, as_it_was in pairs]
    return texts


def as_arrow(rows: Any) -> pa.Table:
    """Rows as a table of arrow: those of an array under names that say nothing."""
    import pyarrow as pa

    if isinstance(rows, pa.Table):
        return rows
    raise DataError("these data are an array, and not a table; give a .csv or .parquet file.")


def in_long_form(frames: Sequence[pa.Table]) -> pa.Table:
    """Completions of the same rows, one under the other, with the number of each in a first column ``draw``."""
    import pyarrow as pa

    numbers = (pa.array([number] * len(frame), pa.int64()) for number, frame in enumerate(frames))
    return pa.concat_tables([frame.add_column(0, "draw", n) for frame, n in zip(frames, numbers, strict=True)])


def missing(frame: pa.Table, schema: Schema) -> int:
    """How many cells of the model's columns hold nothing."""
    from lowerbound.schema import cells, coding

    read = cells.read(frame, due=schema.names)
    total = 0
    for column, (storage, found) in zip(schema.columns, read.ordered(schema.names, others=True), strict=True):
        there, unread = found.mask, ~found.mask
        if column.modelled:
            _, taken, unread = coding.read_by_form(column, storage, found)
            there = taken.mask
        total += int((~there & ~unread).sum()) if column.modelled else int((~there).sum())
    return total
