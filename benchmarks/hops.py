"""How many functions, in how many files of the package, run from ``VAE.fit(df)`` to the first loss.

    python benchmarks/hops.py [--other CHECKOUT] [--list] [--quick]

Counted with ``sys.setprofile``: every function of ``src/lowerbound`` that is entered after ``fit`` was called and
before the first loss is returned. The same function is counted once however often it runs. Methods, properties,
constructors, nested functions and lambdas count; comprehensions and generator expressions do not, because Python 3.12
runs them inside the function that holds them. ``__init__`` and others that ``dataclass`` writes have no file and do not
count. The table has 300 rows and columns of seven kinds, and missing cells in four of them. A fit beforehand imports
all modules. ``--other``: also count in another checkout. Result: benchmarks/results/hops.{json,md}.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pandas as pd

from kit import record

COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
LOSSES = ("AEVBProcedure.loss", "Ascent.loss")  # the name today, and in older checkouts
LOOP = "train"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="another checkout to compare with")
    parser.add_argument("--list", action="store_true", help="print the functions of each file")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = record.parse(parser)
    if options.alone:
        print(json.dumps(counted()))
        return
    result = record.context(0) | {"found": {"this checkout": in_checkout(Path(__file__).parents[1])}}
    if options.other is not None:
        name = f"commit {record.commit_of(options.other)}"
        result["found"][name] = in_checkout(options.other.resolve())
    record.write("hops", result, page(result), options.quick)
    if options.list:
        for file, names in result["found"]["this checkout"]["functions"].items():
            print(f"{file}: {', '.join(names)}")


def in_checkout(tree: Path) -> dict[str, Any]:
    """Count in a process of its own that imports the package from ``tree``."""
    environment = os.environ | {"PYTHONPATH": f"{tree / 'src'}{os.pathsep}{Path(__file__).parent}"}
    done = subprocess.run([sys.executable, __file__, "--alone"], env=environment, check=True, capture_output=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(rows: int = 300) -> pd.DataFrame:
    """Columns of seven kinds, four of them with a tenth of their cells missing."""
    rng = np.random.default_rng(0)
    days = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, rows), "D")
    frame = pd.DataFrame(
        {
            "age": rng.integers(17, 90, rows),
            "income": rng.lognormal(10, 1, rows),
            "height": rng.normal(170, 10, rows).round(1),
            "sex": rng.choice(["F", "M"], rows),
            "city": rng.choice(["Bonn", "Kiel", "Ulm", "Hof"], rows),
            "joined": days,
            "children": rng.poisson(1.5, rows),
        }
    )
    for name in ("income", "height", "sex", "joined"):
        frame.loc[rng.random(rows) < 0.1, name] = None
    return frame


def counted() -> dict[str, Any]:
    """The functions entered up to the first loss, by file, and how many of them before the loop starts."""
    import lowerbound as lb

    root = f"{Path(lb.__file__).parent}{os.sep}"
    epochs = "epochs" if "epochs" in inspect.signature(lb.VAE).parameters else "passes"
    arguments: dict[str, Any] = {"random_state": 0, epochs: 1}
    frame, seen, marks = table(), Counter[CodeType](), dict[str, int]()

    def watch(stack: FrameType, event: str, _: object) -> None:
        code = stack.f_code
        if LOSSES[0] in marks or not code.co_filename.startswith(root):
            return
        if event == "call" and code.co_name not in COMPREHENSIONS:
            if code.co_qualname == LOOP:
                marks[LOOP] = len(seen)
            seen[code] += 1
        elif event == "return" and code.co_qualname in LOSSES:
            marks[LOSSES[0]] = len(seen)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lb.VAE(**arguments).fit(frame)
        vae = lb.VAE(**arguments)
        sys.setprofile(watch)
        vae.fit(frame)
        sys.setprofile(None)
    files: dict[str, list[str]] = {}
    for code in sorted(seen, key=lambda code: (code.co_filename, code.co_firstlineno)):
        files.setdefault(code.co_filename.removeprefix(root), []).append(code.co_qualname)
    return {"functions": files, "before_the_loop": marks[LOOP], "to_the_first_loss": marks[LOSSES[0]]}


def page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    found: dict[str, dict[str, Any]] = result["found"]
    folders = sorted({folder(file) for each in found.values() for file in each["functions"]})
    lines = [
        "# From `VAE.fit(df)` to the first loss",
        "",
        "Functions of `src/lowerbound` that run, each counted once, and the files they are in.",
        "",
        f"| | {' | '.join(found)} |",
        f"|---|{'---|' * len(found)}",
        f"| files | {' | '.join(str(len(each['functions'])) for each in found.values())} |",
        f"| functions | {' | '.join(str(each['to_the_first_loss']) for each in found.values())} |",
        f"| of these, before the loop starts | {' | '.join(str(each['before_the_loop']) for each in found.values())} |",
    ]
    for name in folders:
        lines.append(f"| `{name}` | {' | '.join(of_folder(each['functions'], name) for each in found.values())} |")
    rows, kinds = table().shape
    lines += [
        "",
        f"- The table: {rows} rows, {kinds} columns (whole and real numbers, a count, two kinds of text, a date); a "
        "tenth of the cells of four columns is missing.",
        "- Counted: functions, methods, properties, constructors, lambdas. Not counted: comprehensions, generator "
        "expressions, and methods that `dataclass` writes.",
        *record.footer(result),
    ]
    return "\n".join(lines) + "\n"


def folder(file: str) -> str:
    return file.partition("/")[0] if "/" in file else "(top level)"


def of_folder(functions: dict[str, list[str]], name: str) -> str:
    inside = {file: names for file, names in functions.items() if folder(file) == name}
    return f"{sum(map(len, inside.values()))} in {len(inside)}"


if __name__ == "__main__":
    main()
