"""The command line: argv → calls. Results go to files and, with ``--json``, to stdout; words go to stderr.

Nothing heavy is imported until a verb runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
import warnings

import click

from lowerbound.cli.base import commands, in_words, say
from lowerbound.cli.check_and_info import check, info
from lowerbound.cli.encode_sample_impute import encode, impute, sample
from lowerbound.cli.fit import fit
from lowerbound.cli.score_compare_report import compare, report, score
from lowerbound.errors import (
    DataError,
    FormatError,
    LockedError,
    LowerboundError,
    OutOfMemoryError,
    is_out_of_memory,
)

__all__ = ["check", "commands", "compare", "encode", "fit", "impute", "info", "main", "report", "sample", "score"]

from lowerbound.cli.base import BAD_DATA, INTERRUPTED, IO, LOCKED, MEMORY, MISSING

NO_MEMORY = "there is not enough memory for this; lower --batch-size, --draws or --hidden, or take fewer rows"


def main(arguments: list[str] | None = None) -> None:
    """Run a command; leave with 0, 2 usage, 65 bad data, 66 missing input, 71 memory, 74 I/O, 75 locked, 130 Ctrl-C."""
    warnings.showwarning = lambda message, *_: say(f"warning: {message}", "yellow")
    try:
        code = commands(arguments, prog_name="lowerbound", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("interrupted", "red")
        code = INTERRUPTED
    except Exception as error:
        code = _code_of(error)
    sys.exit(code or 0)


def _code_of(error: Exception) -> int:
    """Say what is wrong and give the code to leave with; an error that nobody foresaw is raised again."""
    if is_out_of_memory(error):
        return fail(error if isinstance(error, OutOfMemoryError) else MemoryError(NO_MEMORY), MEMORY)
    if isinstance(error, FileNotFoundError):
        # The system's own has a number: it is of a place to write in, for what is to be read is worded here.
        return fail(error, MISSING) if error.errno is None else fail(in_words(error), IO)
    if isinstance(error, LockedError):
        return fail(error, LOCKED)
    if isinstance(error, DataError | FormatError | ValueError):
        return fail(error, BAD_DATA)
    if isinstance(error, OSError):
        return fail(in_words(error), IO)
    if isinstance(error, LowerboundError | ImportError):
        return fail(error, 1)
    raise error


def fail(error: BaseException, code: int) -> int:
    """One line on stderr, and the code to leave with."""
    say(f"error: {' '.join(str(error).split())}", "red")
    return code
