"""Cells as people write them: dates, numbers and markers of missing ones, read, said, and written back so."""

from __future__ import annotations

import datetime
import json
import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import assert_one_sentence

import lowerbound as lb
from lowerbound.errors import FormatError, ReadingWarning
from lowerbound.schema import Column, Schema, dates, infer, numerals

DAYS = [datetime.datetime(2001, 1, 1, 7, 5) + datetime.timedelta(days=9 * i, minutes=37 * i) for i in range(40)]
EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True, database=None)

# How each is written, in Python's own words; and the form that is to be found.
DATES: dict[str, Any] = {
    "%d.%m.%Y": "{:%d.%m.%Y}",
    "%m/%d/%Y": "{:%m/%d/%Y}",
    "%d/%m/%Y": "{:%d/%m/%Y}",
    "%d-%m-%Y": "{:%d-%m-%Y}",
    "%Y/%m/%d": "{:%Y/%m/%d}",
    "%Y.%m.%d": "{:%Y.%m.%d}",
    "%d-%b-%Y": "{:%d-%b-%Y}",
    "%d %B %Y": "{:%d %B %Y}",
    "%b %d, %Y": "{:%b %d, %Y}",
    "%B %-d, %Y": "{:%B %-d, %Y}",
    "%-m/%-d/%Y": "{0.month}/{0.day}/{0.year}",
    "%-d.%-m.%Y": "{0.day}.{0.month}.{0.year}",
    "%d/%m/%y": "{:%d/%m/%y}",
    "%d.%m.%y": "{:%d.%m.%y}",
    "%d-%b-%y": "{:%d-%b-%y}",
    "%Y%m%d": "{:%Y%m%d}",
    "%Y-%m": "{:%Y-%m}",
    "%b %Y": "{:%b %Y}",
    "%b-%y": "{:%b-%y}",
    "%m/%Y": "{:%m/%Y}",
    "%Y-%m-%d %H:%M": "{:%Y-%m-%d %H:%M}",
    "%Y-%m-%dT%H:%M": "{:%Y-%m-%dT%H:%M}",
    "%Y-%m-%dT%H:%M:%SZ": "{:%Y-%m-%dT%H:%M:%SZ}",
    "%Y-%m-%dT%H:%M:%S+01:00": "{:%Y-%m-%dT%H:%M:%S+01:00}",
    "%Y-%m-%d %H:%M:%S.%f": "{:%Y-%m-%d %H:%M:%S.%f}",
    "%d.%m.%Y %H:%M": "{:%d.%m.%Y %H:%M}",
    "%m/%d/%Y %I:%M %p": "{:%m/%d/%Y %I:%M %p}",
    "%-m/%-d/%Y %-I:%M:%S %p": "{:%-m/%-d/%Y %-I:%M:%S %p}",
    "%a, %d %b %Y %H:%M:%S +0000": "{:%a, %d %b %Y %H:%M:%S +0000}",
}


@pytest.mark.parametrize("form", DATES)
def test_dates_are_read_and_written_as_they_are(form: str) -> None:
    days = [day.replace(year=1998) for day in DAYS] if "%y" in form else DAYS  # 98 is no day and no month
    texts = [DATES[form].format(day) for day in days]
    column = infer(pd.DataFrame({"x": texts}))["x"]
    assert (column.kind, column.form) == ("datetime", form)
    century = ("two-digit years are read as 1969 to 2068",) if "%y" in form else ()
    assert column.problems == century
    assert texts[0] in column.why
    found = read_back(pd.DataFrame({"x": texts}))
    zoned = {"utc": True, "format": "mixed"} if re.search(r"[+Z]", form) else {"format": form.replace("%-", "%")}
    parsed = pd.to_datetime(pd.Series(texts), **zoned)
    parsed = parsed.dt.tz_localize(None) if parsed.dt.tz is not None else parsed
    stamps, ok = dates.read(texts, form)
    assert ok.all()
    assert (stamps.view(f"M8[{dates.compiled(form).unit}]") == parsed.to_numpy()).all()  # pandas' own
    assert found["x"].tolist() == texts


