"""`retry`: a run that failed, or an incident, goes on from where it stopped; what is done is not done again."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from orchestrator import Fail, Flow, Retry, RunStatus, hours, process, stage, step
from orchestrator.engine.sweep import sweep
from orchestrator.errors import (
    ActivityFailed,
    InvalidInput,
    OperationRefused,
    RunNotFound,
    SignalTimedOut,
    StalePreview,
)
from tests.harness import Harness
from tests.modes import NORMAL, TWICE, modes_of


class World:
    """What stages do, and what of it fails."""

    def __init__(self, harness: Harness) -> None:
        self.calls: Counter[str] = Counter()
        self.fails: set[str] = set()
        self.got: list[Any] = []
        world = self

        def call(name: str) -> str:
            world.calls[name] += 1
            if name in world.fails:
                raise ConnectionError(f"{name} is away")
            return name

        @stage(registry=harness.registry, retry=Retry(max_attempts=2, delay_seconds=0))
        def before(value: int) -> str:
            world.got.append(value)
            return call("before")

        @stage(registry=harness.registry, retry=Retry(max_attempts=2, delay_seconds=0))
        def shaky(value: int) -> str:
            step(call, "step-in-shaky")
            world.got.append(value)
            return call("shaky")

        @stage(registry=harness.registry, retry=Retry(max_attempts=1))
        def other() -> str:
            return call("other")

        @stage(registry=harness.registry)
        def after() -> str:
            return call("after")

        self.before, self.shaky, self.other, self.after = before, shaky, other, after
        self.call = call


@pytest.fixture
def world(harness: Harness) -> World:
    return World(harness)


@pytest.fixture
def line(harness: Harness, world: World) -> Any:
    @process(version=1, registry=harness.registry)
    async def line(flow: Flow, value: int) -> str:
        await flow.stage(world.before, value)
        await flow.stage(world.shaky, value)
        return await flow.stage(world.after)

    return line


def amend(harness: Harness, definition: Any) -> None:
    """Its content is the second revision of its version, as `deploy --amend` leaves it."""
    harness.database.rows(
        "UPDATE perennial.process SET fingerprint = :print, code_revision = 2 WHERE name = :name",
        print=definition.fingerprint,
        name=definition.name,
    )
    harness.database.rows(
        "INSERT INTO perennial.process_revision (process, version, code_revision, fingerprint, kind, spec)"
        " SELECT name, version, 2, fingerprint, kind, spec FROM perennial.process WHERE name = :name",
        name=definition.name,
    )


def preview_of(client: Any, run: Any) -> Any:
    return client.operations.retry(run, dry_run=True).preview


def test_a_failed_run_goes_on_from_where_it_failed(harness, world, line):
    """Same run, same key; what was done, steps within the failed stage too, is not done again."""
    world.fails = {"shaky"}
    run = harness.run(line, 1, key="k")
    assert harness.status(run) is RunStatus.FAILED
    assert world.calls == {"before": 1, "step-in-shaky": 1, "shaky": 2}
    preview = preview_of(harness.client, run)
    assert preview.goes_on == (
        "stage shaky is asked for anew; it failed after 2 attempt(s): ConnectionError",
    )
    assert preview.notes == (
        "1 step(s) done within what failed are remembered, and not called again",
    )
    result = harness.client.operations.retry(
        run, by="ann", reason="the partner is back", digest=preview.digest
    )
    assert (result.is_applied, harness.status(run)) == (True, RunStatus.RUNNING)
    harness.drain()
    assert harness.status(run) is RunStatus.FAILED, "it is away still"
    assert world.calls == {"before": 1, "step-in-shaky": 1, "shaky": 4}, (
        "with a fresh set of attempts"
    )
    world.fails.clear()
    harness.client.operations.retry(run, by="ann")
    harness.drain()
    assert harness.client.result(run) == "after"
    assert world.calls == {"before": 1, "step-in-shaky": 1, "shaky": 5, "after": 1}
    assert harness.client.get(run).business_key == "k"
    harness.assert_ended_cleanly(run)
    retried = [each for each in harness.client.history(run) if each.event == "retried"]
    assert [(each.actor, each.from_status, each.to_status) for each in retried] == [
        ("ann", "failed", "running")
    ] * 2
    assert retried[0].detail == {"reason": "the partner is back", "again": ["shaky"]}
    left = [each for each in harness.client.history(run) if each.event == "left the journal"]
    assert [(each.key, each.attempt, each.detail["state"]) for each in left] == [
        ("shaky", 2, "failed"),
        ("shaky", 4, "failed"),
    ]


@modes_of(NORMAL, because="a stale message is a stale message")
def test_attempts_of_before_reach_nothing(harness, world, line):
    """Attempts go on: a worker that comes back with an old one, and a message of one, find it gone."""
    world.fails = {"shaky"}
    run = harness.run(line, 1)
    harness.client.operations.retry(run)
    harness.drain()
    rows = harness.database.rows(
        "SELECT attempt, policy ->> 'attempts_before' AS before FROM perennial.activity WHERE key = 'shaky'"
    )
    assert [tuple(row) for row in rows] == [(4, "2")]
    from orchestrator.engine.stage import run_stage

    calls = world.calls["shaky"]
    harness.client.operations.retry(run)
    harness.relay_all()
    for attempt in (1, 2, 3, 4):
        run_stage(harness.context, run.run_id, "shaky", attempt)
    assert world.calls["shaky"] == calls


def test_of_a_gather_all_that_failed_is_asked_for_anew(harness, world):
    """And what its siblings came to stands: an approval that was given is not asked for again."""

    @process(version=1, registry=harness.registry)
    async def many(flow: Flow) -> list[Any]:
        return await flow.gather(
            flow.stage(world.shaky, 1),
            flow.stage(world.after),
            flow.approval("m", assign=["bob"]),
            flow.stage(world.other),
        )

    world.fails = {"shaky", "other"}
    run = harness.run(many)
    assert harness.status(run) is RunStatus.WAITING, "the siblings are waited for"
    harness.client.approve(run, by="bob")
    harness.drain()
    assert harness.status(run) is RunStatus.FAILED
    preview = preview_of(harness.client, run)
    assert [each.split()[1] for each in preview.goes_on] == ["shaky", "other"]
    world.fails = {"other"}
    harness.client.operations.retry(run)
    harness.drain()
    assert (world.calls["shaky"], world.calls["other"], world.calls["after"]) == (3, 2, 1)
    world.fails = set()
    harness.client.operations.retry(run)
    harness.drain()
    assert harness.client.result(run)[:2] == ["shaky", "after"]
    assert (world.calls["shaky"], world.calls["other"], world.calls["after"]) == (3, 3, 1)
    assert harness.events(run).count("approval asked") == 1


@modes_of(NORMAL, TWICE, because="the clock is moved")
def test_what_was_open_as_the_run_failed_is_asked_for_anew(harness, world):
    """An approval that nobody awaited yet, and a stage at rest: with its times in full."""

    @process(version=1, registry=harness.registry)
    async def sides(flow: Flow) -> bool:
        open_one = flow.approval(
            "m", assign=["bob"], timeout=hours(2), escalate={hours(1): ["eve"]}
        )
        sleeps = flow.sleep(hours(3))
        await flow.stage(world.shaky, 1)
        await sleeps
        return (await open_one).approved

    harness.freeze()
    world.fails = {"shaky"}
    run = harness.run(sides)
    assert harness.status(run) is RunStatus.FAILED
    harness.assert_ended_cleanly(run)
    harness.move(days=2)
    world.fails = set()
    harness.client.operations.retry(run)
    harness.drain()
    (approval,) = harness.client.approvals(assignee="bob")
    assert approval.deadline == harness.now + timedelta(hours=2)
    harness.move(hours=1.5)
    harness.drain()
    harness.client.approve(run, by="eve", edition=approval.edition)
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING
    harness.move(hours=2)
    harness.drain()
    assert harness.client.result(run) is True
    assert world.calls["step-in-shaky"] == 1
    harness.assert_ended_cleanly(run)


@modes_of(NORMAL, because="what is refused is the same in all")
class TestRefusals:
    def test_each_says_what_to_do_instead(self, harness, world, line):
        retry = harness.client.operations.retry
        run = harness.start(line, 1)
        with pytest.raises(OperationRefused, match="goes on by itself"):
            retry(run)
        harness.client.operations.pause(run)
        with pytest.raises(OperationRefused, match="`perennial resume RUN`"):
            retry(run)
        harness.client.cancel(run)
        with pytest.raises(OperationRefused, match=r"is cancelled.*`perennial restart RUN`"):
            retry(run)
        with pytest.raises(OperationRefused, match=r"is completed.*--even-if-completed"):
            retry(harness.run(line, 1))
        with pytest.raises(RunNotFound):
            retry(str(run.run_id).replace("0", "1"))
        harness.database.rows("DELETE FROM perennial.outbox")

    def test_a_run_that_was_started_anew_is_not_doubled(self, harness, world, line):
        world.fails = {"shaky"}
        run = harness.run(line, 1, key="k")
        new = harness.client.operations.restart(run)
        with pytest.raises(OperationRefused, match=f"started anew as {new.run_id}"):
            harness.client.operations.retry(run)

    def test_a_flow_that_raises_itself_would_again(self, harness, world):
        @process(version=1, registry=harness.registry)
        async def p(flow: Flow) -> None:
            await flow.stage(world.before, 1)
            raise Fail("never")

        run = harness.run(p)
        with pytest.raises(OperationRefused, match=r"raises it itself.*Fail: never.*rewind"):
            harness.client.operations.retry(run)

        harness.registry.processes.clear()

        @process(version=1, name="p", registry=harness.registry)
        async def mended(flow: Flow) -> str:
            return await flow.stage(world.before, 1)

        amend(harness, mended)
        preview = preview_of(harness.client, run)
        assert preview.notes[-1] == "it goes on with revision 2 of its version"
        harness.client.operations.retry(run)
        harness.drain()
        assert harness.client.result(run) == "before"
        assert world.calls["before"] == 1

    def test_what_the_flow_did_after_the_failure_is_for_rewind(self, harness, world):
        @process(version=1, registry=harness.registry)
        async def p(flow: Flow) -> None:
            try:
                await flow.stage(world.shaky, 1)
            except ActivityFailed:
                await flow.stage(world.after)
                raise

        world.fails = {"shaky"}
        run = harness.run(p)
        with pytest.raises(OperationRefused, match="`perennial rewind RUN --to shaky`"):
            harness.client.operations.retry(run)

    def test_a_run_whose_time_is_over_needs_more(self, harness, world, line):
        harness.freeze()
        world.fails = {"shaky"}
        run = harness.run(line, 1, expires_in=hours(1))
        harness.move(hours=2)
        with pytest.raises(OperationRefused, match="would expire at once"):
            harness.client.operations.retry(run)
        harness.client.operations.retry(run, expires_in=hours(1))
        harness.move(hours=2)
        harness.drain()
        assert harness.status(run) is RunStatus.EXPIRED
        with pytest.raises(OperationRefused, match="is expired"):
            harness.client.operations.retry(run)

    def test_a_stale_preview_and_a_second_operation_do_nothing(self, harness, world, line):
        world.fails = {"shaky"}
        run = harness.run(line, 1)
        preview = preview_of(harness.client, run)
        first = harness.client.operations.retry(run, operation="op-1", digest=preview.digest)
        again = harness.client.operations.retry(run, operation="op-1", digest=preview.digest)
        assert (first.is_applied, again.is_applied) == (True, False)
        harness.drain()
        assert harness.client.operations.retry(run, operation="op-1").is_applied is False
        with pytest.raises(StalePreview) as refused:
            harness.client.operations.retry(run, digest=preview.digest)
        now = preview_of(harness.client, run)
        assert refused.value.digest == now.digest
        assert harness.events(run).count("retried") == 1


def test_another_input_other_arguments_another_version(harness, world, line):
    world.fails = {"shaky"}
    by_arguments, by_version = harness.run(line, 1), harness.run(line, 2)
    retry = harness.client.operations.retry
    with pytest.raises(InvalidInput):
        retry(by_arguments, input="three")
    with pytest.raises(OperationRefused, match="would not go on with that input"):
        retry(by_arguments, input=3)
    with pytest.raises(OperationRefused, match="version 2 is not deployed"):
        retry(by_version, version=2)

    @process(version=2, name="line", registry=harness.registry, queue="new")
    async def other(flow: Flow, value: int) -> str:
        await flow.stage(world.before, value)
        return await flow.stage(world.after)

    @process(version=3, name="line", registry=harness.registry)
    async def unlike(flow: Flow, value: int) -> str:
        return await flow.stage(world.after)

    harness.client.processes.deploy(other, unlike)
    with pytest.raises(OperationRefused, match="would not go on with version 3"):
        retry(by_version, version=3)
    world.fails.clear()
    retry(by_arguments, arguments={"value": 30})
    retry(by_version, version=2)
    harness.drain()
    assert harness.client.result(by_arguments) == harness.client.result(by_version) == "after"
    assert 30 in world.got
    moved = harness.client.get(by_version)
    assert (moved.version, moved.queue) == (2, "new")


@modes_of(NORMAL, because="time and a signal")
def test_a_signal_that_did_not_come_in_time_is_waited_for_again(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        return await flow.signal("go", timeout=hours(1))

    harness.freeze()
    run = harness.run(p)
    harness.move(hours=2)
    harness.drain()
    assert harness.client.get(run).error["type"] == SignalTimedOut.__name__
    harness.client.operations.retry(run)
    harness.drain()
    harness.client.signal(run, "go", 7)
    harness.drain()
    assert harness.client.result(run) == 7


@modes_of(NORMAL, because="the journal is read alone")
def test_without_the_code_at_hand_the_journal_says_what_failed(harness, world, line):
    """As a program without the stages sees it: it goes on, and a version or what can't be known is refused."""
    from orchestrator import Client, Registry

    world.fails = {"shaky"}
    run = harness.run(line, 1)
    with Client(harness.settings, registry=Registry()) as bare:
        harness.database.adopt(bare._context.database)
        preview = preview_of(bare, run)
        assert [each.split()[1] for each in preview.goes_on] == ["shaky"]
        assert "not at hand" in preview.notes[0]
        with pytest.raises(OperationRefused, match="not at hand"):
            bare.operations.retry(run, version=1)
        world.fails.clear()
        bare.operations.retry(run)
    harness.drain()
    assert harness.client.result(run) == "after"
    assert world.calls["before"] == 1


@modes_of(NORMAL, because="a worker is lost in one way")
def test_an_incident_goes_on_with_all_its_attempts(harness):
    """Where `resume` makes one attempt more: a worker was lost, and what allows two attempts gets two."""
    tries: list[int] = []

    @stage(registry=harness.registry, retry=Retry(max_attempts=2, delay_seconds=0))
    def kills() -> str:
        tries.append(1)
        if len(tries) <= 3:
            raise SystemExit
        return "lived"

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        return await flow.stage(kills)

    harness.freeze()
    run = harness.start(p)

    def lose() -> None:
        with pytest.raises(SystemExit):
            harness.drain()
        harness.move(minutes=1)
        sweep(harness.context)

    lose()
    lose()
    assert harness.status(run) is RunStatus.INCIDENT
    preview = preview_of(harness.client, run)
    assert preview.goes_on == (
        "stage kills is tried again, with all the attempts that its retries allow",
    )
    harness.client.operations.retry(run, by="ann")
    lose()
    assert harness.status(run) is RunStatus.RUNNING, "with `resume` it would be parked again"
    harness.drain()
    assert harness.client.result(run) == "lived"
    harness.assert_ended_cleanly(run)
