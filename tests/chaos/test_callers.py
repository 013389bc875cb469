"""A producer, a person's program or an operator's dies at its one statement, and is called again.

The first call exits, is killed or stalls before and after the statement; then somebody calls again, as
people do who have seen no answer. What was said takes effect once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import pytest

from orchestrator.core.run import RunStatus
from orchestrator.errors import AlreadyDecided, OperationRefused, PerennialError, RunClosed
from tests.chaos.fleet import ChaosFleet, Worker
from tests.chaos.worker import How, Place, Trap, Words, speak
from tests.fleet.harness import PATIENCE_SECONDS
from tests.forks import FORKS


@dataclass(frozen=True)
class Call:
    """Something said from outside the fleet, by one statement, and what it must have come to."""

    what: str
    """The statement's name."""
    verb: str
    """The client's method."""
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    told: str = ""
    """The history's event, once."""
    refused: type[PerennialError] | None = None
    """How a second call is refused after a first that took effect."""
    status: RunStatus = RunStatus.COMPLETED
    commits: str = ""
    """The place of its commit, where that is not the statement's own."""

    def __str__(self) -> str:
        return self.verb


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A caller is killed; with `--all` it also exits, and stalls."""
    if "how" in metafunc.fixturenames:
        metafunc.parametrize("how", How if metafunc.config.getoption("--all") else [How.KILLED])


CALLS = [
    Call("signal_run", "signal", ("go", "gone"), {"signal_id": "1"}, told="signal received"),
    Call("decide_approval", "approve", (), {"by": "bob"}, told="approved", refused=AlreadyDecided),
    Call("move_run", "operations.resume", told="resumed", refused=PerennialError),
    Call(
        "re_enter_run",
        "operations.skip",
        ("go",),
        {"result": "gone", "reason": "it was said by phone"},
        told="skipped",
        refused=OperationRefused,
        commits="transaction",
    ),
    Call("close_run", "cancel", told="cancelled", refused=RunClosed, status=RunStatus.CANCELLED),
    Call(
        "begin_early_end",
        "cancel",
        (),
        {"compensate": True},
        told="cancelling",
        refused=PerennialError,  # it cleans up, or has ended by then
        status=RunStatus.CANCELLED,
    ),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_what_is_said_again_takes_effect_once(
    make_fleet: Callable[[], ChaosFleet], call: Call, when: Any, how: How
) -> None:
    """Signals are deduplicated by their id; a decision, a resumption and an end happen once."""
    fleet = make_fleet()
    fleet.fork()
    run = fleet.client.start("people")
    fleet.wait_until_waiting(run)
    if call.verb == "operations.resume":
        fleet.client.operations.pause(run)
    if call.verb == "approve":
        fleet.client.signal(run, "go", "gone")
        fleet.wait_for("the question", lambda: fleet.client.approvals(assignee="bob"))
    caller = _call_into_a_trap(
        fleet,
        Place(when, call.commits or call.what if when == "after" else call.what),
        how,
        Words(call.verb, (run.run_id, *call.arguments), call.options),
    )
    if call.refused is not None and when == "after":
        with pytest.raises(call.refused):
            attrgetter(call.verb)(fleet.client)(run, *call.arguments, **call.options)
    else:
        attrgetter(call.verb)(fleet.client)(run, *call.arguments, **call.options)
    _let_go_on(caller, how)
    if call.status is RunStatus.COMPLETED:
        with suppress(PerennialError):
            fleet.client.signal(run, "go", "gone", signal_id="1")
        fleet.wait_for("the question", lambda: _asks_or_has_ended(fleet, run))
        with suppress(AlreadyDecided):
            fleet.client.approve(run, by="bob")
    fleet.wait_until_closed(run)
    assert fleet.client.get(run).status is call.status
    assert [entry.event for entry in fleet.client.history(run)].count(call.told) == 1
    assert not any(fleet.leftovers().values())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_start_that_is_made_again_with_its_key_starts_one_run(
    make_fleet: Callable[[], ChaosFleet], when: Any, how: How
) -> None:
    """The business key stands for the run, whichever of the calls has made it."""
    fleet = make_fleet()
    fleet.fork()
    caller = _call_into_a_trap(
        fleet, Place(when, "start_runs"), how, Words("start", ("proof",), {"key": "one"})
    )
    run = fleet.client.start("proof", key="one")
    _let_go_on(caller, how)
    assert run.created is (when == "before")
    fleet.wait_until_closed(run)
    assert [summary.id for summary in fleet.client.list()] == [run.run_id]
    assert fleet.calls(run) == {"plain": 1}


def _call_into_a_trap(fleet: ChaosFleet, place: Place, how: How, words: Words) -> Worker:
    trap = Trap(place, how, fleet.folder / "caller.reached")
    process = FORKS.Process(target=speak, args=(fleet.database_url, trap, words))
    process.start()
    caller = Worker(process, trap)
    fleet.forked.append(caller)
    fleet.wait_for(f"the caller {place}", caller.is_caught)
    if how is How.KILLED:
        caller.signal(signal.SIGKILL)
    return caller


def _let_go_on(caller: Worker, how: How) -> None:
    if how is How.STALLS:
        caller.signal(signal.SIGCONT)
    caller.process.join(PATIENCE_SECONDS)
    assert caller.process.exitcode is not None


def _asks_or_has_ended(fleet: ChaosFleet, run: Any) -> bool:
    return bool(fleet.client.approvals(assignee="bob")) or fleet.client.get(run).status.is_closed
