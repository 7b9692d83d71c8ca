"""What every study records beside its figures: the command, the commit, the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from lowerbound.data import Dataset


RESULTS = Path(__file__).parents[1] / "results"


def context(seed: int) -> dict[str, Any]:
    """Command, commit, seed, machine."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit_of(Path(__file__).parent),
        "seed": seed,
        "machine": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, no GPU used",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def parse(parser: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """Parse the command line; ``--quick`` takes the values ``quick`` in place of the defaults."""
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs: nothing is written")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
    return parser.parse_args()


def write(name: str, result: dict[str, Any], markdown: str, quick: bool = False) -> None:
    """Print a study's page and, unless it was a ``quick`` run, keep it and its figures (as JSON) in ``results/``."""
    print(markdown)
    if not quick:
        keep(name, result, markdown)


def keep(name: str, result: dict[str, Any], markdown: str) -> None:
    """Write a study's figures as JSON, and its page as Markdown, into ``results/``."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / f"{name}.md").write_text(markdown)


def known(folder: Path, names: Iterable[str], seeds: int) -> dict[str, list[Any]]:
    """By name, the figures of the fits that the cache ``folder`` has, in files "NAME, SEED.json"."""
    found = {}
    for name in names:
        paths = [folder / f"{name}, {seed}.json" for seed in range(seeds)]
        if there := [json.loads(path.read_text()) for path in paths if path.exists()]:
            found[name] = there
    return found


def mnist(folder: Path) -> Dataset:
    """MNIST from ``folder`` or, where that does not exist, from the cache or the network."""
    from lowerbound import data  # here only: ``mutants.py`` must not load the library
    from lowerbound.errors import DataError

    try:
        return data.mnist(folder if folder.is_dir() else None)
    except (DataError, OSError) as error:
        sys.exit(f"MNIST is not there ({error}); --folder names the folder that holds it.")


def footer(result: dict[str, Any]) -> list[str]:
    """Lines of a page that say how its figures were made. ``rebased``: commits that another one has replaced."""
    python, torch_version = result["versions"]["python"], result["versions"]["torch"]
    return [
        f"- Command: `{result['command']}`, commit {result['commit']}, seed {result['seed']}.",
        f"- Machine: {result['machine']}; Python {python}, torch {torch_version}.",
        *(f"- Commit {old} was rebased: in the history it is {new}." for old, new in result.get("rebased", {}).items()),
    ]


def commit_of(tree: Path) -> str:
    """The commit of a checkout, with ``+`` where its source has changes."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=tree, capture_output=True, text=True, check=True).stdout.strip()

    root = git("rev-parse", "--show-toplevel")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", f"{root}/src") else "")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
