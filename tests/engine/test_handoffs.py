"""Handoffs: sent while a worker can take them, and nothing done is lost where one can't go on."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from orchestrator import Flow, Registry, Retry, RunStatus, load_process, process, stage
from orchestrator.core.definition import Process
from orchestrator.engine.fire import fire
from orchestrator.engine.stage import run_stage
from orchestrator.engine.sweep import sweep
from orchestrator.engine.turn import advance
from orchestrator.store.transitions import outbox
from orchestrator.store.transitions.outbox import RESEND_SECONDS_MAX
from tests.modes import SWEEPS_ONLY, all_but, modes_of


def test_a_paused_runs_handoffs_are_not_sent_again_and_again(harness):
    """A relay puts the handoffs of a run at rest off, since no claim could take them; to resume makes them
    due. A thousand parked runs cost no messages.
    """

    @stage(registry=harness.registry)
    def a() -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(a)

    harness.freeze()
    run = harness.start(p)
    advance(harness.context, run.run_id)
    harness.client.operations.pause(run)
    sent = 0
    for _ in range(12):
        harness.move(minutes=10)
        sent += len(harness.pending())
    assert sent <= 3
    harness.client.operations.resume(run)
    harness.drain()
    assert harness.status(run) is RunStatus.COMPLETED


@modes_of(*all_but(SWEEPS_ONLY), because="there every handoff counts as having waited")
def test_a_run_that_is_resumed_at_the_moment_a_relay_looks_is_not_put_off_for_ever(harness):
    """The relay doesn't lock the run: it may read `paused` just before a resume, and write just after it.
    What is left then is a run that moves, with a handoff that was put off. It comes back after the
    longest interval. Guards the last `CASE` in `_DUE`.
    """

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None: ...

    harness.freeze()
    run = harness.start(p)
    harness.client.operations.pause(run)
    assert not harness.pending()
    harness.database.rows(
        "UPDATE perennial.run SET status = 'running'"
    )  # the resume's, overwritten
    harness.move(seconds=RESEND_SECONDS_MAX - 1)
    assert not harness.pending()
    harness.move(seconds=1)
    harness.drain()
    assert harness.status(run) is RunStatus.COMPLETED


def test_a_stages_result_is_kept_when_its_worker_cannot_read_the_process(harness):
    """A worker of an older release may do a stage of a process whose definition it can't read. It
    records the end of the stage without a turn, and leaves that to a worker that can: work that
    is done is not done again.
    """

    done = []

    def registry_with(second: Any) -> Registry:
        registry = Registry()

        @stage(registry=registry, name="first", retry=Retry(delay_seconds=0))
        def first(value: int) -> int:
            done.append(value)
            return value

        stage(registry=registry, name="second")(second)
        return registry

    good = registry_with(lambda first: first)
    deployed = load_process("process:\n  name: p\n  stages: [first, second]\n", registry=good)
    old = registry_with(lambda first, of_another, release: None)
    harness.client.processes.deploy(deployed)
    run = harness.client.start("p", 1)
    advance(harness.worker("good", registry=good), run.run_id)
    old_worker = harness.worker("old", registry=old)
    with contextlib.suppress(Exception):
        run_stage(old_worker, run.run_id, "first", 1)
    state = harness.database.value("SELECT state FROM perennial.activity WHERE key = 'first'")
    assert state == "done"


def test_a_run_at_rest_keeps_no_other_runs_handoff_back(harness):
    """A relay takes due handoffs batch by batch, until a batch is not full. Those of runs at rest
    count into it, though they are put off and not sent: else a batch that holds one, here the
    only one of its batch, would end the round, and what is due behind it would wait for the next.
    """

    @stage(registry=harness.registry)
    def a() -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(a)

    harness.freeze()
    rests, moves = harness.start(p), harness.start(p)
    for run in (rests, moves):
        advance(harness.context, run.run_id)
        harness.move(seconds=1)
    harness.client.operations.pause(rests)
    harness.messenger.handed_off.clear()
    harness.move(minutes=1)
    harness.relay_all()
    assert [handoff.run_id for handoff in harness.messenger.handed_off] == [moves.run_id]


# -- what is left for a turn or an attempt, and whose message is lost -----------------------------


def listens(harness: Any) -> Process:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        return await flow.signal("go")

    return p


def works(harness: Any, **options: Any) -> Process:
    """Its stage dies with its worker, or fails, at the first attempt."""
    tries: list[int] = []

    @stage(registry=harness.registry, **options)
    def work(first: str) -> str:
        tries.append(1)
        if len(tries) == 1 and first == "dies":
            raise SystemExit
        if len(tries) == 1 and first == "fails":
            raise ConnectionError
        return "done"

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, first: str) -> str:
        return await flow.stage(work, first)

    return p


def started(harness: Any) -> Any:
    return harness.start(listens(harness)), RunStatus.WAITING


def handed_on_by_a_turn(harness: Any) -> Any:
    run = harness.start(works(harness), "works")
    advance(harness.context, run.run_id)
    return run, RunStatus.COMPLETED


def signalled(harness: Any) -> Any:
    run = harness.run(listens(harness))
    harness.client.signal(run, "go")
    return run, RunStatus.COMPLETED


def decided(harness: Any) -> Any:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        return (await flow.approval("m", assign=["bob"])).outcome

    run = harness.run(p)
    harness.client.approve(run, by="bob")
    return run, RunStatus.COMPLETED


def settled_without_a_turn(harness: Any) -> Any:
    """By a worker that has the stage, and lacks the process."""
    run = harness.start(works(harness), "works")
    advance(harness.context, run.run_id)
    stages = Registry()
    stages.add_stage(harness.registry.stage("work"))
    run_stage(harness.worker("lacks the process", registry=stages), run.run_id, "work", 1)
    return run, RunStatus.COMPLETED


def counted_down(harness: Any) -> Any:
    """By a worker that has the stage, and lacks the process: the last of those that the flow waits for."""
    stages = Registry()

    @stage(registry=harness.registry)
    def part(n: int) -> int:
        return n

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[int]:
        return await flow.gather(flow.stage(part, 1, key="a"), flow.stage(part, 2, key="b"))

    stages.add_stage(part)
    run = harness.start(p)
    advance(harness.context, run.run_id)
    for key in ("a", "b"):
        run_stage(harness.worker(f"lacks {key}", registry=stages), run.run_id, key, 1)
    return run, RunStatus.COMPLETED


def woken_by_a_timer(harness: Any) -> Any:
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.sleep(60)

    run = harness.run(p)
    harness.move(seconds=60)
    (timer_id,) = harness.due_timers()
    assert fire(harness.context, timer_id)
    return run, RunStatus.COMPLETED


def due_for_a_retry(harness: Any) -> Any:
    run = harness.run(works(harness, retry=Retry(delay_seconds=60, jitter=0)), "fails")
    harness.move(seconds=60)
    (timer_id,) = harness.due_timers()
    assert fire(harness.context, timer_id)
    return run, RunStatus.COMPLETED


def lost_with_its_worker(harness: Any) -> Any:
    run = harness.start(works(harness), "dies")
    with pytest.raises(SystemExit):
        harness.drain()
    harness.move(seconds=7)
    assert sweep(harness.context).attempts_recovered == 1
    return run, RunStatus.COMPLETED


def overrun_at_the_last_attempt(harness: Any) -> Any:
    once = works(harness, retry=Retry(max_attempts=1), timeout_seconds=60)
    run = harness.start(once, "dies")
    with pytest.raises(SystemExit):
        harness.drain()
    harness.move(seconds=71)
    assert sweep(harness.context).attempts_recovered == 1
    return run, RunStatus.FAILED


@pytest.mark.parametrize(
    "action",
    [
        started,
        handed_on_by_a_turn,
        signalled,
        decided,
        settled_without_a_turn,
        counted_down,
        woken_by_a_timer,
        due_for_a_retry,
        lost_with_its_worker,
        overrun_at_the_last_attempt,
    ],
    ids=lambda action: action.__name__,
)
def test_an_action_whose_message_is_lost_is_followed_all_the_same(harness, action):
    """Whatever moves a run leaves its handoff in the outbox, in the transaction of the action itself.
    The message may be lost with the one that was to send it: a relay sends it later.
    """
    harness.freeze()
    run, comes_to = action(harness)
    harness.messenger.handed_off.clear()
    harness.recover(1)
    assert harness.status(run) is comes_to


def test_a_message_that_is_lost_again_and_again_is_sent_again(harness):
    """A relay doesn't delete what it sends, it puts it off: only who takes it deletes it."""
    harness.freeze()
    run = harness.start(listens(harness))
    for _ in range(3):
        assert [handoff.run_id for handoff in harness.pending()] == [run.run_id]  # and lost
        harness.move(minutes=1)
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING


