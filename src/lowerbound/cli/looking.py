"""``lowerbound check`` and ``info``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from lowerbound.cli.base import BAD_DATA, commands, data_argument, json_option, load, run_argument, tell


@commands.command()
@data_argument
@json_option
def check(data: str, as_json: bool) -> int | None:
    """Say what a fit would do with DATA, and what is wrong with it, without fitting."""
    from lowerbound.data import Dataset
    from lowerbound.estimators.preview import preview

    source = load(data)
    found = preview(source.train, None, data) if isinstance(source, Dataset) else preview(source.x, source.names, data)
    tell(asdict(found), as_json, found.words())
    return BAD_DATA if found.problems else None


@commands.command()
@run_argument
@json_option
def info(run: Path, as_json: bool) -> int | None:
    """Show what the folder RUN holds, and whether it is whole."""
    from lowerbound.contents import contents

    found = contents(run)
    tell(found.as_dict(), as_json, "\n".join(found.lines()))
    return BAD_DATA if found.problems else None
