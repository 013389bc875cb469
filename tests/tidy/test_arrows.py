"""Who imports whom: never a room above one's own, and never in a circle. Imports for type checkers and those
inside functions count too: whoever reads a module has to know what they name.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from grimp import ImportGraph, build_graph  # import-linter's own

ROOMS = ("core", "store", "engine", "engine.eager", "fleet", "client", "testing", "cli")
"""From the ground up (docs/architecture.md)."""


@pytest.fixture(scope="module")
def house() -> ImportGraph:
    return build_graph("orchestrator", exclude_type_checking_imports=False, cache_dir=None)


def room_of(module: str) -> str | None:
    """The innermost that holds it. None: what all rooms may know (settings, errors), or `embedded`."""
    within = module.partition(".")[2]
    found = [room for room in ROOMS if within == room or within.startswith(f"{room}.")]
    return max(found, key=len, default=None)


def upward(graph: ImportGraph) -> Iterator[str]:
    """Each import of a module that stands in a room above."""
    for importer in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(importer)):
            here, there = room_of(importer), room_of(imported)
            if there is not None and here is not None and ROOMS.index(there) > ROOMS.index(here):
                yield f"{importer} -> {imported}"


def circles(graph: ImportGraph) -> list[list[str]]:
    """Modules each of which imports, over others, itself: what is left when all others are taken away."""
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    importers = {
        module: graph.find_modules_that_directly_import(module) for module in graph.modules
    }
    left = set(graph.modules)
    while free := {one for one in left if not imports[one] & left or not importers[one] & left}:
        left -= free
    found = []
    while left:
        first = min(left)
        around = {
            one
            for one in left
            if one == first
            or (_leads(imports, first, one, left) and _leads(imports, one, first, left))
        }
        if len(around) > 1:
            found.append(sorted(around))
        left -= around
    return found


def _leads(imports: dict[str, set[str]], start: str, end: str, within: set[str]) -> bool:
    seen, ahead = {start}, [start]
    while ahead:
        for one in imports[ahead.pop()] & within - seen:
            seen.add(one)
            ahead.append(one)
    return end in seen


def test_no_arrow_points_upward(house):
    assert list(upward(house)) == []


def test_no_module_imports_itself_over_others(house):
    assert circles(house) == []


def test_the_house_is_seen_with_what_is_imported_for_type_checkers(house):
    """Guards the two above: they would hold of an empty graph."""
    assert {room_of(module) for module in house.modules} >= set(ROOMS)
    assert house.direct_import_exists(
        importer="orchestrator.cli.session", imported="orchestrator.client"
    )


def test_an_arrow_upward_and_a_circle_are_found():
    graph = ImportGraph()
    for importer, imported in [
        ("a.store.runs", "a.engine.turn"),
        ("a.engine.turn", "a.store.runs"),
        ("a.engine.turn", "a.core.flow"),
        ("a.engine.stage", "a.engine.turn"),
        ("a.engine.turn", "a.engine.eager.local"),
    ]:
        graph.add_import(importer=importer, imported=imported)
    assert list(upward(graph)) == [
        "a.engine.turn -> a.engine.eager.local",
        "a.store.runs -> a.engine.turn",
    ]
    assert circles(graph) == [["a.engine.turn", "a.store.runs"]]
