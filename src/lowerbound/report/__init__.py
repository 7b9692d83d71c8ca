"""Report of a fitted VAE: a self-contained HTML page and an overview picture."""

from __future__ import annotations

try:
    import jinja2  # noqa: F401
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        "the report needs matplotlib and jinja2; install them with pip install 'lowerbound[report]'"
    ) from error

from lowerbound.report.facts import FittedVAE
from lowerbound.report.page import write_report

__all__ = ["FittedVAE", "write_report"]
