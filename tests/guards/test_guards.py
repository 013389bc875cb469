"""No guard can be removed unnoticed: each is cut out of a copy of the source, and its tests go red."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial

import pytest

from orchestrator.embedded import ServerUrls
from tests.guards.cutting import ROOT, Workshop, of_this_commit
from tests.guards.guards import GUARDS, SECOND_FENCES
from tests.guards.markers import markers_in, without

CLAIM, REBUILD = "claim of the attempt that is due", "one rebuilds"
OF_THE_VERDICTS = [guard for guard in GUARDS if guard.name in (CLAIM, REBUILD)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One guard is cut out for each commit; with `--all`, as by `make guards`, each."""
    if metafunc.function is test_without_its_guard_each_of_its_tests_goes_red:
        cuts_all = metafunc.config.getoption("--all")
        guards = GUARDS if cuts_all else [of_this_commit(GUARDS)]
        metafunc.parametrize("guard", guards, ids=lambda guard: guard.name)


@pytest.fixture(scope="module")
def workshop(
    request: pytest.FixtureRequest, servers: ServerUrls, template: str
) -> Iterator[Workshop]:
    cut = [
        item.callspec.params["guard"]
        for item in request.session.items
        if getattr(item, "function", None) is test_without_its_guard_each_of_its_tests_goes_red
    ]
    with Workshop.open([*cut, *OF_THE_VERDICTS], servers, template, jobs=1) as workshop:
        yield workshop


def test_without_its_guard_each_of_its_tests_goes_red(workshop, guard):
    """In a copy of what git tracks, and by what the guard is there to prevent: not by an import, a
    fixture or a statement that is broken.
    """
    assert workshop.play(guard).problem is None


ALL = (*GUARDS, *SECOND_FENCES)
marked = cache(partial(markers_in, ROOT))
WORDS = {"true", "false", "NULL"}
"""Of SQL."""


def test_a_guard_stands_where_its_marker_is():
    """No guard that is gone is forgotten in the list, and none that is marked is never cut out."""
    assert sorted(marked()) == sorted(guard.name for guard in ALL)


@pytest.mark.parametrize("guard", ALL, ids=lambda guard: guard.name)
def test_a_guard_can_be_cut_out_as_the_list_says(guard):
    marker = marked()[guard.name]
    source = (ROOT / marker.file).read_text()
    cut = without(source, marker, guard.cut)
    assert cut != source
    if marker.file.endswith(".py"):
        compile(cut, marker.file, "exec")


@pytest.mark.parametrize("guard", ALL, ids=lambda guard: guard.name)
def test_the_list_holds_no_words_of_the_source(guard):
    """What stands in a guard's place is a literal: so that a reworded guard needs no other entry."""
    if isinstance(guard.cut, str) and guard.cut not in WORDS:
        ast.literal_eval(guard.cut)


def test_every_test_that_is_named_is_there():
    """By its whole id: pytest refuses to collect one that is not there."""
    named = {test for guard in GUARDS for test in guard.tests}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "--all", *sorted(named)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert named <= set(done.stdout.splitlines())


def test_a_guard_has_a_name_of_its_own_and_tests():
    assert len({guard.name for guard in ALL}) == len(ALL)
    assert all(guard.tests for guard in GUARDS)


@pytest.mark.parametrize(
    ("cut", "problem"),
    [
        ("AND true", "stays green"),
        ("AND nothing", "dies of something else: ProgrammingError"),
    ],
)
def test_a_cut_that_proves_nothing_is_told(workshop, cut, problem):
    """Guards the verdicts: that of tests which don't miss it, and of SQL that Postgres can't read."""
    guard = replace(guard_named(CLAIM), cut=cut)
    if problem == "stays green":
        guard = replace(guard, tests=guard_named(REBUILD).tests)
    assert problem in (workshop.play(guard).problem or "")


def test_code_that_breaks_is_no_proof_either(workshop):
    """Guards the verdicts: a module that can't be imported says nothing of its guard."""
    guard = replace(guard_named(REBUILD), cut="this is no Python")
    assert "pytest could not run" in (workshop.play(guard).problem or "")


def guard_named(name):
    return next(guard for guard in GUARDS if guard.name == name)
