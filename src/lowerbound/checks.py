"""What a value read from a JSON file must be: a table of fields says it, and nothing in a file is taken on trust."""

from __future__ import annotations

import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lowerbound.errors import FormatError

WORD = 2**64
LARGEST, SMALLEST = sys.float_info.max, sys.float_info.min
WAY_OUT = "restore the file, or fit the model again"


class Check(NamedTuple):
    """What a field must be: in words, and as a test of its value."""

    due: str
    holds: Callable[[Any], bool]


def is_whole(value: Any, low: int = 0, high: int = WORD - 1) -> bool:
    """Whether ``value`` is a whole number from ``low`` to ``high``; True is none."""
    return type(value) is int and low <= value <= high


def is_number(value: Any, low: float = -LARGEST, high: float = LARGEST) -> bool:
    """Whether ``value`` is a finite number from ``low`` to ``high``; True is none."""
    return type(value) in (int, float) and low <= value <= high


def is_text(value: Any) -> bool:
    """Whether ``value`` is text that can be written: half a surrogate cannot."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def is_list(value: Any, each: Callable[[Any], bool]) -> bool:
    """Whether ``value`` is a list, ``each`` of whose items holds."""
    return isinstance(value, list | tuple) and all(map(each, value))


def or_none(check: Check) -> Check:
    """The same, or null."""
    return Check(f"{check.due} or null", lambda value: value is None or check.holds(value))


def one_of(*values: Hashable) -> Check:
    """One of some texts, or null."""
    named = ", ".join("null" if value is None else repr(value) for value in values)
    return Check(f"one of {named}", lambda value: isinstance(value, str | None) and value in values)


def whole(due: str, low: int = 0, high: int = WORD - 1) -> Check:
    """A whole number in a range that ``due`` says."""
    return Check(due, lambda value: is_whole(value, low, high))


TEXT = Check("text", is_text)
TEXTS = Check("a list of text", lambda value: is_list(value, is_text))
TRUTH = Check("true or false", lambda value: isinstance(value, bool))
NUMBER = Check("a finite number", is_number)
POSITIVE = Check("a finite number above 0", lambda value: is_number(value) and value > 0)
SHARE = Check("a number from 0 to 1", lambda value: is_number(value, 0, 1))
OBJECT = Check("an object", lambda value: isinstance(value, dict))


def check_fields(
    found: Any, table: Mapping[str, Check], where: str, what: str, later: Collection[str] = ()
) -> dict[str, Any]:
    """``found``, if it is an object of the fields of ``table``, each as that says; those ``later`` may be missing.

    ``where``: what has the fields; ``what``: the file. Raises ``FormatError``, which names both.
    """
    due = table.keys()
    if not isinstance(found, dict):
        raise wrong(what, where, found, "an object")
    if lacking := sorted(due - set(later) - found.keys()):
        raise FormatError(f"{what}: {where} lacks {', '.join(map(repr, lacking[:3]))}; {WAY_OUT}.")
    if unknown := sorted(map(str, found.keys() - due)):
        raise FormatError(f"{what}: {where} has a field {shown(unknown[0])}, which none has; {WAY_OUT}.")
    for key, value in found.items():
        if not table[key].holds(value):
            raise wrong(what, f"{key} of {where}", value, table[key].due)
    return found


def wrong(what: str, where: str, value: Any, due: str) -> FormatError:
    """The sentence for a value that is another than it must be."""
    return FormatError(f"{what}: {where} is {shown(value)}, where {due} is due; {WAY_OUT}.")


def shown(value: Any) -> str:
    """A value of a file for a sentence, however deep or long it is."""
    if isinstance(value, list | tuple | dict):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and not -WORD < value < WORD:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, str | int | float):
        return repr(value[:37] + "…" if isinstance(value, str) and len(value) > 40 else value)
    return getattr(value, "__name__", type(value).__name__)


def fits(value: Any, hint: Any) -> bool:
    """Whether an argument is of the type that a signature declares: numbers finite, whole ones of 64 bits."""
    origin, given = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, each) for each in given)
    if origin is Literal:
        return isinstance(value, str | bool | int | None) and value in given
    if origin is type:
        return isinstance(value, type) and issubclass(value, given[0])
    if origin in (tuple, list, Sequence):
        return is_list(value, lambda item: fits(item, given[0]))
    if origin is Mapping:
        return isinstance(value, dict) and all(is_text(key) and fits(item, given[1]) for key, item in value.items())
    if origin is Callable:
        return callable(value) and not isinstance(value, type)
    plain: dict[Any, Callable[[Any], bool]] = {
        int: lambda value: is_whole(value, -(2**63), 2**63 - 1),
        float: is_number,
        bool: lambda value: isinstance(value, bool),
        str: is_text,
        types.NoneType: lambda value: value is None,
        Any: lambda value: True,
    }
    return plain[hint](value) if hint in plain else isinstance(value, hint)
