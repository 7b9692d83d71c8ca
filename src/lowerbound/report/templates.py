"""The templates of pages, and what they share."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2

from lowerbound.report.style import Panel


@dataclass(frozen=True)
class Section:
    """Section of a page: a heading, sentences and pictures."""

    heading: str
    texts: tuple[str, ...]
    panels: tuple[Panel, ...]
    kind: str = ""
    """What else the page's template shows there."""


def render(template: str, **values: Any) -> str:
    """The page that a template of this package makes of ``values``."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
