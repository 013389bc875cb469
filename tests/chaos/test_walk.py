"""A worker is lost at every place of the main path, one after the other, and its run ends as if nothing was.

For each place a scenario reaches it. The victim exits before it, is killed from outside after it, and on
both sides stalls until others have done its work. Then another worker goes on. Every run must come
to its one right end, with no transition twice, nothing left over, and at most one effect asked for again:
that of the step, or of the stage outside its steps, which was cut off in its middle.
"""

from __future__ import annotations

import ast
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.run import RunStatus
from orchestrator.core.views import Started
from orchestrator.errors import DecisionRefused
from orchestrator.faults import When
from orchestrator.store.transitions.outbox import Handoff
from tests.chaos.fleet import ChaosFleet, Worker
from tests.chaos.operators import VERBS
from tests.chaos.worker import QUEUE, How, Place

ORCHESTRATOR = Path(__file__).resolve().parents[2] / "orchestrator"

World = Callable[[ChaosFleet, Started, Worker], None]


def nobody(_fleet: ChaosFleet, _run: Started, _victim: Worker) -> None:
    """The run needs nobody."""


@dataclass(frozen=True)
class Scenario:
    """A process that reaches a place, what it must come to, and what the world does meanwhile."""

    process: str
    result: Any
    effects: dict[str, int]
    """How often each effect is asked for when nothing goes wrong."""
    world: World = nobody
    status: RunStatus = RunStatus.COMPLETED
    lost_before: Place | None = None
    """An earlier worker has died there: the victim meets what it left behind."""
    then: str = ""
    """SQL that happens in between."""
    pool: str = "solo"
    lacks: frozenset[str] = frozenset()
    has_index: bool = True
    settings: dict[str, Any] = field(default_factory=dict)


# -- what the world does -------------------------------------------------------------------------


def signal_and_approve(fleet: ChaosFleet, run: Started, _victim: Worker) -> None:
    fleet.client.signal(run, "go", "gone")
    approve_when_asked(fleet, run)


def approve_when_asked(fleet: ChaosFleet, run: Started) -> None:
    def approved() -> bool:
        with suppress(DecisionRefused):
            fleet.client.approve(run, by="bob")
            return True
        return False

    fleet.wait_for("the approval", approved)


def resume_the_incident(fleet: ChaosFleet, run: Started, _victim: Worker) -> None:
    fleet.wait_for("an incident", lambda: fleet.client.get(run).status is RunStatus.INCIDENT)
    fleet.client.operations.resume(run)


def pause_while_its_turn_is_held(fleet: ChaosFleet, run: Started, victim: Worker) -> None:
    held = f"SELECT turn_token IS NOT NULL FROM perennial.run WHERE id = '{run.run_id}'"
    fleet.wait_for("a held turn", lambda: fleet.scalar(held))
    fleet.client.operations.pause(run)
    fleet.wait_for("the victim", victim.is_caught)
    fleet.client.operations.resume(run)


def say_it_again(key: str) -> World:
    def world(fleet: ChaosFleet, run: Started, _victim: Worker) -> None:
        fleet.wait_until_closed(run)
        fleet.publish(
            Handoff(run.run_id, key, 1, key, QUEUE) if key else Handoff.advance(run.run_id, QUEUE)
        )

    return world


# -- the walk ------------------------------------------------------------------------------------

