"""The package's imports: no two modules need each other, also where only their types do."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

grimp = pytest.importorskip("grimp")  # comes with import-linter
ROOT = "lowerbound"


def circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by others: what is left of a repeated topological sort."""
    left = {module: set(imported) for module, imported in imports.items()}
    for ends in (lambda module: left[module], lambda module: {other for other in left if module in left[other]}):
        while free := [module for module in left if not ends(module) & left.keys()]:
            for module in free:
                del left[module]
    found = []
    while left:
        group, grown = set(), {min(left)}
        while grown != group:
            group, grown = grown, grown | {other for module in grown for other in left[module] & left.keys()}
        found.append(sorted(group))
        left = {module: imported for module, imported in left.items() if module not in group}
    return found


def test_no_modules_import_each_other() -> None:
    graph = grimp.build_graph(ROOT, exclude_type_checking_imports=False, cache_dir=None)
    modules = graph.modules - {ROOT}  # which names its lazy members for type checkers
    assert len(modules) > 100
    found = circles({each: graph.find_modules_directly_imported_by(each) & modules for each in modules})
    assert not found, f"these modules import each other: {found}; move what both need to a module below them."


@pytest.mark.parametrize(
    ("imports", "due"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [["a", "b"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}, [["a", "b", "c"]]),
        ({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c"}}, [["a", "b"], ["c", "d"]]),
    ],
)
def test_circles_are_found(imports: dict[str, set[str]], due: list[list[str]]) -> None:
    assert circles(imports) == due
