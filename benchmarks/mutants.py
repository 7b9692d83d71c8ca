"""Mutants of the statistics: small faults put into a copy of the source, one at a time, and the tests that see them.

    python benchmarks/mutants.py [--only WORDS] [--resume] [--workers 2] [--seed 0]

Patches are data, in ``benchmarks/mutants/*.toml``: a file, a text that stands there once, what replaces it, and the
tests that should fail. Source and tests are copied to a temporary folder; the checkout is never touched. The tests that
failed on mutants are in the end run on the source as it is, where they must pass. A patch whose text is gone, a test
that does not exist, one that fails anyway and a mutant that cannot be imported end the run with an error.

Result: benchmarks/results/mutants.{json,md}, written after each mutant. ``--resume`` keeps the outcomes of mutants
whose patch, source file and tests are what they were; ``--only`` takes the mutants whose id, place or file holds one of
the words, and leaves what is recorded of the others.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).parents[1]
PATCHES = Path(__file__).parent / "mutants"
RESULT = Path(__file__).parent / "results" / "mutants.json"
TIMEOUT = 240.0  # seconds of the tests of one mutant: what takes longer hangs, and is killed
_PASSED, _FAILED = 0, 1  # pytest's exit codes; all others are faults of the patch or of this list
_NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Mutant:
    """One fault: ``old`` in ``file`` becomes ``new``; ``tests`` are the ids that should see it."""

    id: str
    place: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, tree: Path) -> str:
        """Put it into ``tree``; the text that was there."""
        path = tree / self.file
        text = path.read_text()
        if (found := text.count(self.old)) != 1:
            raise SystemExit(f"mutant {self.id}: its text stands {found} times in {self.file}, and not once.")
        path.write_text(text.replace(self.old, self.new))
        return text

    def applies(self) -> bool:
        """Whether the text to replace stands in its file exactly once."""
        path = ROOT / self.file
        return path.exists() and path.read_text().count(self.old) == 1 and self.old != self.new

    def digest(self) -> str:
        """Of the patch, of the file that it changes and of the files of its tests."""
        files = [self.file, *sorted({test.partition("::")[0] for test in self.tests})]
        parts = [repr(self), *((ROOT / name).read_text() for name in files)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def read() -> list[Mutant]:
    """All patches, each of which must still apply."""
    found = []
    for path in sorted(PATCHES.glob("*.toml")):
        for entry in tomllib.loads(path.read_text())["mutant"]:
            found.append(Mutant(**{**entry, "place": path.stem, "tests": tuple(entry["tests"])}))
    names = [mutant.id for mutant in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SystemExit(f"these ids are of more than one mutant: {', '.join(sorted(twice))}.")
    stale = [mutant for mutant in found if not mutant.applies()]
    if stale:
        named = ", ".join(f"{mutant.id} ({mutant.file})" for mutant in stale)
        raise SystemExit(f"{len(stale)} patches no longer apply, because their text does not stand once: {named}.")
    return found


@contextlib.contextmanager
def copies(count: int) -> Iterator[Queue[Path]]:
    """Copies of source and tests, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees: Queue[Path] = Queue()
        for number in range(count):
            tree = Path(folder) / str(number)
            for part in ("src", "tests", "benchmarks"):
                shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__", "results"))
            for name in ("pyproject.toml", "README.md"):
                shutil.copy(ROOT / name, tree)
            compileall.compile_dir(tree / "src", quiet=2, invalidation_mode=_hashed())
            trees.put(tree)
        yield trees


def _hashed() -> Any:
    import py_compile

    return py_compile.PycInvalidationMode.CHECKED_HASH  # a time in whole seconds would miss a quick change


def run(tree: Path, tests: Sequence[str], log: Path, timeout: float, seed: int) -> int | None:
    """pytest's exit code for ``tests`` in ``tree``; None where they came to no end."""
    if "lowerbound" in sys.modules:
        raise SystemExit("the library is loaded already, so tests would run on it and not on the mutant.")
    process = multiprocessing.get_context("fork").Process(target=_child, args=(tree, tests, log, seed))
    process.start()
    process.join(timeout)
    if process.is_alive():
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return None
    return process.exitcode


def _child(tree: Path, tests: Sequence[str], log: Path, seed: int) -> None:
    """In a fork, where what tests import is loaded already, and the library is not."""
    os.setsid()  # what the tests start ends with them
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        os.chdir(tree)
        installed = [p for p in sys.path if p.startswith(sys.prefix) or not p.startswith(str(ROOT))]
        sys.path[:] = [str(tree / "src"), str(tree / "tests"), *installed]
        os.environ |= {"PYTHONPATH": str(tree / "src"), "PYTHONHASHSEED": str(seed)}
        sys.dont_write_bytecode = True
        import pytest

        code = pytest.main(["-n", "0", "-x", "-q", "-p", "no:cacheprovider", "--durations=0", *tests])
        sys.stdout.flush()
        os._exit(int(code))


def load() -> None:
    """What every test imports, once for all: but for the library, which each mutant imports anew."""
    os.environ |= dict.fromkeys(_NAMES, "1")
    import numpy
    import pandas
    import polars
    import pyarrow
    import pytest
    import scipy.optimize
    import scipy.stats
    import sklearn.base
    import sklearn.datasets
    import torch
    import torch._dynamo

    torch.set_num_threads(1)
    _ = numpy, pandas, polars, pyarrow, pytest, scipy, sklearn


