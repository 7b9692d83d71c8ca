"""``lowerbound encode``, ``sample`` and ``impute``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from lowerbound.cli.predict import class_of
from lowerbound.cli.sequences import forecast_options, is_sequences, refuse_given, sample_sequences
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

if TYPE_CHECKING:
    from lowerbound.estimators import VAE

FIT_A_TABLE = "fit a table, without --likelihood, --binarise and --network."


@commands.command()
@run_argument
@data_argument
@part_option
@click.option("--out", callback=table_path, required=True, help="File to write: .npy, .csv or .parquet.")
@safe_csv_option
@keep_option
@strict_option
@json_option
def encode(run: Path, data: str, part: str, out: Path, keep: tuple[str, ...], strict: bool, as_json: bool) -> None:
    """Write posterior means and standard deviations of DATA."""
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
@click.option("-n", "--rows", type=counts, default=16, help="Number of rows to draw.")
@click.option(
    "--given",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Known value of a column, such as age=37: rows are drawn conditional on it. For a model of sequences: a file "
    "with a row per step, whose sequences are continued.",
)
@forecast_options
@click.option("--label", help="Class of a model with classes: rows are drawn conditional on it.")
@click.option("--seed", type=seeds, default=0, help="Seed of the draws.")
@click.option(
    "--out",
    callback=table_path,
    help="File to write: .npy, .csv or .parquet.  [default for sequences: RUN/forecast.csv or RUN/sample.csv]",
)
@safe_csv_option
@json_option
def sample(
    run: Path,
    rows: int,
    pairs: tuple[str, ...],
    label: str | None,
    seed: int,
    out: Path | None,
    as_json: bool,
    **ahead: Any,
) -> None:
    """Draw rows from the model.

    With --given, rows are drawn from p(x|given), and with --label from p(x|class). For a model of sequences, --given
    DATA forecasts the next --steps steps of each sequence in DATA, with intervals; without it, sequences are drawn.
    """
    from lowerbound.data import write

    if is_sequences(run):
        sample_sequences(run, rows, pairs, out, {"seed": seed, "as_json": as_json, **ahead})
        return
    refuse_given(ahead)
    if out is None:
        raise click.UsageError("Missing option '--out'.")
    vae = fitted(run, encodes=False)
    if pairs and vae.schema_ is None:
        raise DataError(f"--given needs a model of a table, but {run} was fitted to an array; {FIT_A_TABLE}")
    check_writable(vae, out)
    given = given_cells(vae, pairs)
    drawn = vae.sample(rows, random_state=seed, given=given, label=None if label is None else class_of(vae, label))
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
@click.option(
    "--out",
    callback=table_path,
    required=True,
    help="File to write: .csv or .parquet; .npy if all columns are numbers.",
)
@safe_csv_option
@click.option("--draws", type=counts, help="Number of random completions per row.  [default: one best completion]")
@click.option("--seed", type=seeds, default=0, help="Seed of the draws.")
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
    """Fill the missing cells of DATA.

    Each missing cell gets one best value. With --draws M, M completions of all rows are drawn from
    p(missing|observed) and written one below the other, numbered 0 to M - 1 in a column named draw.

    Columns that the model was not fitted to are written unchanged; with --keep, only those named.
    """
    from lowerbound.data.dialect import Csv, csv_of, is_csv

    vae = fitted(run)
    check_writable(vae, out)
    check_table(vae, run, strict, keep, out)
    if vae.schema_ is None:
        _impute_array(vae, rows_of(source_for(vae, data), part), out, draws, seed, as_json)
        return
    x = as_arrow(rows_of(source_for(vae, data), part))
    if draws is not None and "draw" in x.column_names:
        raise DataError(f"{data} has a column 'draw', the name of the column that --draws adds; rename it.")
    found = vae.impute(x, draws, random_state=seed, keep=keep or None)
    form = csv_of(x) or Csv()
    again = is_csv(data) and is_csv(out)
    texts = to_the_letter(Path(data), x, [found] if draws is None else found, form) if again else {}
    write_rows(out, found if draws is None else in_long_form(found), form, texts)
    missing_before, left = (missing(table, vae.schema_) for table in (x, found if draws is None else found[0]))
    filled = missing_before - left
    result = {"rows": x.num_rows, "filled": filled, "left": left, "draws": draws, "seed": seed, "out": str(out)}
    how = (
        "one best value each; use --draws 20 to see their uncertainty"
        if draws is None
        else f"{draws} completions drawn from p(missing|observed); their spread is the uncertainty"
    )
    stay = f", {left:,} cells left missing" if left else ""
    tell(result, as_json, f"{x.num_rows:,} rows, {filled:,} missing cells filled ({how}){stay} → {out}")


def _impute_array(vae: VAE, x: Any, out: Path, draws: int | None, seed: int, as_json: bool) -> None:
    """Fill the missing values of an array; in tables, ``draws`` completions are written one below the other."""
    import numpy as np

    from lowerbound.data import write

    found = np.asarray(vae.impute(x, draws, random_state=seed))
    names = [str(name) for name in getattr(vae, "feature_names_in_", [])] or [f"x{j}" for j in range(found.shape[-1])]
    if draws is not None and out.suffix.lower() != ".npy":
        number = np.repeat(np.arange(draws), len(x))
        found, names = np.column_stack([number, found.reshape(-1, found.shape[-1])]), ["draw", *names]
    write(out, found, names)
    filled = int(np.isnan(np.asarray(x)).sum())
    result = {"rows": len(x), "filled": filled, "left": 0, "draws": draws, "seed": seed, "out": str(out)}
    tell(result, as_json, f"{len(x):,} rows, {filled:,} missing values filled → {out}")
