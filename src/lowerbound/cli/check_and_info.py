"""``lowerbound check`` and ``info``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowerbound.cli.base import BAD_DATA, commands, csv_options, data_argument, json_option, run_argument, tell
from lowerbound.cli.table_options import schema_option
from lowerbound.cli.topics import MODELS


@commands.command()
@data_argument
@schema_option
@json_option
def check(data: str, kinds: dict[Any, Any] | None, as_json: bool) -> int | None:
    """Show how DATA would be read, and any problems.

    Nothing is fitted. For a table: the kind of each column and why, its missing cells, and values that may be mistakes.
    """
    from lowerbound.estimators.checking import check as checked

    found = checked(data, schema=kinds, csv=csv_options())
    tell(found.as_dict(), as_json, found.words())
    return BAD_DATA if found.problems else None


@commands.command()
@run_argument
@json_option
def info(run: Path, as_json: bool) -> int | None:
    """Show what the folder RUN holds, and verify its files."""
    from lowerbound.storage.contents import contents

    found, kernels = contents(run), {}
    if found.estimator in MODELS.values():
        from lowerbound.topics.kernels import KERNELS

        kernels = {"kernels": KERNELS}
    lines = [*found.lines(), *(f"kernels of topic models: {name}" for name in kernels.values())]
    tell(found.as_dict() | kernels, as_json, "\n".join(lines))
    return BAD_DATA if found.problems else None
