"""What the project's own tools are told: versions, constraints, hooks, CI and the source distribution agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lowerbound as lb

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
PLACE = {"python_version": "3.11", "sys_platform": "linux", "extra": ""}


def requirements() -> list[Requirement]:
    """Every dependency that is declared, of the package and of its extras."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    texts = [*PROJECT["project"]["dependencies"], *(text for extra in extras for text in extra)]
    return [each for each in map(Requirement, texts) if each.name != "lowerbound"]


def constraints(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def test_the_version_has_one_source() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    source = (ROOT / PROJECT["tool"]["hatch"]["version"]["path"]).read_text()
    assert re.findall(r'^__version__ = "(.+)"$', source, re.M) == [lb.__version__]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_oldest_versions_are_those_that_are_declared(python: str) -> None:
    place = PLACE | {"python_version": python}
    due: dict[str, str] = {}
    for each in requirements():
        if each.marker is None or each.marker.evaluate(place):
            (lowest,) = (part.version for part in each.specifier if part.operator == ">=")
            due[canonicalize_name(each.name)] = lowest  # a marked line follows the line that holds everywhere
    found = {
        canonicalize_name(each.name): next(iter(each.specifier)).version
        for each in constraints("constraints-oldest.txt")
        if each.marker is None or each.marker.evaluate(place)
    }
    assert found == due


def test_every_dependency_is_pinned_at_a_version_that_is_allowed() -> None:
    pinned = {
        canonicalize_name(each.name): next(iter(each.specifier)).version for each in constraints("constraints.txt")
    }
    for each in requirements():
        assert each.specifier.contains(pinned[canonicalize_name(each.name)]), each


def steps(job: str) -> list[str]:
    return [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]


def test_ci_runs_the_checks_and_the_suite_everywhere() -> None:
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"] == {
        "os": ["ubuntu-latest", "macos-latest"],
        "python": ["3.11", "3.12", "3.13"],
        "dependencies": ["oldest", "newest"],
    }
    commands = [*steps("check"), *steps("test")]
    assert [command.split()[:2] for command in commands] == [
        ["make", "check"],
        ["make", "test"],
        ["make", "test-oldest"],
    ]
    assert {command.split()[1] for command in commands} <= TARGETS


def test_hooks_run_offline_what_the_check_runs() -> None:
    hooks: list[dict[str, Any]] = [hook for repo in HOOKS["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in HOOKS["repos"]} == {"local"}, "nothing is fetched"
    assert {hook["language"] for hook in hooks} == {"system"}
    checked = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    assert len(hooks) == len(re.findall(r"\$\(BIN\)/", checked))
    for hook in hooks:
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert f"$(BIN)/{tool}" in checked


def test_the_source_distribution_holds_what_its_suite_reads() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    files = {path for pattern in included for path in ROOT.glob(pattern)}
    assert len(files) >= len(included), "each pattern names something"
    suite = [*ROOT.glob("tests/*.py"), *ROOT.glob("tests/helpers/**/*.py")]
    named = {name for path in suite for name in re.findall(r'ROOT / "([\w./-]+)"', path.read_text())}
    assert {"Makefile", "pyproject.toml", "README.md"} <= named
    for name in named - {"pyproject.toml"}:  # which every source distribution holds
        assert any((ROOT / name).is_relative_to(path) for path in files), name


def test_no_test_sets_a_short_deadline() -> None:
    """Another process may have the cores for as long as it likes: what costs time is measured in CPU time."""
    for path in [*ROOT.glob("tests/*.py"), *ROOT.glob("tests/helpers/**/*.py")]:
        text = path.read_text()
        for seconds in re.findall(r"timeout(?:: float)? ?= ?(\d+)|monotonic\(\) \+ (\d+)|\.wait\((\d+)", text):
            assert int("".join(seconds)) >= 600, path.name
        assert set(re.findall(r"deadline=(\w+)", text)) <= {"None"}, path.name
