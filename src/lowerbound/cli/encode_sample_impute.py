"""``lowerbound encode``, ``sample`` and ``impute``."""

from __future__ import annotations

from pathlib import Path

import click

from lowerbound.cli.base import (
    commands,
    counts,
    data_argument,
    fitted,
    json_option,
    part_option,
    rows_of,
    run_argument,
    safe_csv_option,
    seeds,
    source_for,
    table_path,
    tell,
)
from lowerbound.cli.table_options import (
    as_arrow,
    check_table,
    check_writable,
    given_cells,
    in_long_form,
    keep_option,
    missing,
    strict_option,
    to_the_letter,
    write_rows,
)
from lowerbound.errors import DataError

FIT_A_TABLE = "fit it to a table, without --likelihood, --binarise and --network."


@commands.command()
@run_argument
@data_argument
@part_option
@click.option("--out", callback=table_path, required=True, help=".npy, .csv or .parquet")
@safe_csv_option
@keep_option
@strict_option
@json_option
def encode(run: Path, data: str, part: str, out: Path, keep: tuple[str, ...], strict: bool, as_json: bool) -> None:
    """Write the posterior means and standard deviations of DATA's latents."""
    import numpy as np

    from lowerbound.data import write

    vae = fitted(run)
    check_table(vae, run, strict, keep, out)
    found = vae.encode(rows_of(source_for(vae, data), part), keep=keep)
    if keep:
        rows, names = len(found), found.column_names
        write_rows(out, found)
    else:
        rows, names = len(found.mean), [f"{kind}{i}" for kind in ("mean", "sd") for i in range(found.mean.shape[1])]
        write(out, np.hstack(found), names)
    tell({"rows": rows, "columns": names, "out": str(out)}, as_json, f"{rows} rows → {out}")


@commands.command()
@run_argument
@click.option("-n", "--rows", type=counts, default=16, show_default=True, help="How many.")
@click.option(
    "--given", "pairs", multiple=True, metavar="NAME=VALUE", help="A cell of a table that is known, as age=37."
)
@click.option("--seed", type=seeds, default=0, show_default=True)
@click.option("--out", callback=table_path, required=True, help=".npy, .csv or .parquet")
@safe_csv_option
@json_option
def sample(run: Path, rows: int, pairs: tuple[str, ...], seed: int, out: Path, as_json: bool) -> None:
    """Write rows drawn from the model; with --given, such as have these cells: p(x|given), by inference."""
    from lowerbound.data import write

    vae = fitted(run)
    if pairs and vae.schema_ is None:
        raise DataError(f"--given names columns of a table, and {run} was fitted to an array; {FIT_A_TABLE}")
    check_writable(vae, out)
    given = given_cells(vae, pairs)
    drawn = vae.sample(rows, random_state=seed, given=given)
    if vae.schema_ is None:
        write(out, drawn, [str(name) for name in getattr(vae, "feature_names_in_", [])] or None)
    else:
        write_rows(out, drawn, vae.schema_.csv)
    where = f" given {', '.join(pairs)}" if pairs else ""
    result = {"rows": rows, "seed": seed, "given": list(pairs), "out": str(out)}
    tell(result, as_json, f"{rows} rows{where} → {out}")


@commands.command()
@run_argument
@data_argument
@part_option
@click.option("--out", callback=table_path, required=True, help=".csv or .parquet; .npy of numbers alone")
@safe_csv_option
@click.option("--draws", type=counts, help="Completions of each row, one after the other.")
@click.option("--seed", type=seeds, default=0, show_default=True, help="Of the draws.")
@keep_option
@strict_option
@json_option
def impute(
    run: Path,
    data: str,
    part: str,
    out: Path,
    draws: int | None,
    seed: int,
    keep: tuple[str, ...],
    strict: bool,
    as_json: bool,
) -> None:
    """Fill the holes of the table DATA and write it, its columns as they were.

    Columns that the model was not fitted to are written too or, with --keep, of them only those named.

    Each hole gets the one best value. With --draws M there are M completions of all rows instead, drawn from
    p(missing|observed), one under the other, told apart by the column draw: 0 to M - 1.
    """
    from lowerbound.data.dialect import Csv, csv_of, is_csv

    vae = fitted(run)
    if vae.schema_ is None:
        raise DataError(f"impute fills the holes of a table, and {run} was fitted to an array; {FIT_A_TABLE}")
    check_writable(vae, out)
    check_table(vae, run, strict, keep, out)
    x = as_arrow(rows_of(source_for(vae, data), part))
    if draws is not None and "draw" in x.column_names:
        raise DataError(f"{data} has a column called 'draw', which --draws writes itself; rename it.")
    found = vae.impute(x, draws, random_state=seed, keep=keep or None)
    form = csv_of(x) or Csv()
    again = is_csv(data) and is_csv(out)
    texts = to_the_letter(Path(data), x, [found] if draws is None else found, form) if again else {}
    write_rows(out, found if draws is None else in_long_form(found), form, texts)
    holes_there, left = (missing(table, vae.schema_) for table in (x, found if draws is None else found[0]))
    filled = holes_there - left
    result = {"rows": x.num_rows, "filled": filled, "left": left, "draws": draws, "seed": seed, "out": str(out)}
    said = (
        "one best value each, which does not tell how far to trust it: --draws 20 does, by how its completions differ"
        if draws is None
        else f"{draws} completions, drawn from p(missing|observed): what differs between them is not known"
    )
    stay = f", {left:,} cells left missing" if left else ""
    tell(result, as_json, f"{x.num_rows:,} rows, {filled:,} holes filled ({said}){stay} → {out}")