def outcome(mutant: Mutant, trees: Queue[Path], seed: int) -> dict[str, Any]:
    """What becomes of a mutant."""
    tree, start = trees.get(), time.perf_counter()
    try:
        before = mutant.apply(tree)
        try:
            code = run(tree, mutant.tests, log := tree / "log.txt", TIMEOUT, seed)
        finally:
            (tree / mutant.file).write_text(before)
        told, seconds = log.read_text(), time.perf_counter() - start
        if code not in (_PASSED, _FAILED, None):
            raise SystemExit(f"mutant {mutant.id}: its tests could not run (exit {code}):\n{told[-2000:]}")
        by = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", told, re.MULTILINE)
    finally:
        trees.put(tree)
    return {
        "id": mutant.id,
        "place": mutant.place,
        "what": mutant.what,
        "file": mutant.file,
        "killed": code != _PASSED,
        "by": "no end" if code is None else by.group(1) if by else None,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one mutant, to see that it runs: nothing is written")
    options = parser.parse_args()
    mutants = read()
    chosen = [m for m in mutants if not options.only or any(w in f"{m.id} {m.place} {m.file}" for w in options.only)]
    if not chosen:
        raise SystemExit(f"no mutant of {len(mutants)} has {' or '.join(options.only)} in its id, place or file.")
    chosen = chosen[:1] if options.quick else chosen
    load()
    from kit import record  # after `load`: it imports torch, but not the library

    context = record.context(options.seed)
    digests = {m.id: m.digest() for m in mutants}  # of what is copied now, whatever changes meanwhile
    recorded = json.loads(RESULT.read_text())["mutants"] if RESULT.exists() else []
    known = {each["id"]: each for each in recorded if each["digest"] == digests.get(each["id"])}
    left = [m for m in chosen if not (options.resume and m.id in known)]
    found = {name: each for name, each in known.items() if name not in {m.id for m in left}}

    def keep() -> None:
        if options.quick:
            return
        result = context | {"mutants": [found[m.id] for m in mutants if m.id in found], "of": len(mutants)}
        record.keep("mutants", result, page(result))

    with copies(options.workers) as trees, ThreadPoolExecutor(options.workers) as pool:
        tasks = [pool.submit(outcome, mutant, trees, options.seed) for mutant in left]
        try:
            for task in as_completed(tasks):
                each = task.result()
                found[each["id"]] = each | {"digest": digests[each["id"]]}
                word = "killed  " if each["killed"] else "SURVIVED"
                print(f"{word} {each['seconds']:6.1f} s  {each['id']}  {each['by']}", flush=True)
                keep()
            unseen = [each for each in found.values() if not each.get("clean")]
            clean(sorted({each["by"] for each in unseen} - {None, "no end"}), trees, options.seed)
            for each in unseen:
                each["clean"] = True
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    keep()
    survived = [each["id"] for each in found.values() if not each["killed"]]
    print(f"{len(found) - len(survived)} of {len(found)} killed; survived: {', '.join(survived) or 'none'}")


def clean(tests: Sequence[str], trees: Queue[Path], seed: int) -> None:
    """The tests that failed on mutants pass on the source as it is."""
    tree = trees.get()
    if tests and run(tree, tests, log := tree / "log.txt", 10 * TIMEOUT, seed) != _PASSED:
        raise SystemExit(f"tests that failed on mutants fail on the source as it is:\n{log.read_text()[-3000:]}")
    print(f"the {len(tests)} tests that failed on mutants pass on the source as it is", flush=True)


def page(r: dict[str, Any]) -> str:
    """The table, as Markdown."""
    from kit import record

    places: dict[str, list[dict[str, Any]]] = {}
    for each in r["mutants"]:
        places.setdefault(each["place"], []).append(each)
    killed = {place: sum(each["killed"] for each in of) for place, of in places.items()}
    total, dead = len(r["mutants"]), sum(killed.values())
    survivors = [f"- {each['id']}: {each['what']} (`{each['file']}`)" for each in r["mutants"] if not each["killed"]]
    lines = [
        "# Mutants: whether the tests see a fault in the statistics",
        "",
        "Each mutant is one small fault put into a copy of the source: a constant dropped, a wrong axis, a variance",
        "for a deviation. It is killed if one of the tests named for it fails, which passes on the source as it is.",
        "",
        f"**{dead} of {total} killed ({100 * dead / max(1, total):.1f} %).**"
        + ("" if total == r["of"] else f" {r['of'] - total} are yet to run."),
        "",
        "| place | killed | of |",
        "|---|---|---|",
        *(f"| {place} | {killed[place]} | {len(of)} |" for place, of in places.items()),
        "",
        *(["Survived:", "", *survivors, ""] if survivors else []),
    ]
    for place, of in places.items():
        lines += ["", f"## {place}", "", "| mutant | what | file | killed by |", "|---|---|---|---|"]
        lines += [f"| {e['id']} | {e['what']} | `{e['file'].removeprefix('src/lowerbound/')}` | {_by(e)} |" for e in of]
    lines += [
        "",
        *record.footer(r),
    ]
    return "\n".join(lines) + "\n"


def _by(each: dict[str, Any]) -> str:
    if not each["killed"]:
        return "**survived**"
    return "its tests came to no end" if each["by"] == "no end" else f"`{str(each['by']).partition('[')[0]}`"


if __name__ == "__main__":
    main()
