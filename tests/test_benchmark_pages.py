"""The committed pages of the benchmarks are what their committed figures give."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MAKERS = {
    "tables": "table_peers.page",
    "tables_defaults": "table_defaults.page",
    "topics": "topic_study.page",
    "training": "contenders.page",
}  # of others: the benchmark's own module
RESULTS = sorted(path.stem for path in (BENCHMARKS / "results").glob("*.json"))


@pytest.mark.parametrize("name", RESULTS)
def test_a_page_says_what_its_figures_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module(MAKERS.get(name, name))
    result = json.loads((BENCHMARKS / f"results/{name}.json").read_text())
    assert module.page(result) == (BENCHMARKS / f"results/{name}.md").read_text()
