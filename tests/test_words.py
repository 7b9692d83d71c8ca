"""Plain words: terms that the guide of style replaces do not come back in docstrings, messages, help or pages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted((ROOT / "src").rglob("*.py"))
TEMPLATES = sorted((ROOT / "src").rglob("*.j2"))
DENIED = {
    r"\bpasses of (?:the )?data\b|\bPasses (?:over|without)\b": "epochs",
    r"\bholes?\b": "missing cells",
    r"\bascen(?:d|ds|ded)\b": "maximise",
    r"\bpasses run\b": "epochs run",
    r"\bwhite=": "max_value=",
    r"\bmend(?:s|ed)?\b": "fix",
    r"\bbelieved?\b": "reliable, unreliable",
    r"\bin the mean\b": "on average",
    r"\bgo(?:es)? on (?:from|with)\b|\bgone on with\b|\bgoing on\b": "resume, continue",
    r"\b(?:is|are) said\b": "warned, reported, stated",
    r"\btold (?:from|apart)\b": "distinguished, detected",
    r"\bto be had\b": "available",
    r"\b(?:nats|draws|samples|label|number|cell|rows) a (?:row|step|cell|value)\b": "per row",
    r"\bunless told\b|\bif told\b": "unless given",
    r"\bbeside\b": "next to, compared with, in addition to",
}
ALLOWED: dict[str, tuple[str, ...]] = {
    "src/lowerbound/storage/migrations.py": ("holes",),  # a name of format 1
}


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings and string literals of a module, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def prose(path: Path) -> Iterator[tuple[int, str]]:
    if path.suffix == ".py":
        yield from strings(path)
    else:
        yield from enumerate(path.read_text().splitlines(), 1)


def found(text: str) -> Iterator[tuple[str, str]]:
    """Denied terms in ``text``, each with the field's."""
    for term, better in DENIED.items():
        for match in re.finditer(term, re.sub(r"\s+", " ", text), re.IGNORECASE):
            yield match[0], better


@pytest.mark.parametrize("paths", [PAGES, MODULES, TEMPLATES], ids=["pages", "modules", "templates"])
def test_denied_terms_do_not_come_back(paths: list[Path]) -> None:
    wrong = []
    for path in paths:
        allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), ())
        for line, text in prose(path):
            wrong += [
                f"{path.relative_to(ROOT)}:{line}: {term!r}: write {better}"
                for term, better in found(text)
                if term.lower() not in allowed
            ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text", ["tables with holes", "rows are not to be believed", "12 draws a row", "it goes on from"]
)
def test_a_denied_term_is_found(text: str) -> None:
    assert list(found(text))
