"""The environments of the peers: which packages each needs, in exact versions by a file of constraints next to this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Environment:
    """``packages`` are installed under the versions of ``constraints``."""

    name: str
    packages: tuple[str, ...]
    constraints: Path


def _environment(name: str, *packages: str) -> Environment:
    return Environment(name, packages, HERE / f"constraints-{name}.txt")


_UTREES = _environment("utrees", "utrees", "pandas", "xgboost")
ENVIRONMENTS = {
    "miceforest": _environment("miceforest", "miceforest"),
    "UnmaskingTrees": _UTREES,
    "ForestDiffusion": _environment("forestdiffusion", "ForestDiffusion"),
    "arfpy": _environment("arfpy", "arfpy", "pandas"),
    "HyperImpute": _environment("hyperimpute", "hyperimpute"),
    "TVAE": Environment("tvae", ("ctgan", "torch"), HERE.parent / "table_peers/constraints.txt"),
}
