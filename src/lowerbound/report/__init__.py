"""A report of a fitted VAE: one self-contained HTML page, and one picture for a README."""

from __future__ import annotations

try:
    import jinja2  # noqa: F401
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError("A report needs matplotlib and jinja2: pip install 'lowerbound[report]'") from error

from lowerbound.report.facts import FittedVAE
from lowerbound.report.page import write_report

__all__ = ["FittedVAE", "write_report"]
