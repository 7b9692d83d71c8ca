"""Detect columns of personal data: names, addresses, identity numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lowerbound.schema.column import Name
from lowerbound.schema.measures import FEW

_CELLS: dict[str, re.Pattern[str]] = {
    "e-mail addresses": re.compile(r"[^@\s]+@[^@\s]+\.\w+"),
    "IP addresses": re.compile(r"(\d{1,3}\.){3}\d{1,3}(/\d+|:\d+)?|([0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{1,4}"),
    "unique identifiers": re.compile(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"),
    "account numbers": re.compile(r"[A-Z]{2}\d{2} ?([A-Z0-9]{4} ?){3,7}[A-Z0-9]{0,4}"),
    "telephone numbers": re.compile(
        r"(?=(\D*\d){7,15}\D*$)[+(0][\d ()./-]*\d( ?(x|ext\.?) ?\d+)?|(1[ .-])?\d{3}[ .-]?\d{3}[ .-]\d{4}"
    ),
    "social security numbers": re.compile(r"\d{3}-\d{2}-\d{4}"),
    "postal addresses": re.compile(
        r"(?i)\d+\w? .*\b(street|st|road|rd|avenue|ave|lane|ln|drive|dr|boulevard|blvd|court|ct|place|pl|square)\b.*|"
        r".*(straße|strasse|str\.|weg|platz|gasse|allee|laan|straat) ?\d+.*|(\d+,? )?(rue|via|calle|avenida) .*"
    ),
}
_ALWAYS = re.compile(
    r"(?i)(?:^|[^a-z])(e?_?mail(_?address)?|phone(_?(number|no))?|telephone|tel|mobile|fax|ssn|social_?security\w*|"
    r"passport\w*|iban|ip(_?address)?|address(_?line)?\d?|street(_?address)?|first_?names?|last_?names?|fore_?name|"
    r"sur_?name|full_?name|maiden_?name|middle_?name|given_?name|family_?name|user_?name|login|nachname|vorname|"
    r"credit_?card\w*|card_?(number|no)|licen[cs]e_?(number|no|plate)|national_?id|tax_?id)(?:$|[^a-z])"
)
_NAMES = re.compile(r"(?i)(?:^|[^a-z])(name|names|person|patient|customer|client|employee|contact|author)(?:$|[^a-z])")
_MOST, _SOME, _NEARLY = 0.8, 0.5, 0.8


def reads_as(name: Name, texts: Sequence[str], cells: int) -> str | None:
    """The kind of personal data, in words, that a column's different ``texts`` look like; None if they do not.

    A column looks personal if 80 % of its texts are written like e-mail addresses, telephone numbers and the like; if
    its name is one of these; if its name is that of a person (name, customer, …) and at least half of its cells (and 3
    of them) differ; or if it has 20 or more cells of which 80 % differ.
    """
    for what, pattern in _CELLS.items():
        if sum(pattern.fullmatch(text.strip()) is not None for text in texts) >= _MOST * len(texts):
            return what
    if is_called_so(name):
        return f"personal data by its name, {name!r}"
    if _NAMES.search(_words(name)) and len(texts) >= max(3, _SOME * cells):
        return "names"
    if nearly_all_differ(len(texts), cells):
        return f"data of individuals: {len(texts)} of {cells} cells differ"
    return None


def is_called_so(name: Name) -> bool:
    """Whether a column's name is that of e-mail addresses, telephone numbers, surnames or similar personal data."""
    return _ALWAYS.search(_words(name)) is not None


def nearly_all_differ(distinct: int, cells: int) -> bool:
    """Whether there are at least 20 cells, of which at least 80 % differ."""
    return cells >= FEW and distinct >= _NEARLY * cells


def _words(name: Name) -> str:
    """A column's name with its words separated by underscores, also if it is written as userName."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1_\2", name) if isinstance(name, str) else ""
    return apart.replace(" ", "_").replace("-", "_")
