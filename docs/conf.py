"""Settings of the documentation site, which ``make docs`` builds."""

from __future__ import annotations

import re
from typing import Any

import lowerbound

project = "lowerbound"
project_copyright = "the developers of lowerbound, Apache-2.0"
version = release = lowerbound.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["docs/**", "benchmarks/results/*.md", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
html_theme = "furo"
html_title = "lowerbound"
html_copy_source = False
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_ivar = True


def as_written(app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Escape what reStructuredText would read as markup in the formulas of a docstring: names_, |x|, x*."""
    for number, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = re.split(r"(``.+?``)", line)
        parts[::2] = [re.sub(r"(?<=\w)_(?!\w)|[|*]", r"\\\g<0>", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def without_requests(app: Any, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the methods that scikit-learn adds for the routing of metadata."""
    return True if re.fullmatch(r"set_\w+_request|get_metadata_routing", name) else None


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", as_written)
    app.connect("autodoc-skip-member", without_requests)
