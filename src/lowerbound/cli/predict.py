"""``lowerbound predict``, and the labels of ``lowerbound fit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lowerbound.cli.base import (
    commands,
    data_argument,
    fitted,
    json_option,
    part_option,
    rows_of,
    run_argument,
    safe_csv_option,
    source_for,
    table_path,
    tell,
)
from lowerbound.cli.table_options import check_table, keep_option, strict_option, write_rows
from lowerbound.errors import DataError

if TYPE_CHECKING:
    from lowerbound.estimators import VAE


@commands.command()
@run_argument
@data_argument
@part_option
@click.option(
    "--out", callback=table_path, required=True, help="File to write: .csv or .parquet; .npy for the probabilities."
)
@safe_csv_option
@keep_option
@strict_option
@json_option
def predict(run: Path, data: str, part: str, out: Path, keep: tuple[str, ...], strict: bool, as_json: bool) -> None:
    """Write the most probable class of each row of DATA, and the probability of each class.

    The model must have classes: lowerbound fit with --labels or --classes.
    """
    import numpy as np
    import pyarrow as pa

    from lowerbound.data import write
    from lowerbound.estimators.frames import joined

    vae = fitted(run)
    if getattr(vae, "classes", None) is None:
        raise DataError(f"predict needs a model with classes, and that in {run} has none; fit it with --labels COLUMN.")
    check_table(vae, run, strict, keep, out)
    x = rows_of(source_for(vae, data), part)
    found = vae.predict_proba(x)
    if out.suffix.lower() == ".npy":
        write(out, found, None)
    else:
        classes = vae.classes_[np.asarray(found).argmax(1)]
        columns = {f"p_{name}": found[:, j].astype(np.float64) for j, name in enumerate(vae.classes_.tolist())}
        frame = pa.table({"class": classes, **columns})
        write_rows(out, joined(x, keep, frame) if keep else frame)
    result = {"rows": len(found), "classes": vae.classes_.tolist(), "out": str(out)}
    tell(result, as_json, f"{len(found)} rows, {len(vae.classes_)} classes → {out}")


def without_labels(x: Any, column: str) -> tuple[Any, Any]:
    """The columns of a table but ``column``, and that one's values, None for an empty cell."""
    import numpy as np
    import pyarrow as pa

    if not isinstance(x, pa.Table):
        raise DataError("--labels names a column of a table; DATA has no named columns.")
    if column not in x.column_names:
        raise DataError(f"--labels names {column!r}, which is not a column of DATA; give one of its columns.")
    if len(x.column_names) < 2:
        raise DataError(f"DATA has no other column than {column!r}, that of --labels; give columns to learn from.")
    return x.drop_columns([column]), np.array(x.column(column).to_pylist(), dtype=object)


def class_of(vae: VAE, text: str) -> Any:
    """The class of a model that is written as ``text``; the text itself if there is none."""
    known = [] if getattr(vae, "classes", None) is None else vae.classes_.tolist()
    return next((each for each in known if str(each) == text), text)
