"""``lowerbound encode`` and ``sample``."""

from __future__ import annotations

from pathlib import Path

import click

from lowerbound.cli.base import (
    commands,
    data_argument,
    fitted,
    json_option,
    load,
    part_option,
    rows_of,
    run_argument,
    table_path,
    tell,
)


@commands.command()
@run_argument
@data_argument
@part_option
@click.option("--out", callback=table_path, required=True, help=".npy, .csv or .parquet")
@json_option
def encode(run: Path, data: str, part: str, out: Path, as_json: bool) -> None:
    """Write the posterior means and standard deviations of DATA's latents."""
    import numpy as np

    from lowerbound.data import write

    vae = fitted(run)
    mean, scale = vae.encode(rows_of(load(data), part))
    names = [f"{kind}{i}" for kind in ("mean", "sd") for i in range(vae.latent_dim)]
    write(out, np.hstack([mean, scale]), names)
    tell({"rows": len(mean), "columns": names, "out": str(out)}, as_json, f"{len(mean)} rows → {out}")


@commands.command()
@run_argument
@click.option("-n", "--rows", type=click.IntRange(min=1), default=16, show_default=True, help="How many.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", callback=table_path, required=True, help=".npy, .csv or .parquet")
@json_option
def sample(run: Path, rows: int, seed: int, out: Path, as_json: bool) -> None:
    """Write rows drawn from the model."""
    from lowerbound.data import write

    vae = fitted(run)
    names = [str(name) for name in getattr(vae, "feature_names_in_", [])] or None
    write(out, vae.sample(rows, random_state=seed), names)
    tell({"rows": rows, "seed": seed, "out": str(out)}, as_json, f"{rows} rows → {out}")
