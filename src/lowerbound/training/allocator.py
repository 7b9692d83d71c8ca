"""What the C library does with memory that a step gives back: keep it for the next step."""

from __future__ import annotations

import ctypes
import functools
import os

OPT_OUT = "LOWERBOUND_MALLOPT"
# mallopt's names in malloc.h: blocks of any size come from the heap, which gives nothing back and grows in big pieces
_SETTINGS = {"M_MMAP_THRESHOLD": (-3, 1 << 30), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 64 << 20)}


@functools.cache
def keep_memory() -> bool:
    """Have glibc keep freed memory in this process from now on; whether that was done.

    Else it returns the large blocks of each step to the system, and their pages are faulted in anew at the next. Where
    there is no glibc, or LOWERBOUND_MALLOPT=0 is set, nothing is changed.
    """
    if os.environ.get(OPT_OUT) == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc: musl, macOS, Windows
        return False
    return all(mallopt(name, value) == 1 for name, value in _SETTINGS.values())
