"""How the numba kernels are compiled. Only files ``*_numba.py`` import this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """``function`` compiled at its first call for the types of its arguments, and kept on disk from then on.

    numba compiles it again if its own file has changed, not if one that it calls has: after an edit of
    ``random_numba.py``, remove ``__pycache__``.
    """
    return cast(Function, numba.njit(cache=True, fastmath=False, nogil=True)(function))