NUMBERS: dict[str, list[str]] = {
    "#,##0.00": ["1,234.50", "12.25", "-1,234,567.00", "0.75"],
    "#.##0,00": ["1.234,50", "12,25", "-1.234.567,00", "0,75"],
    "# ##0,0#": ["1 234,5", "12,25", "-1 234 567,0", "0,75"],
    "#\u202f##0": ["1\u202f234", "12", "-1\u202f234\u202f567", "0"],
    "#'##0.00": ["1'234.50", "12.25", "-1'234'567.00", "0.75"],
    "$#,##0.00": ["$1,234.50", "$12.25", "-$1,234,567.00", "$0.75"],
    "#.##0,00 €": ["1.234,50 €", "12,25 €", "-1.234.567,00 €", "0,75 €"],
    "CHF #'##0": ["CHF 1'234", "CHF 12", "-CHF 1'234'567", "CHF 0"],
    "#,##0;()": ["1,234", "12", "(1,234,567)", "0"],
    "$#,##0.00;()": ["$1,234.50", "$12.25", "($1,234,567.00)", "$0.75"],
    "0.0 %": ["12.5 %", "3.0 %", "-1.5 %", "0.0 %"],
    "0%": ["12%", "3%", "-1%", "0%"],
    "0,0": ["12,5", "3,0", "-1,5", "0,5"],
    "0,##": ["12,25", "3", "-1,5", "0,5"],
    "#,##0": ["1,234", "12", "-1,234,567", "999"],
}


@pytest.mark.parametrize("form", NUMBERS)
def test_numbers_are_read_and_written_as_they_are(form: str) -> None:
    texts = NUMBERS[form]
    plain = [float(re.sub(r"[^\d.]", "", text.translate(marks(form)))) for text in texts]
    due = [-value if set(text) & {"-", "("} else value for text, value in zip(texts, plain, strict=True)]
    column = infer(pd.DataFrame({"x": texts * 6}))["x"]
    assert column.modelled
    assert column.kind in ("real", "ordinal")
    assert numerals.read(texts, form)[0].tolist() == due
    assert numerals.read(texts, column.form or "")[0].tolist() == due
    if form != "# ##0,0#":
        assert column.form == form
    back = read_back(pd.DataFrame({"x": texts * 6}))
    assert back["x"].tolist() == texts * 6


def marks(form: str) -> dict[int, str]:
    at = numerals.compiled(form)
    return {ord(at.point): "."} | ({} if at.group is None else {ord(at.group): ""})


def read_back(frame: Any) -> Any:
    """A frame through its schema, as JSON; what is drawn is of the same form, and is read strictly."""
    schema = Schema.from_json(infer(frame).to_json())
    coded = schema.encode(frame)
    drawn = schema.decode(np.random.default_rng(0).normal(size=(50, len(schema.modelled))) * 10)
    assert schema.encode(drawn, strict=True).mask.all()
    assert not coded.unseen
    return schema.decode(coded)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_markers_are_filled_and_other_cells_are_not_touched(library: str) -> None:
    rng = np.random.default_rng(0)
    amount = [f"{value:,.2f}" for value in 1000 * np.exp(rng.normal(size=60))]
    day = [f"{each:%d.%m.%Y}" for each in (DAYS * 2)[:60]]
    amount[3], amount[7], amount[9], amount[11] = "?", " n/a ", "see note", "007.50"
    day[4], day[8] = "-", ""
    held = {"amount": amount, "day": day, "key": [f"k{i}" for i in range(59)] + ["?"]}
    frame = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}[library](held)
    schema = infer(frame)
    assert [column.kind for column in schema.columns] == ["positive", "datetime", "identifier"]
    said = " ".join(schema["amount"].problems)
    assert "2 cells ('?', ' n/a ') are taken as missing" in said
    assert "1 cell written in another form, the first in row 9, ('see note') is taken as missing" in said
    coded = schema.encode(frame)
    assert np.flatnonzero(~coded.mask[:, 0]).tolist() == [3, 7, 9]
    assert np.flatnonzero(~coded.mask[:, 1]).tolist() == [4, 8]
    back = columns_of(schema.decode(coded))
    assert back == held  # as it was, marks too
    filled = columns_of(schema.decode(coded.filled(np.tile([[1234567.891, 12.0]], (60, 1)))))
    assert [filled["amount"][row] for row in (3, 7, 9)] == ["1,234,567.89"] * 3
    assert [filled["day"][row] for row in (4, 8)] == ["13.01.2001"] * 2
    for name, holes in (("amount", (3, 7, 9)), ("day", (4, 8)), ("key", ())):
        assert [cell for row, cell in enumerate(filled[name]) if row not in holes] == [
            cell for row, cell in enumerate(held[name]) if row not in holes
        ]


