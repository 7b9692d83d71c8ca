"""``lowerbound check`` and ``info``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowerbound.cli.base import BAD_DATA, commands, csv_told, data_argument, json_option, run_argument, tell
from lowerbound.cli.table_options import schema_option


@commands.command()
@data_argument
@schema_option
@json_option
def check(data: str, kinds: dict[Any, Any] | None, as_json: bool) -> int | None:
    """Say what a fit would do with DATA, and what is wrong with it, without fitting.

    Of a table: what each column is taken for and why, what is missing, and what may not be meant.
    """
    from lowerbound.estimators.checking import check as checked

    found = checked(data, schema=kinds, csv=csv_told())
    tell(found.as_dict(), as_json, found.words())
    return BAD_DATA if found.problems else None


@commands.command()
@run_argument
@json_option
def info(run: Path, as_json: bool) -> int | None:
    """Show what the folder RUN holds, and whether it is whole."""
    from lowerbound.storage.contents import contents

    found = contents(run)
    tell(found.as_dict(), as_json, "\n".join(found.lines()))
    return BAD_DATA if found.problems else None
