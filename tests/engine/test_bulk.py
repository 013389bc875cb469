"""One verb over many runs: the exact set that was previewed, each run once, however often the command dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from orchestrator import Flow, RunFilter, RunStatus, faults, process
from orchestrator.core.bulk import LineState, OperationState
from orchestrator.engine.operations import bulk, bulk_verbs
from orchestrator.engine.operations.bulk import Applying
from orchestrator.errors import PerennialError
from tests.harness import Harness
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="no worker has a part in it")

OF_P = RunFilter(process="p")


def waiting(harness: Harness, count: int) -> list[Any]:
    """Runs of `p` that wait, and one of another process."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.signal("go")

    @process(version=1, registry=harness.registry)
    async def other(flow: Flow) -> None:
        await flow.signal("go")

    harness.start(other, key="other")
    runs = [harness.start(p, key=f"k{number}") for number in range(count)]
    harness.drain()
    return runs


def statuses(harness: Harness) -> Counter[str]:
    return Counter(str(run.status) for run in harness.client.list(process="p"))


@pytest.fixture
def marking(monkeypatch: pytest.MonkeyPatch) -> str:
    """A verb whose effect is counted, and that raises no revision: nothing but the line says that it was done."""

    def mark(_context: Any, connection: Any, run_id: Any, asked: Any) -> str:
        connection.exec_driver_sql(
            "UPDATE perennial.run SET previous_stage = concat(previous_stage, 'x') WHERE id = %s",
            (run_id,),
        )
        return f"marked by {asked.by}"

    verb = replace(bulk_verbs.VERBS["pause"], name="mark", perform=mark)
    monkeypatch.setitem(bulk_verbs.VERBS, "mark", verb)
    return "mark"


def marks(harness: Harness) -> list[str | None]:
    return [
        row[0]
        for row in harness.database.rows(
            "SELECT previous_stage FROM perennial.run WHERE process = 'p' ORDER BY id"
        )
    ]


def at_it(harness: Harness, operation_id: Any, **others: Any) -> Applying:
    return Applying(harness.client._context, operation_id, "ann's", lambda _seconds: None, **others)


class Killed(BaseException):
    """The end of a process, as far as a test can have it in its own."""


@contextmanager
def dies_at(place: int) -> Iterator[list[str]]:
    """Everything is reached up to that place, and nothing from there on."""
    reached: list[str] = []

    def listener(when: str, what: str) -> None:
        reached.append(f"{when} {what}")
        if len(reached) > place:
            raise Killed

    faults.listen(listener)
    try:
        yield reached
    finally:
        faults.listen(None)


def test_a_preview_says_what_would_be_done_and_touches_no_run(harness: Harness):
    waiting(harness, 5)
    harness.client.operations.pause("k0")
    before = harness.database.rows("SELECT id, revision, status FROM perennial.run ORDER BY id")
    every = RunFilter(process="p", statuses=(RunStatus.WAITING, RunStatus.PAUSED))
    shown = harness.client.operations.bulk.preview("pause", every, by="ann")
    assert [(each.status, each.runs, each.samples) for each in shown.groups] == [
        ("waiting", 4, ("k1", "k2", "k3"))
    ]
    assert [(each.runs, each.reason) for each in shown.refused] == [
        (1, "it is paused, and pause acts on running or waiting")
    ]
    assert harness.client.operations.bulk.list() == []
    assert before == harness.database.rows(
        "SELECT id, revision, status FROM perennial.run ORDER BY id"
    )


def test_the_set_that_was_previewed_is_acted_on_and_no_other(harness: Harness):
    """A run that came to match since is not in it; one that has changed since is left alone, and says so."""
    runs = waiting(harness, 4)
    operations = harness.client.operations
    shown = operations.bulk.preview("cancel", OF_P, by="ann", reason="a test")
    harness.client.signal("k1", "go")
    harness.client.start("p", key="late")
    heard: list[tuple[int, int]] = []
    done = operations.bulk.apply(
        shown.digest,
        by="ann",
        reason="a test",
        progress=lambda at, of, _counts: heard.append((at, of)),
    )
    assert (done.state, dict(done.counts)) == (OperationState.FINISHED, {"done": 3, "skipped": 1})
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert statuses(harness) == {"cancelled": 3, "waiting": 1, "running": 1}
    results = operations.bulk.results(done.id)
    assert [(each.business_key, str(each.state)) for each in results] == [
        ("k0", "done"),
        ("k1", "skipped"),
        ("k2", "done"),
        ("k3", "done"),
    ]
    assert results[1].what == "it has changed since the preview, and is waiting now"
    assert operations.bulk.results(done.id, state=LineState.SKIPPED) == [results[1]]
    (ended,) = [entry for entry in harness.client.history(runs[0]) if entry.event == "cancelled"]
    assert ended.actor == f"ann ({done.id})"
    assert ended.detail["message"] == "a test"
    assert harness.client.get("other").status is RunStatus.WAITING