def columns_of(frame: Any) -> dict[str, list[Any]]:
    table = frame if isinstance(frame, pa.Table) else pa.table({name: list(frame[name]) for name in frame.columns})
    return {name: table[name].to_pylist() for name in table.column_names}


MARKERS = ["?", "-", "--", ".", "NA", "n/a", "N/A", "null", "none", "nan", "NaN", "", " ", "missing", "unknown", "#N/A"]


@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_beside_numbers_or_dates_is_missing(marker: str) -> None:
    whole = [str(i % 29 + 1) for i in range(290)]
    for cells, kind in ((whole, "count"), ([DATES["%d.%m.%Y"].format(day) for day in DAYS], "datetime")):
        column = infer(pd.DataFrame({"x": [*cells, *[marker] * 4]}))["x"]
        assert column.kind == kind
        assert column.missing == pytest.approx(4 / (len(cells) + 4))
        assert any("taken as missing" in problem for problem in column.problems)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2", "3"] * 20, "categorical"),  # codes, for all that can be told
        (["1.0", "1.1", "2.0"] * 20, "categorical"),  # versions
        ([f"0{i:03d}" for i in range(300)], "identifier"),
        (["01.02.03", "04.05.06", "1.2.300"], "categorical"),
        (["1-2", "3-4", "5-12"] * 20, "categorical"),
        ([f"{i}-{i + 5}" for i in range(40)], "identifier"),
        ([f"item {i}" for i in range(40)], "identifier"),
        ([f"2001-{i}-77" for i in range(1, 10)], "categorical"),
        (["0.5", "?", "x", "y"] * 10, "categorical"),
        (["12:30", "13:45", "01:00"] * 9, "categorical"),
        (["01/02/03", "03/04/05", "05/06/07"], "categorical"),  # which of the three is the year?
        ([20010101, 20011331, 20010203], "count"),
        ([20010101, 20010102] * 4, "count"),
        (["a, b", "c"] * 9, "binary"),
        ([f"+4930{7654321 + 997 * i}" for i in range(150)], "identifier"),  # telephone numbers
    ],
)
def test_what_is_no_date_and_no_number(cells: list[Any], kind: str) -> None:
    column = infer(pd.DataFrame({"x": cells}))["x"]
    assert (column.kind, column.form) == (kind, None)


def test_day_and_month_are_told_by_the_data_or_the_choice_is_said() -> None:
    us = infer(pd.DataFrame({"x": ["01/02/2001", "02/13/2001", "03/04/2002"]}))["x"]
    gb = infer(pd.DataFrame({"x": ["01/02/2001", "13/02/2001", "03/04/2002"]}))["x"]
    assert (us.form, gb.form) == ("%m/%d/%Y", "%d/%m/%Y")
    assert not us.problems
    assert not gb.problems
    either = pd.DataFrame({"x": ["01/02/2001", "02/11/2001", "03/04/2002"]})
    column = infer(either)["x"]
    assert column.form == "%m/%d/%Y"
    assert "schema={'x': Column('datetime', form='%d/%m/%Y')}" in column.problems[0]
    other = infer(either, {"x": Column("datetime", form="%d/%m/%Y")})
    assert other["x"].form == "%d/%m/%Y"
    assert other.decode(other.encode(either))["x"].tolist() == either["x"].tolist()
    firsts = [f"01/{month:02d}/2001" for month in range(1, 13)]  # the first of each month, surely
    assert infer(pd.DataFrame({"x": firsts}))["x"].form == "%d/%m/%Y"
    assert infer(pd.DataFrame({"x": ["1,234", "5,678", "9,012"] * 9}))["x"].form == "#,##0"
    assert "form='0,000'" in infer(pd.DataFrame({"x": ["1,234", "5,678", "9,012"] * 9}))["x"].problems[0]


