"""The errors a user can meet. Each message is one sentence that says what is wrong, where, and the way out."""

from __future__ import annotations

import errno
from typing import Any


class LowerboundError(Exception):
    """Anything this package refuses or gives up on."""


class DataError(LowerboundError, ValueError):
    """The data cannot be used as they are: the message names the file, row or column."""


class FormatError(LowerboundError, ValueError):
    """A saved folder does not hold what it should: the message names the file."""


class NewerFormatError(FormatError):
    """A saved folder was written by a later version."""


class DivergedError(LowerboundError, ArithmeticError):
    """Training met values that are not finite and could not get past them; the best model so far is kept.

    ``history`` tells what happened until then.
    """

    def __init__(self, message: str, history: Any) -> None:
        super().__init__(message)
        self.history = history


class ReadingWarning(UserWarning):
    """Warns how the columns of a table are interpreted where there is a choice: forms of text, and columns left out."""


class NoPosteriorError(LowerboundError, ValueError, AttributeError):
    """A fitted estimator is asked for what needs a posterior q(z|x), and its inference learnt none."""


class LockedError(LowerboundError):
    """Another process is writing where this one would."""


class OutOfMemoryError(LowerboundError, MemoryError):
    """Raised when a computation does not fit in memory, not even in smaller chunks."""


_REFUSALS = (
    "can't allocate memory",
    "annot allocate memory",
    "not enough memory",
    "out of memory",
    "failed to map segment",  # of a shared library that is imported
    "can't start new thread",  # for its stack
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error``, or what it was raised from, says that memory was refused: to Python, torch or the linker."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    said = _REFUSALS if isinstance(error, RuntimeError | ImportError) else ()
    cause = error.__cause__
    return any(words in str(error) for words in said) or (cause is not None and is_out_of_memory(cause))
