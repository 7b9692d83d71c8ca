"""Inner loops of topic models: in NumPy and, in files ``*_numba.py``, compiled by numba where it is installed.

The compiled functions have the names, arguments and results of those in NumPy.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType

KERNELS = "numba" if find_spec("numba") else "numpy"
"""Which are used."""


def kernel(name: str) -> ModuleType:
    """The module of a kernel, compiled if numba is installed."""
    return importlib.import_module(f"{__name__}.{name}_numba" if KERNELS == "numba" else f"{__name__}.{name}")
