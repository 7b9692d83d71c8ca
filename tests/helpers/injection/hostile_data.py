"""Hostile data through the command line: pickled arrays, and names of columns and files made of HTML or mathematics."""

from __future__ import annotations

import contextlib
import html.parser
import shutil
import zipfile
from pathlib import Path

import numpy as np

from injection.processes import Child, warm
from injection.tally import Tally
from lowerbound import cli

NAMES = {
    "a script": "<script>alert(1)</script>",
    "an image": "<img src=x onerror=alert(1)>",
    "an end of the page": "</table></main></body></html><script>alert(1)</script>",
    "an attribute": '" onmouseover="alert(1)" x="',
    "a single quote": "' onload='alert(1)",
    "an entity": "&lt;script&gt;&#60;",
    "a template": "{{ 7 * 7 }}{% raw %}",
    "mathematics": "$\\frac{x",
    "mathematics that ends": "$x$ $\\undefined$",
    "a path": "../../../etc/passwd",
    "a new line": "a\nb",
    "a colour of the terminal": "\x1b[31mred",
    "text from right to left": "\u202eabc",
    "a long name": "x" * 10_000,
    "a formula of a table": "=cmd|' /C calc'!A0",
}


class Page(html.parser.HTMLParser):
    """What of a page runs: elements and attributes that no report has."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"<{tag}>"] if tag in ("script", "iframe", "object", "embed", "base", "form") else []
        for name, value in attrs:
            is_outside = name in ("src", "href") and not (value or "").startswith(("data:", "#"))
            self.found += [f"{tag} {name}={value}"[:80]] if name.startswith("on") or is_outside else []


def run(size: str, base: Path, pickled: bytes, canary: Path) -> list[Tally]:
    return [_arrays(base, pickled, canary), _pages(base, 2 if size == "test" else None)]


def command(*arguments: object) -> tuple[int | None, str]:
    """The command line in a child: exit code, and what it said."""
    return Child(lambda ready: cli.main([str(argument) for argument in arguments])).wait()


def _run(arguments: list[object]) -> None:
    with contextlib.suppress(SystemExit):
        cli.main([str(argument) for argument in arguments])


def _arrays(base: Path, pickled: bytes, canary: Path) -> Tally:
    """Arrays of pickled objects, and pickles with the names of arrays."""
    tally = Tally("pickle as DATA")
    np.save(base / "objects.npy", np.array([None]), allow_pickle=True)
    (base / "objects.npy").write_bytes((base / "objects.npy").read_bytes()[:128] + pickled)
    with zipfile.ZipFile(base / "objects.npz", "w") as archive:
        archive.write(base / "objects.npy", "x.npy")
    for name in ("plain.npy", "plain.npz", "plain.csv", "plain.parquet", "plain-ubyte", "plain.idx.gz"):
        (base / name).write_bytes(pickled)
    for path in sorted(base.glob("objects.*")) + sorted(base.glob("plain*")):
        code, said = command("fit", path, "--out", base / "never")
        troubles = ["something was unpickled"] if canary.exists() else []
        troubles += [] if code == 65 and path.name in said else [f"exit {code}: {said[-300:]}"]
        tally.add(f"refused, exit {code}", troubles, path.name)
    return tally


def _pages(base: Path, most: int | None) -> Tally:
    """Reports of tables whose columns, or file, have hostile names."""
    tally, rng = Tally("hostile names of columns and files, in a report"), np.random.default_rng(0)
    x = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3))
    (base / "plain.csv").write_text("\n".join(",".join(map(str, row)) for row in x))
    warm(lambda: [_run(arguments) for arguments in _commands(base / "plain.csv", base / "plain")], base)
    for kind, name in list(NAMES.items())[:most]:
        quoted = '"' + name.replace('"', '""') + '"'
        for place, file in (("column", "table"), ("file", name.replace("/", "\\")[:100])):
            data, out = base / f"{file}.csv", base / "named"
            shutil.rmtree(out, ignore_errors=True)
            header = [quoted if place == "column" else "a", "b", "c"]
            data.write_text("\n".join([",".join(header), *(",".join(map(str, row)) for row in x)]))
            tally.add(*_reported(data, out), f"{kind} as a {place}")
    return tally


def _commands(data: Path, out: Path) -> tuple[list[object], list[object]]:
    return ["fit", data, "--out", out, "--epochs", 2, "--hidden", 4], ["report", out, data, "--samples", 5]


def _reported(data: Path, out: Path) -> tuple[str, list[str]]:
    """A fit and a report of ``data``: how they ended, and what of the page runs."""
    for arguments in _commands(data, out):
        code, said = command(*arguments)
        if code == 65 and "Traceback" not in said:
            return f"refused by {arguments[0]}, exit 65", []
        if code != 0:
            return f"exit {code}", [said[-400:]]
    page = Page()
    page.feed((out / "report.html").read_text())
    return "escaped", page.found