def test_a_message_that_comes_while_its_run_is_resumed_does_not_take_the_handoff(harness):
    """The claim finds the run paused, and does nothing. The run is resumed at that very moment, and
    its stage handed off anew: that handoff isn't stale, and must not be deleted as if it were.
    """
    harness.freeze()
    run = harness.start(works(harness), "works")
    advance(harness.context, run.run_id)
    harness.messenger.handed_off.clear()
    harness.client.operations.pause(run)
    with pytest.MonkeyPatch.context() as patch:
        forget = outbox.forget_handoff_if_stale

        def resumed_before(*args: Any) -> None:
            harness.client.operations.resume(run)
            forget(*args)

        patch.setattr(outbox, "forget_handoff_if_stale", resumed_before)
        run_stage(harness.context, run.run_id, "work", 1)
    harness.drain()
    assert harness.status(run) is RunStatus.COMPLETED


# -- a queue that is long anyway ------------------------------------------------------------------


def sent_in_a_row(harness: Any, *, backlog: int) -> list[bool]:
    """Whether each of seven relays, each late enough, sends the one handoff there is."""
    harness.freeze()
    harness.start(listens(harness))
    harness.messenger.backlog_of = lambda _queue: backlog
    sent = []
    for _ in range(7):
        sent.append(bool(harness.pending()))
        harness.move(minutes=10)
    return sent


