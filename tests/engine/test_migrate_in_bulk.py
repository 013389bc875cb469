"""Many parked runs are moved and moved back, by a command that dies at random places and is called again.

Once it is cut off by an exception, at a statement or a commit; once it is a process of its own, and is killed by
SIGKILL at any moment. Thirty runs; with `--all` ten thousand.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from orchestrator import Flow, faults, hours, process, stage
from orchestrator.core.versions.plans import Plan
from orchestrator.engine.operations import migrate
from orchestrator.engine.operations.undo_migration import undo
from orchestrator.errors import PerennialError
from tests.chaos import mover
from tests.fleet.harness import PATIENCE_SECONDS
from tests.forks import FORKS
from tests.harness import Harness
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="an operator's verb is one transaction for each run")

SEED = 16
PLACES = ("hold_run_to_rewrite", "migrate_run", "undo_migration", "transaction")
DEATHS = 6


class Killed(BaseException):
    """The command dies there: what its transaction has written is gone."""


def version(harness: Harness, number: int, name: str) -> Any:
    async def p(flow: Flow) -> Any:
        first = await flow.stage(name)
        boss = await flow.approval(f"{name}-boss", assign=["bob"], timeout=hours(48))
        return [first, boss.outcome]

    return process(version=number, name="p", registry=harness.registry)(p)


def until_it_lives(
    monkeypatch: pytest.MonkeyPatch, dice: random.Random, runs: int, command: Callable[[], Any]
) -> int:
    """Call it until it comes to its end; it dies before or after a statement, or a commit. How often it did."""
    deaths = 0
    while deaths < DEATHS:
        left = [dice.randrange(1, max(2, runs // DEATHS) * 4)]

        def reach(_when: str, what: str, left: list[int] = left) -> None:
            if what in PLACES:
                left[0] -= 1
                if not left[0]:
                    raise Killed(what)

        with monkeypatch.context() as patched:
            patched.setattr(faults, "_listener", reach)
            try:
                command()
            except Killed:
                deaths += 1
            else:
                return deaths
    command()
    return deaths


def test_a_command_that_is_killed_at_random_leaves_each_run_on_one_side(
    harness, monkeypatch, request
):
    runs = 10_000 if request.config.getoption("--all") else 30
    dice, effects = random.Random(SEED), Counter[str]()
    for name in ("a", "x"):

        def work(name: str = name) -> str:
            effects[name] += 1
            return name

        stage(name=name, registry=harness.registry)(work)
    harness.client.processes.deploy(version(harness, 1, "a"))
    for start in range(0, runs, 1000):
        harness.client.start_many("p", [None] * min(1000, runs - start))
        harness.drain(bound=10_000)
    harness.client.processes.deploy(version(harness, 2, "x"))
    plan = Plan.model_validate(
        {"process": "p", "from": 1, "to": 2, "map": {"a": "x", "a-boss": "x-boss"}}
    )
    seen = migrate.preview(harness.context, plan)
    assert (seen.goes_on, len(seen.groups)) == (runs, 1)
    before = whole(harness)

    def apply() -> None:
        migrate.apply(harness.context, plan, seen.digest, by="ann")

    def move_back() -> None:
        with suppress(PerennialError):  # none is left to move back
            undo(harness.context, plan.id, by="ann")

    assert until_it_lives(monkeypatch, dice, runs, apply) > 2, f"seed {SEED}"
    assert versions(harness) == {2: runs}
    assert told(harness, "migrated") == {1: runs}, "nothing twice"

    assert until_it_lives(monkeypatch, dice, runs, move_back) > 2, f"seed {SEED}"
    assert versions(harness) == {1: runs}
    assert told(harness, "migration undone") == {1: runs}
    assert whole(harness) == before
    assert effects == {"a": runs}, "no effect is repeated"


LATER_SECONDS = 0.02


def killed(
    harness: Harness, dice: random.Random, command: Callable[[], Any], done: str, least: int
) -> int:
    """The command in a process of its own, which is killed some random moments after it has moved more than so many
    runs; how many were moved when it was gone.
    """
    process = FORKS.Process(target=command)
    process.start()
    nobody = threading.Event()
    while harness.database.value(done) <= least and process.is_alive():
        nobody.wait(0.001)
    nobody.wait(dice.uniform(0, LATER_SECONDS))
    process.kill()
    process.join(PATIENCE_SECONDS)
    return int(harness.database.value(done))


@pytest.mark.timeout(3600)
def test_a_process_that_is_killed_at_any_moment_leaves_each_run_on_one_side(harness, request):
    """Once on its way there; with `--all` ten times, and ten times on its way back."""
    runs, kills = (10_000, (10, 10)) if request.config.getoption("--all") else (30, (1, 0))
    dice = random.Random(SEED)
    mover.effects.clear()
    first, second = mover.versions(harness.registry)
    harness.client.processes.deploy(first)
    for start in range(0, runs, 1000):
        harness.client.start_many("many", [None] * min(1000, runs - start))
        harness.drain(bound=10_000)
    harness.client.processes.deploy(second)
    seen = harness.client.processes.preview_migration(mover.PLAN)
    before = whole(harness)
    one_by_one = (
        "SELECT count(*) FROM perennial.run WHERE version = 2",
        "SELECT count(*) FROM perennial.migration WHERE undone_at IS NOT NULL",
    )
    for digest, event, done, at, times in zip(
        (seen.digest, ""), ("migrated", "migration undone"), one_by_one, (2, 1), kills, strict=True
    ):
        command, moved = partial(mover.move, harness.database.url, digest), [0]
        for kill in range(times):
            least = dice.randint(moved[-1], runs * (kill + 1) // (times + 1))
            moved.append(killed(harness, dice, command, done, least))
        print(f"seed {SEED}: {event} when it was killed: {moved[1:]}")
        assert moved == sorted(moved)
        assert (0 < moved[-1] <= runs) == (times > 0)
        mover.move(harness.database.url, digest)
        assert versions(harness) == {at: runs}
        assert told(harness, event) == {1: runs}, "nothing twice"
    assert whole(harness) == before
    assert mover.effects == {"a": runs}, "no effect is repeated"


def versions(harness: Harness) -> dict[int, int]:
    rows = harness.database.rows(
        "SELECT version, count(*) AS n FROM perennial.run GROUP BY version"
    )
    return {row.version: row.n for row in rows}


def told(harness: Harness, event: str) -> dict[int, int]:
    """How many runs have so many lines of it."""
    rows = harness.database.rows(
        "SELECT n, count(*) AS runs FROM (SELECT count(*) AS n FROM perennial.history"
        " WHERE event = :event GROUP BY run_id) each GROUP BY n",
        event=event,
    )
    return {row.n: row.runs for row in rows}


def whole(harness: Harness) -> list[Any]:
    """What the record holds of all runs, but for what counts."""
    return [
        harness.database.rows(sql)
        for sql in (
            "SELECT id, version, code_revision, status, stage, waiting_for FROM perennial.run ORDER BY id",
            "SELECT * FROM perennial.activity ORDER BY run_id, key",
            "SELECT * FROM perennial.approval ORDER BY run_id, key",
            "SELECT run_id, key, kind, state, due_at FROM perennial.timer ORDER BY run_id, key, kind",
            "SELECT run_id, key FROM perennial.outbox ORDER BY run_id, key",
        )
    ]