STAGES = Scenario("stages", ["two steps", "plain", "plain"], {"first": 2, "second": 1, "plain": 2})
GATHERS = Scenario("gathers", ["plain", "plain", "plain"], {"plain": 3})
RETRIES = Scenario("retries", "clumsy", {"stumble": 4})
CROWD = Scenario("crowd", "plain", {"plain": 1})
WAITS = Scenario("waits", "timed_out", {"plain": 1})
PEOPLE = Scenario("people", ["gone", "approved", "plain"], {"plain": 1}, signal_and_approve)
EXPIRES = Scenario("expires", None, {}, status=RunStatus.EXPIRED)
AT_WORK = Place("before", "work")
RECOVERS = Scenario(
    "stages",
    ["two steps", "plain", "plain"],
    {"first": 2, "second": 1, "plain": 2},
    lost_before=AT_WORK,
)
FREES = Scenario(
    "stages",
    ["two steps", "plain", "plain"],
    {"first": 2, "second": 1, "plain": 2},
    lost_before=Place("after", "hold_turn"),
)
PUTS_BACK = replace(  # it has not watched for long enough to judge who is dead
    FREES, then="UPDATE perennial.run SET turn_claimed_at = turn_claimed_at - interval '1 minute'"
)
NOTES = Scenario("crashes", 2, {"crash": 2}, pool="prefork")
NOTES_A_TURN = Scenario("crashes-in-its-turn", 2, {"crash": 2}, pool="prefork")
GIVES_UP = Scenario("loses", "once", {"once": 1}, resume_the_incident, lost_before=AT_WORK)
OVERRUNS = Scenario("overruns", "StageTimedOut", {}, lost_before=AT_WORK)
LEAVES = Scenario(
    "strange", "clumsy", {"plain": 1, "first": 1, "stumble": 2}, lacks=frozenset({"strange"})
)
SETTLES = Scenario(
    "strange",
    "clumsy",
    {"plain": 1, "first": 1, "stumble": 2},
    lost_before=Place("after", "commit_turn"),
    lacks=frozenset({"strange"}),
)
PARENTS = Scenario("parents", ["plain"], {"plain": 1})
CHAPTERS = Scenario("chapters", [2, "plain"], {"plain": 2})
LETS_GO = Scenario("lingers", 1, {"linger": 1}, pause_while_its_turn_is_held)
SWEEPS = Scenario("waits", "timed_out", {"plain": 1}, has_index=False)
INDEXES = Scenario("waits", "timed_out", {"plain": 1}, settings={"horizon_seconds": 0.05})
STALE = Scenario("proof", "plain", {"plain": 1}, say_it_again("plain"))
ENDED = Scenario("proof", "plain", {"plain": 1}, say_it_again(""))

WALK: dict[str, Scenario] = {
    # a run starts
    "take_due_handoffs": STAGES,
    "load_run": STAGES,
    "publish": STAGES,
    "put_back_handoffs": PUTS_BACK,
    # a stage
    "claim_activity": STAGES,
    "work": STAGES,
    "remember_step": STAGES,
    "commit_turn": STAGES,
    "beat": STAGES,
    # a step of the flow
    "hold_turn": STAGES,
    "remember_flow_step": STAGES,
    "release_turn": LETS_GO,
    # an attempt fails
    "retry_attempt": RETRIES,
    "hand_off": RECOVERS,
    # a timer
    "arm": WAITS,
    "move": WAITS,
    "fire_timers": WAITS,
    "close_run": EXPIRES,
    "read_early_end": EXPIRES,
    "disarm": PEOPLE,
    "take_timers_to_index": INDEXES,
    "overdue_timers": SWEEPS,
    # a child starts, and is needed no more
    "child_terms": PARENTS,
    "children_to_end": PARENTS,
    "forget_children": PARENTS,
    # a flow continues as new
    "begin_chapter": CHAPTERS,
    # Redis was emptied
    "rebuild": STAGES,
    "indexed_timers": STAGES,
    "make_all_handoffs_due": STAGES,
    # a worker was lost
    "what_needs_care": STAGES,
    "lost_attempts": RECOVERS,
    "lock_run": RECOVERS,
    "lock_lost_attempt": RECOVERS,
    "hand_out_again": RECOVERS,
    "append_history": RECOVERS,
    "raise_revision": RECOVERS,
    "transaction": RECOVERS,
    "exit_reason": RECOVERS,
    "note_exit_of_claim": NOTES,
    "note_exit_of_turn": NOTES_A_TURN,
    "free_lost_turn": FREES,
    "park_run": GIVES_UP,
    "fail_attempt": OVERRUNS,
    "ask_for_turn": OVERRUNS,
    "forget_old_workers": STAGES,
    # whose record it is, once for each process of a worker
    "record_identity": STAGES,
    "record_server": STAGES,
    # a worker says what it can run
    "register_worker": STAGES,
    "make_due_what_can_be_run": STAGES,
    # a worker lacks something, or hears what is over
    "read_revisions": LEAVES,
    "note_left": LEAVES,
    "record_settlement": SETTLES,
    "count_settlement": GATHERS,
    "forget_stale_handoff": STALE,
    "forget_advance": ENDED,
}

BY_OPERATORS = {what for verb in VERBS.values() for what in verb.places}
"""What operators' commands pass that change runs in mid-flight: tests/chaos/test_walk_of_operators.py."""

