"""Detect the form (the format of dates or numbers) in which a column's cells are written, and missing-value markers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.errors import DataError
from lowerbound.schema import dates, loose, numerals, written
from lowerbound.schema.cells import Cells
from lowerbound.schema.column import Column, Name, Storage
from lowerbound.schema.personal import is_called_so
from lowerbound.schema.rules import are_codes, reads_as_key, shown

_LOOKED_AT = 50  # texts from which candidate formats are made
_STRAY, _FEW, _MOST_STRAYS = 0.05, 20, 3
_YEARS, _USUAL = (1500, 2200), 0.5
_COMPACT = (19000101, 21001231)
_DIALLED = 8
_FRACTIONS = 10  # text of more different fractions than this is read as numbers
_NUMBERS = ("real", "positive", "interval", "count")


@dataclass(frozen=True, eq=False)
class Found:
    """How a column's cells are read.

    ``form``: None if they are not parsed. ``markers``: texts that mean missing, in addition to the usual ones.
    ``storage`` and ``cells``: the result of parsing. ``how`` they are written and ``notes``: in words, for the user.
    """

    form: str | None
    markers: tuple[str, ...]
    storage: Storage
    cells: Cells
    how: str = ""
    notes: tuple[str, ...] = ()


def find(name: Name, storage: Storage, found: Cells, given: Column | None, most: int) -> Found | None:
    """Find the form of a column's cells; None if they need no parsing.

    ``given``: what the user declared. A declared ``form`` and ``markers`` are used as they are; if a kind of numbers or
    times is declared, only forms of that kind are tried. ``most``: text that consists of at most this many different
    whole numbers stays text, unless cells are missing.
    """
    if loose.is_loose(storage, found):
        cells, markers, notes = loose.find(name, storage, found, given)
        return Found(None, markers, storage, cells, "", tuple(notes))
    if given is not None and given.form is not None:
        return _declared(name, storage, found, given)
    if storage.family == "text":
        return _of_text(name, found, given, most)
    if given is not None and given.markers:
        hit = np.array([value in given.markers for value in found.values.tolist()], bool) & found.mask
        return Found(None, given.markers, storage, Cells(found.values, found.mask & ~hit))
    if storage.family in ("int", "float") and (given is None or given.kind == "datetime"):
        return _compact(name, storage, found, given)
    return None


def _declared(name: Name, storage: Storage, found: Cells, given: Column) -> Found:
    """Parse cells by the declared form. Raises ``DataError`` for a cell that is not written in it."""
    assert given.form is not None
    try:
        form = written.check(given.form)
    except ValueError as error:
        raise ValueError(
            f"schema gives {name!r} an invalid form ({error}); give a form such as '%d.%m.%Y' or '#,##0.00'."
        ) from error
    if storage.family not in ("text", "int", "float") or (storage.family != "text" and not written.is_dates(form)):
        raise DataError(
            f"schema gives {name!r} the form {form!r}, but its cells are {storage.family}, which need no form; leave "
            "the form out."
        )
    values, there, unknown = written.read(found.values, found.mask, form, given.markers)
    if unknown.any():
        row = int(np.argmax(unknown))
        raise DataError(
            f"row {row} of column {name!r} is {shown(found.values[row])}, which is not written as {form!r}; declare "
            f"another form, or add this text to markers=(…) if it means missing."
        )
    if not there.any():
        raise DataError(f"no cell of column {name!r} is written as {form!r}; leave the form out of schema.")
    return Found(form, given.markers, _inner(form), Cells(values, there), _how(form, found, there))


def _of_text(name: Name, found: Cells, given: Column | None, most: int) -> Found | None:
    kind, own = (None, ()) if given is None else (given.kind, given.markers)
    counts = Counter(found.values[found.mask].tolist())
    texts = [text for text in counts if not written.is_marker(text, own)]
    plain = Found(None, own, Storage("text"), _without(found, own)) if own else None
    ordered = kind == "ordinal" and given is not None and not given.levels and not are_codes(texts)
    if not texts or (kind is not None and not ordered and kind not in (*_NUMBERS, "datetime")):
        return plain
    if kind is None and len(counts) == 2 and (form := _truth(counts)) is not None:
        return _taken(form, found, own, ())
    readers: list[Callable[[], Found | None]] = []
    if kind in (None, "datetime"):
        readers.append(lambda: _as_dates(name, found, counts, texts, own, kind is None))
    if kind != "datetime":
        readers.append(lambda: _as_numbers(name, found, counts, texts, own, most if kind is None else 0))
    return next((read for reader in readers if (read := reader()) is not None), plain)


def _truth(counts: Counter[str]) -> str | None:
    return next((form for form, pair in written.BOOLS.items() if set(counts) == set(pair)), None)


def _as_dates(
    name: Name, found: Cells, counts: Counter[str], texts: list[str], own: tuple[str, ...], asked: bool
) -> Found | None:
    """Read the texts as dates, if nearly all are dates; ``asked``: whether they could also be something else."""
    fits = _fits(dates.candidates(_some(texts)), counts, texts, dates.read)
    if not fits:
        return None
    fits = [fit for fit in fits if fit[1] == fits[0][1]]
    forms = [form for form, _ in fits]
    stamps = [dates.read(texts, form) for form in forms]
    same = [np.array_equal(stamp[0], stamps[0][0]) for stamp in stamps]
    others = [form for form, one in zip(forms, same, strict=True) if not one]
    if asked and not _plausible(forms, stamps, bool(others)):
        return None
    form, other = forms[0], others[0] if others else None
    if other is not None and dates.compiled(form).century and (preferred := _on_one_day(forms, stamps)) is not None:
        form, other = forms[preferred], None
    notes: list[str] = []
    written_so = dates.as_written(form, texts[:1000])
    if other is not None:
        choice = f"schema={{{name!r}: Column('datetime', form={other!r})}}"
        notes.append(f"{written_so} and {other} are both possible; the first is used, {choice} selects the other")
    if not dates.compiled(written_so).century:
        notes.append("two-digit years are read as 1969 to 2068")
    return _taken(written_so, found, own, notes, counts)


def _plausible(forms: list[str], stamps: list[tuple[Any, Any]], ambiguous: bool) -> bool:
    """Whether the texts are surely dates: years are plausible, and two-digit years can be read in one way only."""
    at = dates.compiled(forms[0])
    if not at.century and ambiguous and "%d.%m.%y" not in forms[0]:
        return False
    values, ok = stamps[0]
    days = values[ok] // {"D": 1, "s": 86_400, "us": 86_400 * 10**6, "ns": 86_400 * 10**9}[at.unit]
    low, high = (np.datetime64(f"{year}-01-01", "D").astype(np.int64) for year in _YEARS)
    if "%Y%m%d" in forms[0]:
        low, high = (np.datetime64(f"{year}-01-01", "D").astype(np.int64) for year in (1900, 2101))
        if len(days) < 3:
            return False
    usual = (days >= low) & (days < high)
    # half is enough for other formats: dates such as 9999-12-31 stand for "no end"
    return bool(usual.all() if "%Y%m%d" in forms[0] else usual.mean() > _USUAL)


def _on_one_day(forms: list[str], stamps: list[tuple[Any, Any]]) -> int | None:
    """The position of the format in which all dates fall on the same day of the month, as monthly data do."""
    for j, (form, (values, ok)) in enumerate(zip(forms, stamps, strict=True)):
        if "%d" not in form or not {"%m", "%b"} & {form[at : at + 2] for at in range(len(form))}:
            continue
        unit = dates.compiled(form).unit
        days = values[ok].astype(f"M8[{unit}]").astype("M8[D]")
        of_month = (days - days.astype("M8[M]").astype("M8[D]")).astype(int)
        if len(days) >= 3 and len(set(of_month.tolist())) == 1:
            return j
    return None


def _as_numbers(
    name: Name, found: Cells, counts: Counter[str], texts: list[str], own: tuple[str, ...], most: int
) -> Found | None:
    """Read the texts as numbers, if nearly all are numbers. ``most``: see ``find``; 0 if numbers are declared."""
    fits = _fits(numerals.candidates(_spread(texts)), counts, texts, numerals.read)
    if not fits:
        return None
    form, covered = fits[0]
    values, ok = numerals.read(texts, form)
    read = [text for text, there in zip(texts, ok.tolist(), strict=True) if there]
    beside = len(texts) < len(counts) or len(read) < len(texts)
    if most and (are_codes(read) or len(set(values[ok].tolist())) < 2 or reads_as_key(name) or is_called_so(name)):
        return None
    if most and any(text.startswith("+") and len(text) > _DIALLED for text in read):
        return None  # telephone numbers
    if most and numerals.is_plain(form):
        enough = most if (values[ok] == np.floor(values[ok])).all() else _FRACTIONS
        if len(read) <= enough and not (beside and len(read) > 1):
            return None
    notes = []
    rivals = [other for other, share in fits[1:] if share == covered]
    rival = next(
        (other for other in rivals if not np.array_equal(numerals.read(texts, other)[0][ok], values[ok])), None
    )
    if rival is not None and not numerals.is_plain(form):
        choice = f"schema={{{name!r}: Column('positive', form={rival!r})}}"
        notes.append(f"{form} and {rival} are both possible; the first is used, {choice} selects the other")
    if most and numerals.is_plain(form):
        notes.append(f"text read as numbers; schema={{{name!r}: 'categorical'}} keeps it as text")
    return _taken(form, found, own, notes, counts)


def _fits(
    forms: Sequence[str],
    counts: Counter[str],
    texts: Sequence[str],
    read: Callable[[Sequence[str], str], tuple[Any, NDArray[np.bool_]]],
) -> list[tuple[str, int]]:
    """Forms that nearly all texts fit, each with the number of cells that fit it; the best first."""
    number = np.array([counts[text] for text in texts])
    found = []
    for form in forms:
        ok = read(texts, form)[1]
        cells, others = int(number[ok].sum()), int(number[~ok].sum())
        few = others <= _STRAY * (cells + others) and int((~ok).sum()) <= max(_MOST_STRAYS, 0.01 * len(texts))
        if cells and (not others or (few and cells >= _FEW)):
            found.append((form, cells))
    return sorted(found, key=lambda fit: -fit[1])


def _taken(
    form: str,
    found: Cells,
    own: tuple[str, ...],
    notes: Sequence[str],
    counts: Counter[str] | None = None,
) -> Found:
    values, there, unknown = written.read(found.values, found.mask, form, own)
    strays = tuple(dict.fromkeys(found.values[unknown].tolist()))
    said = list(notes)
    if counts is not None:
        marks = [text for text in counts if written.is_marker(text, own)]
        if marks:
            said.append(_missing(marks, counts))
        if strays:
            row = int(np.argmax(unknown))
            said.append(_missing(strays, counts, f"written in another form, the first in row {row},"))
    how = "" if form in written.BOOLS else _how(form, found, there)
    return Found(form, (*own, *strays), _inner(form), Cells(values, there), how, tuple(said))


def _missing(texts: Sequence[str], counts: Counter[str], what: str = "") -> str:
    cells = sum(counts[text] for text in texts)
    named = ", ".join(shown(text) for text in texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
    many = f"{cells} cells" if cells > 1 else "1 cell"
    return f"{many} {what} ({named}) {'are' if cells > 1 else 'is'} taken as missing".replace("  ", " ")


def _compact(name: Name, storage: Storage, found: Cells, given: Column | None) -> Found | None:
    """Read whole numbers such as 20011231 as dates, if there are 3 different ones and all are days of 1900 to 2100."""
    seen = found.values[found.mask]
    low, high = _COMPACT
    if not len(seen) or seen.min() < low or seen.max() > high:
        return None
    levels = np.unique(seen)
    if (levels != np.floor(levels)).any() or (given is None and len(levels) < 3):
        return None
    values, there, unknown = written.read(found.values, found.mask, "%Y%m%d")
    if unknown.any():
        return None
    note = f"whole numbers read as dates; schema={{{name!r}: 'count'}} keeps them as numbers"
    notes = (note,) if given is None else ()
    return Found("%Y%m%d", (), _inner("%Y%m%d"), Cells(values, there), _how("%Y%m%d", found, there), notes)


def _without(found: Cells, markers: tuple[str, ...]) -> Cells:
    hit = np.array([value in markers for value in found.values.tolist()], bool)
    return Cells(found.values, found.mask & ~hit)


def _inner(form: str) -> Storage:
    family, dtype, unit, zone = written.laid_out(form)
    return Storage(family, dtype, unit, zone)


def _how(form: str, found: Cells, there: NDArray[np.bool_]) -> str:
    value = found.values[int(np.argmax(there))]
    first = f"{value:.0f}" if isinstance(value, int | float | np.number) else repr(value)
    first = first if len(first) <= 2 * _FEW else f"{first[: 2 * _FEW]}…"
    return f"written as {first} ({form})"


def _some(texts: list[str]) -> list[str]:
    """About 50 of the texts, evenly spaced."""
    return texts[:: max(1, len(texts) // _LOOKED_AT)]


def _spread(texts: list[str]) -> list[str]:
    """About 50 texts and the 50 longest, which have thousands separators if any text has."""
    return [*_some(texts), *sorted(texts, key=len)[-_LOOKED_AT:]]
