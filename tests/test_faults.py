"""Fits that are killed, interrupted, starved, poisoned or lied to: the small form of ``benchmarks/faults.py``."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import warm
from injection.__main__ import main

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the campaign reads /proc, limits memory")


def campaign(part: str, *options: str) -> dict[str, Any]:
    """A part of the campaign in a process of its own, which may fork: this one has threads."""
    done = warm.run(main, part, "--size", "test", *options)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("part", ["kills", "interrupts", "room", "damage", "poison", "hostile", "forged", "memory"])
def test_a_fit_outlasts_faults(part: str) -> None:
    kinds = campaign(part)["kinds"]
    assert sum(kind["injected"] for kind in kinds) > 0
    assert [kind["told"] for kind in kinds if kind["failures"]] == []


@pytest.mark.parametrize(
    ("part", "way"), [("damage", "unchecked"), ("room", "fatal checkpoints"), ("interrupts", "deaf")]
)
def test_the_campaign_notices_a_broken_library(part: str, way: str) -> None:
    kinds = campaign(part, "--sabotage", way)["kinds"]
    assert sum(kind["failures"] for kind in kinds) > 0
