"""Options and output files of commands on tables."""

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
    """Add ``--schema NAME=KIND``, which can be repeated."""
    return click.option(
        "--schema",
        "kinds",
        multiple=True,
        metavar="NAME=KIND[:LEVEL,…|:LOW,HIGH|:FORM]",
        callback=_kinds,
        help="Kind of a table's column, such as age=count; with ordered levels: size=ordinal:S,M,L; with bounds: "
        "pct=interval:0,100; with the form of its text: day=datetime:%d/%m/%Y or price=positive:#.##0,00.",
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
            raise click.BadParameter(f"{pair!r} is not NAME=KIND, such as age=count.")
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the kinds are {', '.join(KINDS)}."
            raise click.BadParameter(f"{kind!r} is not a kind of column ({pair}); {hint}")
        more = {"levels": tuple(levels.split(","))} if kind in CLASSES else _bounds(levels) or {"form": levels}
        found[name] = Column(kind, **more) if colon else kind
    return found


def _bounds(text: str) -> dict[str, Any]:
    """Parse ``low`` and ``high`` of "0,100", "0,", ",100" or "2001-01-01,"; return nothing for a form."""
    low, comma, high = text.partition(",")
    if not comma or not (low or high) or re.search(r"[#%,]", low + high) or re.fullmatch("0*,0+", text):
        return {}
    try:
        return {"low": float(low) if low else None, "high": float(high) if high else None}
    except ValueError:
        return {"low": low or None, "high": high or None}


def keep_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--keep NAME,…``: columns of DATA to write as well."""
    return click.option(
        "--keep",
        multiple=True,
        metavar="NAME[,NAME…]",
        callback=lambda context, option, given: tuple(name for each in given for name in each.split(",")),
        help="Columns of the table DATA to write next to the results, for example keys.",
    )(command)


def strict_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--strict``: refuse values that the model cannot use."""
    return click.option(
        "--strict",
        is_flag=True,
        help="Refuse categories not seen in the fit and values out of range, instead of treating them as missing.",
    )(command)


def check_table(vae: VAE, run: Path, strict: bool, keep: Sequence[str], out: Path | None) -> None:
    """Refuse table options for models of arrays and for .npy files; make the model strict if ``strict``."""
    for name, given in (("--strict", strict), ("--keep", keep)):
        if given and vae.schema_ is None:
            raise DataError(f"{name} needs a model of a table, but {run} was fitted to an array; leave {name} out.")
    if keep and (out is None or out.suffix.lower() == ".npy"):
        raise click.BadParameter("kept columns need a .csv or .parquet file; give one with --out.", param_hint="--keep")
    vae.strict = vae.strict or strict


def types_of(schema: Schema) -> dict[str, pa.DataType]:
    """Return the Arrow types to read a CSV file with, so that columns have the types of the fit."""
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
    """Parse NAME=VALUE pairs into given cells, as text; return None if there are none."""
    found: dict[Any, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        columns = () if vae.schema_ is None else vae.schema_.columns
        names = [str(column.name) for column in columns if pair.startswith(f"{column.name}=")]
        if names:  # a name may contain =
            name = max(names, key=len)
            text = pair[len(name) + 1 :]
        elif not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE, such as age=37.", param_hint="--given")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice.", param_hint="--given")
        column = next((column for column in columns if str(column.name) == name), None)
        found[name if column is None else column.name] = text
    return found or None


def check_writable(vae: VAE, out: Path) -> None:
    """Refuse to write a table to .npy if any column holds values other than numbers."""
    if out.suffix.lower() != ".npy" or vae.schema_ is None:
        return
    other = next((c for c in vae.schema_.columns if c.storage.family not in ("float", "int", "bool", "decimal")), None)
    if other is not None:
        raise click.BadParameter(
            f".npy files hold only numbers, and column {other.name!r} of this model holds "
            f"{other.storage.dtype or 'none'}; use .csv or .parquet.",
            param_hint="--out",
        )


def write_rows(out: Path, frame: Any, form: Csv | None = None, texts: Mapping[str, Any] | None = None) -> None:
    """Write a frame to a file in the format of its suffix; see ``write_frame``."""
    from lowerbound.data import from_frame, write, write_frame

    if out.suffix.lower() == ".npy":
        write(out, from_frame(frame)[0])
    else:
        write_frame(out, frame, form, texts)


def to_the_letter(data: Path, x: pa.Table, found: Sequence[pa.Table], form: Csv) -> dict[str, list[str | None]]:
    """Return the text of each unchanged cell as written in the CSV file ``data``, and None for each imputed cell.

    ``found``: completed tables of the rows ``x``; their texts follow one another.
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
    """Return the rows if they are an Arrow table; otherwise raise ``DataError``."""
    import pyarrow as pa

    if isinstance(rows, pa.Table):
        return rows
    raise DataError("these data are an array, not a table; give a .csv or .parquet file.")


def in_long_form(frames: Sequence[pa.Table]) -> pa.Table:
    """Concatenate completions of the same rows, numbered in a first column ``draw``."""
    import pyarrow as pa

    numbers = (pa.array([number] * len(frame), pa.int64()) for number, frame in enumerate(frames))
    return pa.concat_tables([frame.add_column(0, "draw", n) for frame, n in zip(frames, numbers, strict=True)])


def missing(frame: pa.Table, schema: Schema) -> int:
    """Count the missing cells of the model's columns."""
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