def test_each_verb_does_to_each_run_what_it_does_to_one(harness: Harness):
    waiting(harness, 3)
    operations = harness.client.operations.bulk

    def do(verb: str, asked: RunFilter = OF_P, **arguments: Any) -> Any:
        return operations.apply(operations.preview(verb, asked, **arguments).digest)

    for verb, stands in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert dict(do(verb).counts) == {"done": 3}
        assert statuses(harness) == {stands: 3}
    none = operations.preview("restart", OF_P)  # a run that was cancelled is meant by name alone
    assert (none.runs, none.refused) == ((), [])
    again = do("restart", RunFilter(process="p", statuses=(RunStatus.CANCELLED,)), version=1)
    assert dict(again.counts) == {"done": 3}
    assert statuses(harness) == {"cancelled": 3, "running": 3}
    (first, *_) = operations.results(again.id)
    assert str(harness.client.get("k0").id) == first.what


@pytest.mark.parametrize(
    ("verb", "asked", "why"),
    [
        ("cancel", RunFilter(), "cancel of which runs?"),
        ("explode", OF_P, "'explode' is no verb for many runs; there are cancel"),
        (
            "restart",
            RunFilter(process="p", statuses=(RunStatus.COMPLETED,)),
            "by their business key alone",
        ),
        ("cancel", RunFilter(key_prefix="k"), "more than 2 runs are meant"),
    ],
)
def test_a_preview_refuses_in_a_sentence(harness: Harness, monkeypatch, verb, asked, why):
    monkeypatch.setattr(bulk, "SELECTED_MAX", 2)
    waiting(harness, 3)
    with pytest.raises(PerennialError, match=why):
        harness.client.operations.bulk.preview(verb, asked)
    assert harness.database.value("SELECT count(*) FROM perennial.operation") == 0


def test_a_digest_is_of_one_preview_and_is_applied_once(harness: Harness):
    harness.freeze()
    waiting(harness, 2)
    operations = harness.client.operations.bulk
    shown = operations.preview("pause", OF_P)
    assert operations.preview("pause", OF_P).digest == shown.digest
    assert harness.database.value("SELECT count(*) FROM perennial.operation") == 1
    stale = r"no preview of \w+ has the digest"
    with pytest.raises(PerennialError, match=stale):
        operations.apply(shown.digest, verb="cancel")
    with pytest.raises(PerennialError, match=stale):
        operations.apply(shown.digest, verb="pause", asked=RunFilter(process="other"))
    with pytest.raises(PerennialError, match="between one run an hour"):
        operations.apply(shown.digest, rate_per_second=0)
    harness.move(hours=25)
    with pytest.raises(PerennialError, match="older than 24 hours"):
        operations.apply(shown.digest)
    assert statuses(harness) == {"waiting": 2}
    operations.apply(operations.preview("pause", OF_P).digest, verb="pause", asked=OF_P)
    assert harness.database.value("SELECT count(*) FROM perennial.operation") == 1
    for again in (
        lambda: operations.apply(shown.digest),
        lambda: operations.resume(operations.list()[0].id),
    ):
        with pytest.raises(PerennialError, match=r"no preview|is finished: nothing of it is left"):
            again()


def test_a_rate_is_kept(harness: Harness, monkeypatch):
    """So many a second and no more; what a slow run has held up is made up for, a second of it."""
    waiting(harness, 4)
    shown = harness.client.operations.bulk.preview("pause", OF_P)
    clock = [0.0]
    begun: list[float] = []
    monkeypatch.setattr(harness.client._context, "monotonic", lambda: clock[0])

    def let_pass(seconds: float) -> None:
        clock[0] += seconds

    def note(done: int, _of: int, _counts: Any) -> None:
        begun.append(clock[0])
        clock[0] += 100 if done == 2 else 0  # a slow one

    applying = at_it(harness, shown.operation_id)
    applying.pause, applying.progress = let_pass, note
    applying.go_on(by="ann", rate_per_second=0.05)
    assert begun == [0.0, 20.0, 120.0, 139.0]


def test_one_operator_is_at_an_operation_and_another_is_told_who(harness: Harness, marking):
    """Until the first is silent for the length of its lease. Guards hold_operation."""
    harness.freeze()
    waiting(harness, 3)
    shown = harness.client.operations.bulk.preview(marking, OF_P, by="ann")
    refusals: list[str] = []

    def another(done: int, _of: int, _counts: Any) -> None:
        if done == 2:
            harness.move(seconds=20)  # ann's stands still for longer than her lease
            assert dict(at_it(harness, shown.operation_id).go_on(by="bob").counts) == {"done": 3}
            return
        with pytest.raises(PerennialError) as refusal:
            at_it(harness, shown.operation_id).go_on(by="bob")
        refusals.append(str(refusal.value))

    done = at_it(harness, shown.operation_id, progress=another).go_on(by="ann")
    assert done.state is OperationState.FINISHED
    assert len(refusals) == 1
    assert "ann's is at operation" in refusals[0]
    assert marks(harness) == ["x"] * 3


