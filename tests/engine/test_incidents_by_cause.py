"""What is parked and what failed is one line for each cause; and what operators have said of it stands beside it."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Fail, Flow, Retry, process, stage
from orchestrator.core.selection import RunFilter
from orchestrator.errors import PerennialError
from tests.harness import Harness
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="no worker has a part in it")


def failing(harness: Harness) -> Any:
    """A process that fails at its stage or in its flow, or is parked, as its input says."""

    @stage(
        registry=harness.registry, name="provision", retry=Retry(max_attempts=2, delay_seconds=0)
    )
    def provision(how: str, number: int) -> None:
        if how == "stage":
            raise ConnectionError(f"connect to 10.0.0.{number}:5432 failed after {number}.5 s")

    @process(version=1, registry=harness.registry)
    async def hire(flow: Flow, asked: dict[str, Any]) -> None:
        await flow.stage(provision, asked["how"], asked["number"])
        if asked["how"] == "flow":
            raise Fail(f"no desk for 'person {asked['number']}'")
        if asked["how"] == "bug":
            raise KeyError(asked["number"])

    return hire


def play(harness: Harness) -> Any:
    hire = failing(harness)
    for how, count in (("stage", 3), ("flow", 2), ("bug", 1), ("fine", 1)):
        for number in range(1, count + 1):
            harness.start(hire, {"how": how, "number": number}, key=f"{how}-{number}")
    harness.drain()
    harness.recover(2)
    return hire


def test_runs_that_fail_alike_are_one_line(harness: Harness):
    """Whatever numbers, addresses and quotes their messages have, and however often each was tried."""
    play(harness)
    found = {each.cause.in_words: each for each in harness.client.operations.incidents()}
    told = {
        words: (each.runs, each.incidents, each.failed, each.processes)
        for words, each in found.items()
    }
    assert told == {
        "ConnectionError at provision": (3, 0, 3, ("hire",)),
        "Fail in the flow of hire": (2, 0, 2, ("hire",)),
        "KeyError in the flow of hire": (1, 1, 0, ("hire",)),
    }
    stage_fails = found["ConnectionError at provision"]
    assert stage_fails.cause.text == "connect to <address> failed after <number> s"
    assert {each.name for each in stage_fails.samples} == {"stage-1", "stage-2", "stage-3"}
    runs = harness.client.list(matching=RunFilter(cause=stage_fails.digest))
    assert {run.business_key for run in runs} == {"stage-1", "stage-2", "stage-3"}
    assert harness.client.get("stage-1").error["cause"] == stage_fails.digest
    assert f"perennial resume --cause {found['KeyError in the flow of hire'].digest}" in (
        found["KeyError in the flow of hire"].remedy
    )
    only_open = harness.client.operations.incidents(failed=False)
    assert [each.cause.type for each in only_open] == ["KeyError"]
    assert harness.client.operations.incidents(process="another") == []


def test_what_failed_long_ago_is_left_out_and_what_is_parked_is_not(harness: Harness):
    harness.freeze()
    play(harness)
    harness.move(hours=8 * 24)
    assert [each.cause.type for each in harness.client.operations.incidents()] == ["KeyError"]
    since = harness.client.get("stage-1").created_at
    assert len(harness.client.operations.incidents(since=since)) == 3


def test_an_error_of_an_older_release_has_the_cause_that_it_would_have_now(harness: Harness):
    """It is found when the error is read: a run that has ended keeps its error as it was recorded."""
    play(harness)
    (mine,) = [each for each in harness.client.operations.incidents() if each.failed == 3]
    with harness.database.engine.begin() as connection:
        connection.exec_driver_sql("SET session_replication_role = replica")
        connection.exec_driver_sql(
            "UPDATE perennial.run SET error = error - 'cause' - 'cause_is' WHERE business_key <> 'stage-1'"
        )
    found = harness.client.operations.incidents()
    assert {each.cause.type: (each.digest == mine.digest, each.runs) for each in found} == {
        "ConnectionError": (True, 3),
        "Fail": (False, 2),
        "KeyError": (False, 1),
    }
    harness.client.operations.mend_cause(mine.digest, by="ann")
    assert not harness.client.operations.cause(mine.digest).has_returned


def test_what_is_said_of_a_cause_stands_beside_it(harness: Harness):
    play(harness)
    operations = harness.client.operations
    digest = operations.incidents(failed=False)[0].digest
    operations.note_cause(digest, "IAM is away", by="ann")
    operations.mute_cause(digest, by="bob")
    operations.note_cause(digest, "see OPS-17", by="carol")
    found = operations.cause(digest)
    assert (found.note, found.noted_by, found.muted_by) == ("see OPS-17", "carol", "bob")
    operations.mute_cause(digest, undo=True)
    assert operations.cause(digest).muted_at is None


def test_a_cause_that_comes_back_after_it_was_mended_says_so(harness: Harness):
    harness.freeze()
    hire = play(harness)
    operations = harness.client.operations
    (before,) = [each for each in operations.incidents() if each.failed == 3]
    harness.move(minutes=1)
    operations.mend_cause(before.digest, by="ann")
    assert not operations.cause(before.digest).has_returned
    harness.move(hours=48)
    harness.start(hire, {"how": "stage", "number": 9}, key="again")
    harness.drain()
    harness.recover(2)
    after = operations.cause(before.digest)
    assert (after.has_returned, after.runs_since_mended, after.runs) == (True, 1, 4)
    assert (after.mended_by, after.samples[0].name) == ("ann", "again")
    operations.mend_cause(before.digest, undo=True)
    assert not operations.cause(before.digest).has_returned


@pytest.mark.parametrize("verb", ["note", "mute", "mend"])
def test_of_a_cause_that_no_run_has_nothing_is_said(harness: Harness, verb):
    operations = harness.client.operations
    acts = {
        "note": lambda: operations.note_cause("abc", "x"),
        "mute": lambda: operations.mute_cause("abc"),
        "mend": lambda: operations.mend_cause("abc"),
    }
    with pytest.raises(PerennialError, match="no run has failed or is parked by a cause 'abc'"):
        acts[verb]()
    assert harness.database.value("SELECT count(*) FROM perennial.cause") == 0
