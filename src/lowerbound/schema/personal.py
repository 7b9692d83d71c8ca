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
    """The kind of personal data that the different ``texts`` of a column look like; None if they do not.

    Eight tenths of the texts are written as e-mail addresses, telephone numbers and the like are; or the column is
    called so; or it is called a name and at least half of its cells differ; or of 20 cells or more eight tenths differ.
    """
    for what, pattern in _CELLS.items():
        if sum(pattern.fullmatch(text.strip()) is not None for text in texts) >= _MOST * len(texts):
            return what
    if is_called_so(name):
        return f"what its name says, {name!r}"
    if _NAMES.search(_words(name)) and len(texts) >= max(3, _SOME * cells):
        return "names"
    if nearly_all_differ(len(texts), cells):
        return f"what is somebody's own: {len(texts)} of {cells} cells differ"
    return None


def is_called_so(name: Name) -> bool:
    """Whether a column is called as e-mail addresses, telephone numbers and the like are."""
    return _ALWAYS.search(_words(name)) is not None


def nearly_all_differ(distinct: int, cells: int) -> bool:
    """Whether there are 20 cells or more, of which at least 80 % differ."""
    return cells >= FEW and distinct >= _NEARLY * cells


def _words(name: Name) -> str:
    """A column's name with its words apart, also where it is written as userName."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1_\2", name) if isinstance(name, str) else ""
    return apart.replace(" ", "_").replace("-", "_")