@pytest.mark.parametrize("dtype", ["int64", "Int64", "float64", "int64[pyarrow]"])
def test_days_as_whole_numbers(dtype: str) -> None:
    days = [int(f"{day:%Y%m%d}") for day in DAYS]
    frame = pd.DataFrame({"day": pd.Series(days, dtype=dtype)})
    schema = infer(frame)
    assert (schema["day"].kind, schema["day"].form) == ("datetime", "%Y%m%d")
    assert "schema={'day': 'count'}" in schema["day"].problems[0]
    pd.testing.assert_frame_equal(schema.decode(schema.encode(frame)), frame)
    drawn = schema.decode(np.random.default_rng(0).normal(100, 300, size=(300, 1)))
    assert drawn["day"].dtype == frame["day"].dtype
    assert pd.to_datetime(drawn["day"].astype("int64").astype(str), format="%Y%m%d").notna().all()
    assert infer(frame, {"day": "count"})["day"].form is None


def test_a_marker_among_classes_is_a_level_unless_it_is_declared() -> None:
    frame = pd.DataFrame({"work": ["Private", "State", "?", "Private"] * 9})
    column = infer(frame)["work"]
    assert column.levels == ("?", "Private", "State")
    (said,) = column.problems
    assert said.endswith("declare schema={'work': Column('categorical', markers=('?',))}")
    assert infer(frame, {"work": Column("categorical", markers=("?",))})["work"].missing == pytest.approx(0.25)


def test_what_is_declared() -> None:
    frame = pd.DataFrame({"x": ["1,234", "5,678", "X", "?"], "c": ["a", "b", "?", "c"], "n": ["3", "1", "2", "1"]})
    schema = infer(
        frame,
        {
            "x": Column("positive", form="0,###", markers=("X",)),
            "c": Column("categorical", markers=("?",)),
            "n": "count",
        },
    )
    coded = schema.encode(frame)
    np.testing.assert_array_equal(coded.values, [[1.234, 0, 3], [5.678, 1, 1], [np.nan, np.nan, 2], [np.nan, 2, 1]])
    assert schema["c"].levels == ("a", "b", "c")
    pd.testing.assert_frame_equal(schema.decode(coded), frame)
    filled = schema.decode(coded.filled(np.tile([[9.5, 0, 0]], (4, 1))))
    assert filled.to_dict("list") == {
        "x": ["1,234", "5,678", "9,5", "9,5"],
        "c": ["a", "b", "a", "c"],
        "n": ["3", "1", "2", "1"],
    }


def test_cells_of_another_form_are_unseen() -> None:
    schema = infer(pd.DataFrame({"x": [f"{day:%d.%m.%Y}" for day in DAYS]}))
    new = pd.DataFrame({"x": ["01.02.2001", "2001-02-01", "n/a", "soon"]})
    coded = schema.encode(new)
    assert coded.unseen == {"x": 2}
    filled = schema.decode(coded.filled(np.zeros((4, 1))))
    assert filled["x"].tolist() == ["01.02.2001", "2001-02-01", "01.01.2001", "soon"]
    with pytest.raises(ValueError, match=r"row 1 of column 'x' is '2001-02-01', which is not written in the column's"):
        schema.encode(new, strict=True)
    typed = pl.DataFrame({"x": [datetime.date(2001, 2, 1), None]})  # the same days of another library
    assert schema.encode(typed).values[0, 0] == coded.values[0, 0]
    assert schema.decode(schema.encode(typed)).equals(typed)


@EXAMPLES
@given(st.sampled_from(sorted(DATES)), st.lists(st.integers(-(10**7), 10**7), min_size=1, max_size=9))
def test_dates_written_are_read(form: str, seconds: list[int]) -> None:
    """write ∘ read is the identity on what is written; read ∘ write on times that the form can tell."""
    size = {"D": 1, "s": 86_400, "us": 86_400 * 10**6}[dates.compiled(form).unit]
    stamps = np.array(seconds, np.int64) * size // 2000
    texts = dates.write(stamps, form)
    again, ok = dates.read(texts, form)
    assert ok.all()
    assert dates.write(again, form) == texts
    if "%d" in form.replace("-", "") and ("%Y" in form) and "M" not in form.replace("%M:%S", ""):
        np.testing.assert_array_equal(again, stamps)


