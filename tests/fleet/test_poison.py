"""Poison on a real fleet: a clear state for whoever is poisoned, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.core.run import RunStatus
from orchestrator.core.views import RunView, Started
from tests.fleet.harness import Fleet


@pytest.fixture
def fleet(fleet: Fleet) -> Iterator[Fleet]:
    """With the poisonous stages beside the others."""
    from tests.fleet import poison  # as late as `tests.fleet.app`, which reads the environment

    fleet.app = poison.__name__
    fleet.client.processes.deploy(*poison.registry.processes.values())
    return fleet


def goes_on(fleet: Fleet) -> None:
    """Another run goes through its stage, and comes to its wait."""
    fleet.wait_until_waiting(fleet.client.start("patient", "somebody else"))


def wait_until_parked(fleet: Fleet, run: Started) -> RunView:
    fleet.wait_for(
        f"{run} to be parked", lambda: fleet.client.get(run).status is RunStatus.INCIDENT
    )
    return fleet.client.get(run)


def test_a_stage_that_always_crashes_its_process_is_parked_with_the_last_exit_reason(
    fleet: Fleet,
) -> None:
    """The parent of the process that died sees how, and notes it. The attempts are used up one by one, each
    by the same recovery as ever, and the incident says what an operator needs. Guards `child_exits.ChildExits`.
    """
    fleet.start_worker(pool="prefork")
    reasons = {"exit": "exitcode 3", "kill": "signal 9 (SIGKILL)"}
    runs = {how: fleet.client.start("crashing", how) for how in reasons}
    goes_on(fleet)
    for how, reason in reasons.items():
        view = wait_until_parked(fleet, runs[how])
        assert view.error is not None
        assert view.error["type"] == "WorkerLost"
        assert view.error["activity"] == "crash"
        assert view.error["message"] == (
            f"the worker of attempt 3 of crash died ({reason}). "
            "Its retries allow no other: mend crash, then resume, which makes one attempt more"
        )
        history = fleet.client.history(runs[how])
        noted = [entry for entry in history if entry.event == "worker exited"]
        assert [(entry.attempt, entry.detail["reason"]) for entry in noted] == [
            (attempt, reason) for attempt in (1, 2, 3)
        ]
    goes_on(fleet)


def test_a_step_that_kills_its_worker_leaves_word_of_how_it_ended(fleet: Fleet) -> None:
    """The same for a turn: whoever frees it from its dead holder says what the parent saw."""
    fleet.start_worker(pool="prefork")
    run = fleet.client.start("crashing-turn", "exit")
    goes_on(fleet)

    def freed() -> list[str]:
        return [
            entry.detail["message"]
            for entry in fleet.client.history(run)
            if entry.event == "turn freed"
        ]

    fleet.wait_for("the turn to be freed", freed)
    assert freed()[0] == "the worker that held the turn died (exitcode 3)"
    goes_on(fleet)


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_stage_that_ignores_its_timeout_fails_in_time_and_its_late_result_is_refused(
    fleet: Fleet, pool: str
) -> None:
    """Prefork interrupts it, in vain, and then kills it. Solo can do neither: there the sweep settles the
    attempt, and the stage goes on for nobody. Either way the run ends, and says why.
    """
    fleet.extra_environment = {"PERENNIAL_TIMEOUT_GRACE_SECONDS": "1"}
    gate = fleet.hold_gate(7)
    for _ in range(2):
        fleet.start_worker(pool=pool)
    run = fleet.client.start("deafening", 7)
    fleet.wait_for("the stage at its gate", gate.waiting)
    goes_on(fleet)
    fleet.wait_until_closed(run)
    gate.open()
    goes_on(fleet)
    view = fleet.client.get(run)
    assert view.status is RunStatus.FAILED
    assert view.error is not None
    assert "attempt 1 of deaf overran its timeout of 1 s" in view.error["message"]
    assert "stage done" not in [
        entry.event for entry in fleet.client.history(run) if entry.key == "deaf"
    ]


def test_payloads_that_cannot_be_kept_say_which_and_the_others_go_on(fleet: Fleet) -> None:
    """A worker that met all of them still does the next stage: none of them is tried for ever."""
    fleet.start_worker()
    told = {
        "too-large": (RunStatus.FAILED, "result of stage too-large is 1048578 bytes; the bound is"),
        "no-json": (RunStatus.FAILED, "result of stage no-json: a dict can't be written as JSON"),
        "too-large-a-step": (
            RunStatus.FAILED,
            "result of step too-large-a-step/too-large-in-a-step is 1048578 bytes",
        ),
    }
    runs = {what: fleet.client.start("poisoned", what) for what in told}
    told["argument"] = (RunStatus.INCIDENT, "argument of stage swallow is 1048578 bytes")
    runs["argument"] = fleet.client.start("too-large-an-argument")
    goes_on(fleet)
    for what, (status, words) in told.items():
        fleet.wait_for(
            f"{what} to be {status}",
            lambda what=what, status=status: fleet.client.get(runs[what]).status is status,
        )
        view = fleet.client.get(runs[what])
        assert view.error is not None
        assert words in view.error["message"]
    goes_on(fleet)


def test_celerys_own_time_limit_is_called_by_our_name(fleet: Fleet) -> None:
    """A flow that handles a StageTimedOut need not know who noticed it first."""
    fleet.start_worker(pool="prefork")
    run = fleet.client.start("poisoned", "slow")
    fleet.wait_until_closed(run)
    view = fleet.client.get(run)
    assert view.error is not None
    assert view.error["message"].endswith(
        "StageTimedOut: attempt 1 of slow overran its timeout of 1 s"
    )


def test_a_queue_that_nobody_serves_keeps_nobody_else_and_says_what_it_waits_for(
    fleet: Fleet,
) -> None:
    """Its handoffs wait in the record. Once somebody serves it, all go on."""
    fleet.start_worker("-Q", "tests")
    runs = fleet.client.start_many("traveller", [f"traveller {number}" for number in range(100)])
    goes_on(fleet)
    view = fleet.wait_for(
        "a run that says so",
        lambda: next(
            (
                found
                for found in (fleet.client.get(run) for run in runs[:3])
                if found.waits and "no worker took it" in found.waits[0].detail
            ),
            None,
        ),
    )
    assert view.waits[0].who == ("a worker on queue elsewhere",)
    goes_on(fleet)
    fleet.start_worker("-Q", "elsewhere,tests")
    fleet.wait_for(
        "all to arrive",
        lambda: fleet.client.operations.counts("traveller").get(RunStatus.COMPLETED) == len(runs),
    )
