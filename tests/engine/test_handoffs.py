"""Handoffs: sent while a worker can take them, and nothing done is lost where one can't go on."""

from __future__ import annotations

import contextlib
from typing import Any

from orchestrator import Flow, Registry, Retry, RunStatus, load_process, process, stage
from orchestrator.engine.stage import run_stage
from orchestrator.engine.turn import advance
from orchestrator.store.outbox import RESEND_SECONDS_MAX
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
    harness.client.pause(run)
    sent = 0
    for _ in range(12):
        harness.move(minutes=10)
        sent += len(harness.pending())
    assert sent <= 3
    harness.client.resume(run)
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
    harness.client.pause(run)
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
    harness.client.deploy(deployed)
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
    harness.client.pause(rests)
    harness.messenger.handed_off.clear()
    harness.move(minutes=1)
    harness.relay_all()
    assert [handoff.run_id for handoff in harness.messenger.handed_off] == [moves.run_id]