@EXAMPLES
@given(
    st.sampled_from([*NUMBERS, "General", "#,##0.00##", "£0.##", "0"]),
    st.lists(st.floats(-1e12, 1e12, allow_subnormal=False), min_size=1),
)
def test_numbers_written_are_read(form: str, values: list[float]) -> None:
    most = numerals.compiled(form).most if form != "General" else 30
    texts = numerals.write(np.array(values), form)
    again, ok = numerals.read(texts, form)
    assert ok.all()
    assert numerals.write(again, form) == texts
    np.testing.assert_allclose(again, values, rtol=1e-15, atol=0.51 * 10.0**-most)
    assert str(numerals.compiled(form)) == form


@pytest.mark.parametrize(
    "form",
    ["", "%", "%d", "%Y", "%Y-%m-%d %H:%S", "%Y-%Y-%m", "%d.%m.%Y; rm", "%d.%m.%Y\n", "%s%Y%m", "#,##0,00", "0.0x", 3,
     "x" * 99, "%Y-%m-%d %H:%M:%S%f", "%I:%M %d.%m.%Y", "no|yes", "0" * 99, "%Y%m%d+01:00"],
)  # fmt: skip
def test_a_forged_form_is_refused(form: Any) -> None:
    text = json.loads(infer(pd.DataFrame({"x": ["01.02.2001", "13.02.2001"]})).to_json())
    text["columns"][0]["form"] = form
    with pytest.raises(FormatError, match=r"form of column 'x' is .* where a form of numbers or times or null is due"):
        Schema.from_dict(text)


@pytest.mark.parametrize("old", ["date", "T", " "])
def test_forms_of_before_are_known(old: str) -> None:
    frame = pd.DataFrame({"x": ["2001-02-03T01:02:03".replace("T", old)[: 10 if old == "date" else 19], None] * 2})
    frame.loc[3] = frame["x"][0].replace("2001", "2003")
    text = json.loads(infer(frame).to_json())
    text["columns"][0]["form"] = old
    del text["columns"][0]["markers"]
    schema = Schema.from_dict(text)
    pd.testing.assert_frame_equal(schema.decode(schema.encode(frame)), frame)


def test_a_fit_says_how_columns_are_read_and_which_are_left_out() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "y": rng.normal(size=60),
            "amount": [f"{value:,.2f}" for value in 1000 * np.exp(rng.normal(size=60))],
            "day": ["01/02/2001", "03/04/2002", "05/06/2003"] * 20,
            "iso": ["2001-02-03", "2003-04-05", "2001-02-09"] * 20,
            "rate": [*rng.integers(1, 9, 58).astype(str), "?", "-"],
            "note": [f"note {row}" for row in range(60)],
        }
    )
    for fit in (lb.VAE(1, hidden=(4,), epochs=1, random_state=0), lb.LatentImputer(1, hidden=(4,), epochs=1)):
        with pytest.warns(ReadingWarning) as said:
            fit.fit(frame)
        assert len(said) == 1
        words = str(said[0].message)
        assert_one_sentence(
            words,
            (
                r"'amount' is read as numbers written as #,##0\.00",
                r"'day' is read as dates written as %m/%d/%Y .*schema={'day': Column\('datetime', form='%d/%m/%Y'\)}",
                r"'rate' is read as numbers .*2 cells \('\?', '-'\) are taken as missing",
                "'note' is left out as an identifier",
            ),
        )
        assert "iso" not in words
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # declared: nothing is left to be said
        lb.VAE(1, hidden=(4,), epochs=1).fit(frame[["y", "iso"]])


def test_what_is_given_may_be_written_in_the_form_or_plainly() -> None:
    frame = pd.DataFrame(
        {"amount": ["1,234.50", "12.00", "7.25"] * 9, "truth": ["TRUE", "FALSE", "TRUE"] * 9, "y": np.arange(27) / 7}
    )
    schema = infer(frame)
    assert [schema.code("amount", given) for given in ("1,234.50", "1234.5", 1234.5)] == [1234.5] * 3
    assert [schema.code("truth", given) for given in ("TRUE", "true", "yes", True)] == [1.0] * 4
    assert [schema.code("truth", given) for given in ("False", "no", False)] == [0.0] * 3
    for name in ("amount", "truth"):
        with pytest.raises(ValueError, match=f"column '{name}' is given 'lots'"):
            schema.code(name, "lots")