ELSEWHERE = {
    # producers' and people's: tests/chaos/test_callers.py
    "start_runs",
    "runs_that_are_there",
    "run_of_id",
    "signal_run",
    "signals_held",
    # of partners, and of a stage that hands a token on: tests/engine/test_callbacks.py
    "hand_token",
    "forget_token",
    "callback_of_token",
    "answer_callback",
    "beat_callback",
    # of a stage that says how far it has come: tests/engine/test_stage_heartbeats.py
    "beat_attempt",
    # of senders by a correlation key, and now and then: tests/engine/test_correlations.py
    "correlation_meeting",
    "keep_signal",
    "sweep_correlations",
    "decide_approval",
    "begin_early_end",
    "move_run",
    "restart_run",
    "deploy_process",
    "lock_process_if_unused",
    "replace_process",
    # people's, of a kind of one's own: tests/architecture, tests/race
    "answer_wait",
    # of two apps on one database: tests/engine/test_foreign.py
    "leave_handoffs",
    # people's, of several: tests/engine/test_votes.py, tests/race
    "hold_run_of_vote",
    "votes_on_approval",
    "vote",
    "last_vote",
    # operators', of causes: tests/engine/test_incidents_by_cause.py
    "note_cause",
    "mute_cause",
    "mend_cause",
    # a team's, of versions: tests/engine/test_serving.py
    "set_current_version",
    "unset_current_version",
    "retire_version",
    "unretire_version",
    "read_versions",
    "deployed_versions",
    "history_of_process",
    # said again at a worker's next beat: tests/engine/test_serving.py
    "mark_served",
    # of a worker that stays for long, and of one that goes: tests/fleet/test_registration.py
    "beat_of_worker",
    "worker_leaves",
    # of a stage that another release wrote: tests/engine/test_elsewhere.py
    "give_back_attempt",
    # of a stage that nobody has: tests/fleet/test_rolling_deploy.py
    "note_stage_left",
    # they only read: as a worker starts, and where it lacks something (tests/engine/test_elsewhere.py)
    "queues_of_those_who_can",
    # an operator's, who is told of them: tests/engine/test_amend.py
    "names_of_those_who_can",
    "declarative_versions",
    # it only reads, for who has forked: tests/race/test_re_entry.py
    "fork_of_operation",
    # operators', of many runs: tests/engine/test_bulk.py
    "forget_previews",
    "keep_preview",
    "hold_operation",
    "renew_operation",
    "take_line",
    "settle_line",
    "end_operation",
    # of a stage that people let be tried again: tests/testing/test_on_exhausted.py
    "steps_of_rounds",
    # they only read, for people
    "attribute_of_run",
    "children_of_run",
    "tree_of_run",
    "now",
    "read_contract",
    "read_fingerprints",
    "names_of_processes",
    "runs_of_process",
    "run_to_restart",
    "run_status",
    "read_approvals",
    "latest_approvals_of_run",
    "person_was_asked_before",
}


EDGES = {
    # between Postgres and the broker
    "publish",
    "put_back_handoffs",
    "arm",
    "move",
    "disarm",
    "rebuild",
    "indexed_timers",
    "take_timers_to_index",
    "make_all_handoffs_due",
    # a process begins and beats, and its children end
    "record_identity",
    "record_server",
    "beat",
    "forget_old_workers",
    "register_worker",
    "make_due_what_can_be_run",
    "note_exit_of_claim",
    "note_exit_of_turn",
    # a step that takes real time
    "release_turn",
}
"""Where the edge of a process has a part: real workers are lost there in every run of the tests. At the other
places threads are (test_walk_of_threads.py), and real workers too with `--all`.
"""

CASES: tuple[tuple[When, How], ...] = (
    ("before", How.EXITS),
    ("before", How.STALLS),
    ("after", How.KILLED),
    ("after", How.STALLS),
)
"""To exit and to be killed come to the same for whoever is left: each is tried on one side of a place."""

Case = tuple[When, How]


def cases_of(what: str, config: pytest.Config) -> tuple[Case, ...]:
    """How a worker is lost at that place: on both sides of it, once for good and once till others have gone on.

    Of the four ways `make test` takes two, in turns from place to place; `--all` takes them all.
    """
    if config.getoption("--all"):
        return CASES
    exits, stalls, is_killed, stalls_after = CASES
    return (exits, stalls_after) if list(WALK).index(what) % 2 else (stalls, is_killed)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is test_a_worker_lost_there_loses_nothing_and_doubles_nothing:
        walks_all = metafunc.config.getoption("--all")
        metafunc.parametrize("what", [what for what in WALK if walks_all or what in EDGES])


