"""What a long stage says of itself is there at its next attempt, is seen by people, and is written now and then."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest
from rich.console import Console

from orchestrator import (
    ActivityFailed,
    DefinitionError,
    Flow,
    Retry,
    RunStatus,
    heartbeat,
    last_heartbeat,
    process,
    stage,
)
from orchestrator.cli.run_page import run_page
from orchestrator.cli.times import Clock
from orchestrator.core.durations import minutes
from orchestrator.engine import stage_heartbeats
from orchestrator.engine.stage import run_stage
from orchestrator.engine.stage_steps import AttemptLost
from orchestrator.engine.sweep import sweep
from orchestrator.engine.turn import advance
from orchestrator.store.transitions import workers
from tests.modes import NORMAL, TWICE, modes_of

AGAIN = Retry(max_attempts=2, delay_seconds=0)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The details that are written, one for each statement."""
    found: list[str] = []
    write = stage_heartbeats.beat_attempt_if_claimed

    def note(*arguments: Any, details: str) -> bool:
        found.append(details)
        return write(*arguments, details=details)

    monkeypatch.setattr(stage_heartbeats, "beat_attempt_if_claimed", note)
    return found


def of_one_stage(harness: Any, function: Any, name: str = "copy", **options: Any) -> Any:
    made = stage(name=name, registry=harness.registry, retry=AGAIN, **options)(function)

    @process(version=1, name=f"of-{name}", registry=harness.registry)
    async def p(flow: Flow) -> Any:
        try:
            return await flow.stage(made)
        except ActivityFailed as error:
            return f"{error.error_type}: {error.message}"

    return p


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_the_next_attempt_finds_how_far_the_one_before_has_come(harness, written, kind):
    """The first is written at once, the others now and then, the last when the attempt fails."""
    harness.context.monotonic = lambda: 1000.0
    found: list[Any] = []

    def copy() -> int:
        found.append(last_heartbeat())
        start = (last_heartbeat() or {}).get("done", 0)
        for number in range(start, 100):
            heartbeat({"done": number + 1})
            assert last_heartbeat(dict[str, int]) == {"done": number + 1}
            if number == 59:
                raise ConnectionError("away")
        return start

    async def copy_on_the_loop() -> int:
        return copy()

    run = harness.run(
        of_one_stage(harness, copy if kind == "def" else copy_on_the_loop, heartbeat_seconds=60)
    )
    assert harness.client.result(run) == 60
    assert found == [None, {"done": 60}]
    assert '{"done":60}' in written
    assert len(written) <= 4
    if kind == "def":
        assert written == ['{"done":1}', '{"done":60}', '{"done":61}']
    harness.assert_ended_cleanly(run)


def test_details_are_written_as_often_as_a_timeout_needs_it(harness, written):
    at = iter(range(1, 1000))
    harness.context.monotonic = lambda: float(next(at))

    def copy() -> None:
        for number in range(30):
            heartbeat(number)

    harness.run(of_one_stage(harness, copy, heartbeat_seconds=minutes(1)))
    assert 4 <= len(written) <= 7, "every five of thirty seconds"


@modes_of(NORMAL, TWICE, because="a stage that is looked at while it is at work")
def test_people_see_how_far_a_stage_has_come(harness):
    seen: list[str] = []

    def copy() -> None:
        heartbeat({"done": 40, "of": 100})
        harness.move(seconds=2)
        view = harness.client.get(run)
        (wait,) = view.waits
        assert wait.heartbeat == {"done": 40, "of": 100}
        console = Console(width=200)
        with console.capture() as captured:
            console.print(run_page(view, Clock(harness.now, UTC)))
        seen.append(" ".join(captured.get().split()))

    harness.freeze()
    run = harness.start(of_one_stage(harness, copy, heartbeat_seconds=60))
    harness.drain()
    assert 'at work; its last heartbeat 2 s ago: {"of": 100, "done": 40}' in seen[0]
    assert "Next this attempt has failed, unless a heartbeat comes in 58 s" in seen[0]


@modes_of(NORMAL, because="its messages are lost anyway")
@pytest.mark.parametrize("attempts", [1, 2])
def test_a_stage_that_says_nothing_for_too_long_has_failed_that_attempt(harness, attempts):
    """Its worker lives and beats: it hangs. Its own late heartbeat finds that the attempt is not its any more."""
    ends: list[str] = []
    found: list[Any] = []
    at = iter(range(0, 1000, 10))
    harness.context.monotonic = lambda: float(next(at))

    def silent() -> None:
        identity = harness.context.identity
        harness.move(seconds=29)
        heartbeat("half")
        harness.move(seconds=29)
        with harness.context.connection() as connection:
            workers.beat(connection, identity.leased_ids(), name=identity.name, pid=1)
        assert sweep(harness.worker("worker-2")).attempts_recovered == 0
        harness.move(seconds=1)
        assert sweep(harness.worker("worker-2")).attempts_recovered == 1

    def copy() -> str:
        found.append(last_heartbeat())
        if len(found) > 1:
            return "copied"
        silent()
        try:
            heartbeat("too late")
        except AttemptLost:
            ends.append("lost")
            raise
        return "not seen"

    made = stage(
        name="copy",
        registry=harness.registry,
        retry=Retry(max_attempts=attempts, delay_seconds=0),
        heartbeat_seconds=30,
    )(copy)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        try:
            return await flow.stage(made)
        except ActivityFailed as error:
            return f"{error.error_type}: {error.message}"

    harness.freeze()
    run = harness.start(p)
    advance(harness.context, run.run_id)
    run_stage(harness.context, run.run_id, "copy", 1)
    assert ends == ["lost"]
    harness.recover()
    if attempts == 1:
        assert harness.client.result(run) == (
            "HeartbeatTimedOut: attempt 1 of copy gave no heartbeat for 30 s"
        )
    else:
        assert harness.client.result(run) == "copied"
        assert found == [None, "half"]


@modes_of(NORMAL, because="it is about what is refused")
def test_what_a_heartbeat_is_given_wrongly_is_refused_in_words(harness):
    for name, details, words in (
        ("long", "x" * 4001, "may have 4000"),
        ("other", object(), "details of a heartbeat"),
    ):
        run = harness.run(of_one_stage(harness, lambda details=details: heartbeat(details), name))
        assert words in harness.client.result(run)
    with pytest.raises(DefinitionError, match="must be positive"):
        of_one_stage(harness, lambda: None, heartbeat_seconds=0)


@modes_of(NORMAL, because="it is about what is refused")
def test_a_flow_has_no_heartbeat_and_outside_of_a_run_there_is_none(harness):
    with pytest.raises(DefinitionError, match="calls heartbeat itself"):

        @process(version=1, registry=harness.registry)
        async def says(flow: Flow) -> None:
            heartbeat(1)

    looks = last_heartbeat

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.sleep(0)
        [look() for look in (looks,)]

    run = harness.run(p)
    assert harness.status(run) is RunStatus.INCIDENT
    assert "calls last_heartbeat itself" in harness.client.get(run).error["message"]
    heartbeat({"done": 1})
    assert last_heartbeat() is None