def test_what_another_has_paused_or_stopped_goes_no_further(harness: Harness, marking):
    """The run that is being done is done. Guards take_line."""
    waiting(harness, 5)
    operations = harness.client.operations.bulk
    shown = operations.preview(marking, OF_P, by="ann")

    def at_two(do: Any) -> Any:
        return lambda done, _of, _counts: do(shown.operation_id) if done in (2, 4) else None

    paused = operations.apply(shown.digest, progress=at_two(operations.pause))
    assert (paused.state, dict(paused.counts)) == (OperationState.PAUSED, {"done": 2, "to do": 3})
    stopped = operations.resume(str(paused.id)[:30], progress=at_two(operations.stop))
    assert (stopped.state, dict(stopped.counts)) == (
        OperationState.STOPPED,
        {"done": 4, "to do": 1},
    )
    assert marks(harness) == ["x"] * 4 + [None]
    for verb in (operations.resume, operations.pause):
        with pytest.raises(PerennialError, match="is stopped"):
            verb(shown.operation_id)


def test_ctrl_c_lets_another_go_on_at_once(harness: Harness, marking):
    waiting(harness, 3)
    operations = harness.client.operations.bulk
    shown = operations.preview(marking, OF_P)

    def interrupt(*_told: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        operations.apply(shown.digest, progress=interrupt)
    (left,) = operations.list()
    assert (left.state, left.left) == (OperationState.PAUSED, 2)
    assert operations.resume(left.id).state is OperationState.FINISHED
    assert marks(harness) == ["x"] * 3


def test_wherever_its_command_dies_each_run_is_done_once(harness: Harness, marking):
    """At each place where a process may end, from its first word to its last; another command does the rest."""
    harness.freeze()
    waiting(harness, 2)
    operations = harness.client.operations.bulk
    with dies_at(10_000) as reached:
        whole = operations.preview(marking, OF_P)
        before = len(reached)
        at_it(harness, whole.operation_id).go_on(by="ann")
    assert {"before settle_line", "after take_line", "before transaction"} <= set(reached)
    places = range(len(reached) - before)
    for place in places:
        harness.database.rows("UPDATE perennial.run SET previous_stage = NULL")
        shown = operations.preview(marking, OF_P)
        with dies_at(place), pytest.raises(Killed):
            at_it(harness, shown.operation_id).go_on(by="ann")
        found = operations.get(shown.operation_id)
        if found.is_held:
            with pytest.raises(PerennialError, match="is at operation"):
                at_it(harness, shown.operation_id).go_on(by="bob")
            harness.move(seconds=20)
        if found.state is OperationState.RUNNING:
            assert operations.get(shown.operation_id).is_interrupted
        if found.state is not OperationState.FINISHED:
            at_it(harness, shown.operation_id).go_on(by="bob")
        assert marks(harness) == ["x"] * 2, f"at {reached[before + place]}"
        assert dict(operations.get(shown.operation_id).counts) == {"done": 2}


def test_a_run_in_two_operations_is_acted_on_by_the_first(harness: Harness):
    """Each acts by its fence: the second finds that the run has changed."""
    waiting(harness, 3)
    operations = harness.client.operations.bulk
    pause, cancel = (operations.preview(verb, OF_P) for verb in ("pause", "cancel"))

    def meanwhile(done: int, _of: int, _counts: Any) -> None:
        if done == 1:
            assert dict(operations.apply(cancel.digest).counts) == {"done": 2, "skipped": 1}

    assert dict(operations.apply(pause.digest, progress=meanwhile).counts) == {
        "done": 1,
        "skipped": 2,
    }
    assert statuses(harness) == {"paused": 1, "cancelled": 2}


def test_a_run_that_the_verb_or_postgres_refuses_stops_no_other(harness: Harness, monkeypatch):
    waiting(harness, 4)

    def perform(_context: Any, connection: Any, run_id: Any, _asked: Any) -> str:
        key = connection.exec_driver_sql(
            "SELECT business_key FROM perennial.run WHERE id = %s", (run_id,)
        ).scalar()
        if key == "k1":
            raise PerennialError("not this one")
        if key == "k2":
            connection.exec_driver_sql(
                "UPDATE perennial.run SET status = 'asleep' WHERE id = %s", (run_id,)
            )
        return "fine"

    monkeypatch.setitem(
        bulk_verbs.VERBS, "try", replace(bulk_verbs.VERBS["pause"], name="try", perform=perform)
    )
    operations = harness.client.operations.bulk
    done = operations.apply(operations.preview("try", OF_P).digest)
    told = [
        (str(each.state), each.what.splitlines()[0][:40]) for each in operations.results(done.id)
    ]
    assert told == [
        ("done", "fine"),
        ("refused", "not this one"),
        ("failed", 'new row for relation "run" violates chec'),
        ("done", "fine"),
    ]
    assert statuses(harness) == {"waiting": 4}


@pytest.mark.parametrize("reference", ["0", "nothing", "%"])
def test_an_operation_that_is_not_there_is_said_so(harness: Harness, reference):
    with pytest.raises(PerennialError, match="there is no operation"):
        harness.client.operations.bulk.get(reference)