def test_a_long_queue_is_not_made_longer_and_yet_nothing_lost_on_it_is_lost_for_ever(harness):
    """What was sent most likely still stands in the queue. Where it was lost there, it is sent
    again at the sixth time, whatever the queue's length.
    """
    assert sent_in_a_row(harness, backlog=1000) == [True, *[False] * 5, True]


def test_on_a_short_queue_a_handoff_is_sent_each_time(harness):
    assert sent_in_a_row(harness, backlog=50) == [True] * 7


# -- a worker that lacks something -----------------------------------------------------------------


def test_a_worker_that_lacks_a_stage_leaves_the_run_to_one_that_has_it(harness):
    """Rule 8: the flow is the same, and asks for a stage that an older worker doesn't have. Nothing
    of that turn is recorded, and the `advance` stays.
    """

    async def flow_of_the_release(flow: Flow) -> str:
        return await flow.stage("new")

    old = Registry()
    process(version=1, registry=old, name="p")(flow_of_the_release)
    p = process(version=1, registry=harness.registry, name="p")(flow_of_the_release)

    @stage(registry=harness.registry)
    def new() -> str:
        return "done"

    harness.freeze()
    run = harness.start(p)
    advance(harness.worker("old", registry=old), run.run_id)
    assert harness.status(run) is RunStatus.RUNNING
    assert "left for another worker" in harness.events(run)
    harness.recover(1)
    assert harness.client.result(run) == "done"
