"""The documentation site: its pages are in the contents, and every public module has an API page."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import lowerbound

DOCS = Path(__file__).parents[1] / "docs"
INSIDE = {
    "activations",
    "checks",
    "cli",
    "draw",
    "estimators",
    "local_posteriors",
    "model",
    "modes",
    "optimizers",
    "process",
    "row_source",
    "sequence_models",
    "shapes",
    "storage",
}
"""Modules whose public names are those of the package itself, or that no user imports."""
PUBLIC = sorted({each.name for each in pkgutil.iter_modules(lowerbound.__path__)} - INSIDE - {"__main__"})


def contents(page: Path) -> list[str]:
    """The entries of a page's tables of contents."""
    entries = re.findall(r"```{toctree}\n(.*?)```", page.read_text(), re.S)
    lines = [line for entry in entries for line in entry.splitlines() if line and not line.startswith(":")]
    return [re.sub(r".*<(.*)>", r"\1", line) for line in lines]


def test_every_page_is_in_the_contents() -> None:
    listed = contents(DOCS / "index.md")
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} == {each for each in listed if "/" not in each}
    for each in listed:
        assert "*" in each or (DOCS / f"{each}.md").exists(), each


def test_every_public_module_has_an_api_page() -> None:
    listed = contents(DOCS / "api/index.md")
    assert (
        sorted(listed) == sorted(["lowerbound", *PUBLIC]) == sorted({p.stem for p in DOCS.glob("api/*.md")} - {"index"})
    )


@pytest.mark.parametrize("name", ["lowerbound", *PUBLIC])
def test_an_api_page_shows_what_its_module_exports(name: str) -> None:
    text = (DOCS / f"api/{name}.md").read_text()
    (module,) = re.findall(r"automodule:: (\S+)\n   :members:", text)
    assert module == (name if name == "lowerbound" else f"lowerbound.{name}")
    found = importlib.import_module(module)
    assert (":imported-members:" in text) == hasattr(found, "__all__")
    left = set(re.findall(r"\w+", text.partition(":exclude-members:")[2].partition("\n")[0]))
    documented = {*PUBLIC, *importlib.import_module("lowerbound.inference").__all__}
    assert left <= documented, "what a page leaves out is on a page of its own"