def test_a_worker_lost_there_loses_nothing_and_doubles_nothing(
    make_fleet: Callable[[], ChaosFleet], what: str, request: pytest.FixtureRequest
) -> None:
    """All cases of a place at once: most of their time is waiting."""
    cases = [(Place(when, what), how) for when, how in cases_of(what, request.config)]
    fleets = [make_fleet() for _ in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        outcomes = list(pool.map(survive, fleets, [WALK[what]] * len(cases), cases))
    assert outcomes == [None] * len(cases), "\n".join(filter(None, outcomes))


GOES_ON = replace(STAGES, settings={"eager_seconds": 5})


@pytest.mark.parametrize("what", ["commit_turn", "work"])
def test_a_worker_that_goes_on_at_once_is_lost_as_any_other(
    make_fleet: Callable[[], ChaosFleet], what: str, request: pytest.FixtureRequest
) -> None:
    """The commit has claimed the next stage for whoever is lost; nobody was told of it."""
    cases = [(Place(when, what), how) for when, how in cases_of(what, request.config)]
    fleets = [make_fleet() for _ in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        outcomes = list(pool.map(survive, fleets, [GOES_ON] * len(cases), cases))
    assert outcomes == [None] * len(cases), "\n".join(filter(None, outcomes))


def survive(fleet: ChaosFleet, scenario: Scenario, case: tuple[Place, How]) -> str | None:
    """None, or what went wrong."""
    place, how = case
    try:
        run = _lose_a_worker(fleet, scenario, place, how)
        _look(fleet, scenario, run)
    except Exception as error:  # noqa: BLE001 - all cases are told together
        return (
            f"{scenario.process}: the worker {how.value} {place}: {type(error).__name__}: {error}"
        )
    return None


def _lose_a_worker(fleet: ChaosFleet, scenario: Scenario, place: Place, how: How) -> Started:
    run = fleet.client.start(scenario.process)
    if scenario.lost_before is not None:
        lost = fleet.fork(scenario.lost_before)
        fleet.wait_for(f"a first worker lost {scenario.lost_before}", lost.is_caught)
    if scenario.then:
        fleet.execute(scenario.then)
    victim = fleet.fork(
        place,
        how,
        lacks=scenario.lacks,
        has_index=scenario.has_index,
        pool=scenario.pool,
        **scenario.settings,
    )
    with ThreadPoolExecutor(1) as aside:
        world = aside.submit(scenario.world, fleet, run, victim)
        fleet.wait_for(f"the victim {place}", victim.is_caught)
        if how is How.KILLED:
            victim.signal(signal.SIGKILL)
        survivor = fleet.fork()
        world.result()
    fleet.wait_until_closed(run)
    if how is How.STALLS:
        victim.signal(signal.SIGCONT)
        survivor.signal(signal.SIGKILL)
        survivor = victim
    # Whoever is left has done what it was in the middle of when it does something new.
    fleet.wait_until_closed(fleet.client.start("proof" if not scenario.lacks else "rests"))
    return run


def _look(fleet: ChaosFleet, scenario: Scenario, run: Started) -> None:
    view = fleet.client.get(run)
    assert view.status is scenario.status, f"it is {view.status}: {view.error}"
    if scenario.status is RunStatus.COMPLETED:
        assert fleet.client.result(run) == scenario.result
    assert fleet.told_twice(run) == {}
    fleet.wait_for("nothing left over", lambda: not any(fleet.leftovers().values()))
    calls = fleet.calls(run)
    again = {
        name: calls.get(name, 0) - count
        for name, count in scenario.effects.items()
        if calls.get(name, 0) != count
    }
    assert set(calls) == set(scenario.effects), calls
    assert not again or list(again.values()) == [1], f"effects were asked for again: {again}"


def test_every_place_is_walked() -> None:
    """Whoever adds a statement or a fault point decides here how it is lost."""
    assert set(WALK) | BY_OPERATORS | ELSEWHERE == set(_places())
    assert not (set(WALK) | BY_OPERATORS) & ELSEWHERE
    assert set(WALK) >= EDGES


def _places() -> Iterator[str]:
    """The names in `Statement("name", …)`, `around("name")` and `reach(…, "name")`."""
    for path in ORCHESTRATOR.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            position = {"Statement": 0, "around": 0, "reach": 1}.get(node.func.id)
            if position is None:
                continue
            name = node.args[position]
            if isinstance(name, ast.Constant):
                yield str(name.value)
