"""``lowerbound score --anomaly``: anomaly scores of a table's rows, printed and written to a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from lowerbound.estimators import VAE

_LONGEST = 40


def odd_rows(
    vae: VAE, rows: pa.Table, samples: int, top: int, out: Path | None, keep: Sequence[str] = ()
) -> tuple[dict[str, Any], str]:
    """Summarise ``VAE.anomaly`` as a dict and as text; write the figures of each row and cell to ``out``.

    Columns of the file: those of ``keep``, score, standard_error, ess, latent, and cells.NAME for each modelled column.
    """
    import numpy as np

    from lowerbound.data import write, write_frame
    from lowerbound.estimators.frames import beside

    found = vae.anomaly(rows, samples=samples)
    names = [str(name) for name in found.cells.column_names]
    cells = np.column_stack([column.to_numpy() for column in found.cells.columns])
    if out is not None:
        sums = {"score": found.score, "standard_error": found.standard_error, "ess": found.ess, "latent": found.latent}
        figures = {**sums, **{f"cells.{name}": own for name, own in zip(names, cells.T, strict=True)}}
        if keep:
            write_frame(out, beside(rows, keep, figures))
        else:
            write(out, np.column_stack(list(figures.values())), list(figures))
    order = np.argsort(-found.score, kind="stable")[:top]
    standardised = per_spread(vae, rows.take(order), cells[order])
    oddest = [_described(rows, row, found, names, own) for row, own in zip(order.tolist(), standardised, strict=True)]
    few = int((found.ess < 10).sum())
    result = {
        "rows": len(found.score),
        "mean_score": float(found.score.mean()),
        "measure": vae.model_.likelihood.measure,
        "rows_with_ess_below_10": few,
        "oddest": oddest,
        "out": None if out is None else str(out),
    }
    head = f"score = −log p of observed cells, in nats and the columns' own units: mean {found.score.mean():.2f}"
    each_of = "The highest scores, each with the cell that adds most (in nats per unit of its column's spread)"
    rough = f"; {few} scores are noisy (effective sample size below 10)" if few else ""
    lines = [f"{head} over {len(found.score):,} rows{rough}. {each_of}:", *(f"  {_line(each)}" for each in oddest)]
    return result, "\n".join([*lines, *([] if out is None else [f"→ {out}"])])


def per_spread(vae: VAE, rows: pa.Table, cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each cell adds to the score, ``[N, D]`` nats per unit of its column's spread; −inf if it is missing.

    In the columns' own units, the nats of different columns are not comparable: they depend on the unit.
    """
    import numpy as np
    import torch

    from lowerbound.likelihoods import Product

    likelihood = vae.model_.likelihood.of_values
    assert vae.schema_ is not None
    assert isinstance(likelihood, Product)
    coded = vae.schema_.encode(rows, lenient=True)
    x = torch.tensor(np.nan_to_num(vae.schema_.standardise(coded.values)), dtype=torch.get_default_dtype())
    units = likelihood.log_units(x).numpy()
    return np.where(coded.mask, cells - units, -np.inf)


def _described(rows: pa.Table, row: int, found: Any, names: list[str], cells: NDArray[np.float64]) -> dict[str, Any]:
    """Describe a row and the cell that adds most to its score."""
    j = int(cells.argmax())
    odd = float(cells[j]) > -math.inf
    return {
        "row": row,
        "score": float(found.score[row]),
        "standard_error": float(found.standard_error[row]),
        "column": names[j] if odd else None,
        "value": rows[names[j]][row].as_py() if odd else None,
        "cell": float(cells[j]),
    }


def _line(each: dict[str, Any]) -> str:
    if each["column"] is None:
        return f"row {each['row']}: {each['score']:.2f} nats; all of its cells are missing"
    value = str(each["value"])
    value = value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"
    cell = f"{each['column']} = {value} ({each['cell']:.2f})"
    return f"row {each['row']}: {each['score']:.2f} ± {each['standard_error']:.2f} nats; most from {cell}"
