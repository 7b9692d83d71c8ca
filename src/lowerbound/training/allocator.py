"""A setting of the C library: keep the memory that a step frees for the next step."""

from __future__ import annotations

import ctypes
import functools
import os

OPT_OUT = "LOWERBOUND_MALLOPT"
# mallopt's names in malloc.h: take blocks of any size from the heap, return nothing to the system, grow in large steps
_SETTINGS = {"M_MMAP_THRESHOLD": (-3, 1 << 30), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 64 << 20)}


@functools.cache
def keep_memory() -> bool:
    """Make glibc keep freed memory in this process from now on; return whether that was done.

    By default it returns the large blocks of each step to the system, and the next step has to fault their pages in
    again. Without glibc, or with LOWERBOUND_MALLOPT=0, nothing is changed.
    """
    if os.environ.get(OPT_OUT) == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc: musl, macOS, Windows
        return False
    return all(mallopt(name, value) == 1 for name, value in _SETTINGS.values())
