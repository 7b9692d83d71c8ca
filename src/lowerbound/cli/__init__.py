"""Command-line interface. Results go to files and, with ``--json``, to stdout; messages go to stderr.

Heavy imports happen inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
import warnings

import click

from lowerbound.cli.base import commands, in_words, say
from lowerbound.cli.check_and_info import check, info
from lowerbound.cli.encode_sample_impute import encode, impute, sample
from lowerbound.cli.fit import fit
from lowerbound.cli.predict import predict
from lowerbound.cli.score_compare_report import compare, report, score
from lowerbound.errors import (
    DataError,
    FormatError,
    LockedError,
    LowerboundError,
    OutOfMemoryError,
    is_out_of_memory,
)

__all__ = [
    "check",
    "commands",
    "compare",
    "encode",
    "fit",
    "impute",
    "info",
    "main",
    "predict",
    "report",
    "sample",
    "score",
]

from lowerbound.cli.base import BAD_DATA, INTERRUPTED, IO, LOCKED, MEMORY, MISSING

NO_MEMORY = "not enough memory; lower --batch-size, --draws or --hidden, or use fewer rows"


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit with 0, 2 usage, 65 bad data, 66 missing input, 71 memory, 74 I/O, 75 locked, 130 Ctrl-C."""
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
    """Print the error and return its exit code; re-raise an unexpected error."""
    if is_out_of_memory(error):
        return fail(error if isinstance(error, OutOfMemoryError) else MemoryError(NO_MEMORY), MEMORY)
    if isinstance(error, FileNotFoundError):
        # With an errno it comes from the system and concerns a path to write to; missing inputs raise without one.
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
    """Print the error as one line on stderr and return the exit code."""
    say(f"error: {' '.join(str(error).split())}", "red")
    return code
