"""What operators do to runs in mid-flight, each as a command that may die: six verbs, each on runs of a process of its
own, and a world that brings every run to its end, whichever side of the verb it is on.

    verb.prepare(stand)    deploys, and brings runs to where they stand
    verb.say(stand)        the command, as an operator calls it, and calls it again
    verb.places            the fault points that the command passes
    verb.goes_on           those that workers pass from then on, until the runs have ended
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from orchestrator import (
    Client,
    Flow,
    Process,
    Registry,
    Retry,
    hours,
    idempotency_key,
    process,
    stage,
)
from orchestrator.core.versions.plans import Plan
from orchestrator.engine import sweep
from orchestrator.engine.context import EngineContext
from orchestrator.errors import PerennialError
from tests.chaos.mortal import Mortal
from tests.harness import Harness

BEGINNING = datetime(2030, 1, 7, 9, tzinfo=UTC)
ROUNDS_MAX = 60
DEAD_SECONDS = 31.0
AGAIN = Retry(max_attempts=50, delay_seconds=0, jitter=0, non_retryable=(ConnectionError,))
OPERATION = "operation-1"


class House:
    """The stages, whose effects are counted, in two programs: the code that was, and the code that is new."""

    def __init__(self) -> None:
        self.effects: Counter[tuple[str, str]] = Counter()
        """By run, and what was called."""
        self.was, self.new = Registry(), Registry()
        self.fails = False
        for registry in (self.was, self.new):
            for name in ("a", "x", "z"):
                stage(name=name, registry=registry, retry=AGAIN)(self._stage(name))
            stage(name="bad", registry=registry, retry=AGAIN)(self._bad)

    def called(self, name: str) -> str:
        """An effect."""
        self.effects[idempotency_key().partition("/")[0], name] += 1
        return name

    def _stage(self, name: str) -> Callable[[], str]:
        return lambda: self.called(name)

    def _bad(self) -> str:
        self.called("bad")
        if self.fails:
            raise ConnectionError
        return "bad"


@dataclass
class Stand:
    """One case: runs of a process of its own, the operator, and the workers."""

    harness: Harness
    house: House
    name: str
    operator: Client
    workers: list[EngineContext]
    runs: dict[str, UUID] = field(default_factory=dict)
    content: Process | None = None
    plan: Plan | None = None
    digest: str = ""

    # -- runs ----------------------------------------------------------------------------------

    def start(self, *keys: str) -> None:
        """Runs of the process, as far as they go by themselves."""
        for key in keys:
            self.runs[key] = self.harness.client.start(self.name, key=f"{self.name}-{key}").run_id
        self.drain()

    def to_boss(self, *keys: str) -> None:
        """Out of the sleep."""
        self.harness.move(hours=2)
        self.drain()
        assert keys

    def behind_boss(self, *keys: str) -> None:
        """And decided."""
        for key in keys:
            self.harness.client.approve(self.runs[key], by="bob")
        self.drain()

    def drain(self, victim: Mortal | None = None) -> None:
        """Deliver what is due, each message to each worker; to the victim first, and if that dies of it to nobody."""
        while due := [*self.harness.due_timers(), *self.harness.pending()]:
            for message in due:
                if victim is not None and not victim.is_lost:
                    with victim.as_long_as_it_lives():
                        self.harness.deliver(message, victim.context)
                    if victim.is_lost:
                        continue
                for context in self.workers:
                    self.harness.deliver(message, context)

    def play_to_the_end(self, victim: Mortal | None = None) -> None:
        """The world does what each run waits for, and time passes, until all have ended."""
        for _ in range(ROUNDS_MAX):
            self.drain(victim)
            open_runs = self._open()
            if not open_runs:
                return
            for key, run_id in open_runs.items():
                self._answer(key, run_id)
            self.drain(victim)
            if victim is None or not victim.is_lost:
                self.harness.move(hours=2)
                continue
            self.harness.move(seconds=DEAD_SECONDS)
            sweep.sweep(self.harness.context)
            victim.revive()
        raise AssertionError(f"these have not ended: {list(self._open())}")

    def _answer(self, key: str, run_id: UUID) -> None:
        client, view = self.harness.client, self.harness.client.get(run_id)
        with suppress(PerennialError):
            if view.status == "incident":
                client.operations.resume(run_id)
        for wait in view.waits:
            with suppress(PerennialError):
                if wait.kind == "approval":
                    client.approve(run_id, wait, by="bob")
                elif wait.kind == "signal":
                    client.signal(run_id, wait.name, f"{wait.name} of {key}", signal_id=wait.name)

    def _open(self) -> dict[str, UUID]:
        rows = self.harness.database.rows(
            "SELECT business_key, id FROM perennial.run WHERE process = :name AND closed_at IS NULL ORDER BY id",
            name=self.name,
        )
        return {row.business_key.removeprefix(f"{self.name}-"): row.id for row in rows}

    # -- what the record has -------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """All that the record has of each run, but for what it counts and where."""
        rows = self.harness.database.rows(_RECORD, name=self.name)
        return {row.key.removeprefix(f"{self.name}-"): row.whole for row in rows}

    def ends(self) -> dict[str, Any]:
        """What became of each run: its end, what history tells, and how often each effect was asked for."""
        rows = self.harness.database.rows(_ENDS, name=self.name)
        return {
            row.business_key.removeprefix(f"{self.name}-"): End(
                row.status,
                row.output,
                row.version,
                Counter(map(tuple, row.told)),
                Counter(
                    {
                        name: calls
                        for (run, name), calls in self.house.effects.items()
                        if run == str(row.id)
                    }
                ),
            )
            for row in rows
        }

    def left_over(self) -> Any:
        """What must be nothing once all have ended."""
        (row,) = self.harness.database.rows(
            """SELECT (SELECT count(*) FROM perennial.activity WHERE settled_at IS NULL)
                + (SELECT count(*) FROM perennial.timer WHERE state = 'armed')
                + (SELECT count(*) FROM perennial.approval WHERE state = 'open')
                + (SELECT count(*) FROM perennial.outbox)
                + (SELECT count(*) FROM perennial.run WHERE turn_token IS NOT NULL) AS n"""
        )
        return row.n


@dataclass(frozen=True)
class End:
    """What became of a run."""

    status: str
    output: Any
    version: int
    told: Counter[tuple[str, ...]]
    effects: Counter[str]

    def other_than(self, of: End, *, cut_off: int = 0) -> str:
        """Empty, or what is other than if nobody had been lost. `cut_off`: so many effects were in their middle."""
        tries_again = {"attempt handed out again", "turn freed", "left for another worker"}
        told = [
            Counter({each: n for each, n in end.told.items() if each[0] not in tries_again})
            for end in (self, of)
        ]
        if (self.status, self.output, self.version) != (of.status, of.output, of.version):
            return f"it came to {self.status} {self.output}, not to {of.status} {of.output}"
        if told[0] != told[1]:
            return f"history tells {told[0] - told[1]} more, and {told[1] - told[0]} not"
        more = self.effects - of.effects
        if of.effects - self.effects or more.total() > cut_off:
            return f"effects were asked for again: {more}"
        return ""


_RECORD = """
SELECT r.business_key AS key, jsonb_build_object(
    'run', jsonb_build_array(r.version, r.code_revision, r.status, r.stage, r.waiting_for, r.error->>'type', r.input,
        r.output, r.queue, r.expires_at, r.reentries),
    'journal', (SELECT jsonb_agg(jsonb_build_array(a.key, a.scope, a.ordinal, a.parent_key, a.kind, a.name, a.state,
        a.attempt, a.input, CASE WHEN a.kind <> 'origin' THEN a.result END, a.error->>'type', a.policy) ORDER BY a.key)
        FROM perennial.activity a WHERE a.run_id = r.id),
    'approvals', (SELECT jsonb_agg(jsonb_build_array(p.key, p.state, p.assignees, p.deadline, p.edition, p.former_keys)
        ORDER BY p.key) FROM perennial.approval p WHERE p.run_id = r.id),
    'timers', (SELECT jsonb_agg(jsonb_build_array(t.key, t.kind, t.level, t.due_at) ORDER BY t.key, t.kind, t.level)
        FROM perennial.timer t WHERE t.run_id = r.id AND t.state = 'armed'),
    'handoffs', (SELECT jsonb_agg(jsonb_build_array(o.key, o.attempt) ORDER BY o.key)
        FROM perennial.outbox o WHERE o.run_id = r.id),
    'signals', (SELECT jsonb_agg(jsonb_build_array(s.name, s.signal_id, s.consumed_key) ORDER BY s.name)
        FROM perennial.signal s WHERE s.run_id = r.id),
    'history', (SELECT jsonb_agg(jsonb_build_array(h.event, h.key, h.actor) ORDER BY h.event, h.key)
        FROM perennial.history h WHERE h.run_id = r.id),
    'migrations', (SELECT jsonb_agg(jsonb_build_array(m.undone_at IS NULL) ORDER BY m.undone_at IS NULL)
        FROM perennial.migration m WHERE m.run_id = r.id)) AS whole
FROM perennial.run r WHERE r.process = :name
UNION ALL
SELECT 'the process', jsonb_agg(jsonb_build_array(p.version, p.code_revision,
    (SELECT count(*) FROM perennial.process_revision v WHERE v.process = p.name AND v.version = p.version))
    ORDER BY p.version)
FROM perennial.process p WHERE p.name = :name
"""

_ENDS = """
SELECT r.business_key, r.id, r.status, r.output, r.version, (SELECT jsonb_agg(jsonb_build_array(h.event, h.key))
    FROM perennial.history h WHERE h.run_id = r.id) AS told
FROM perennial.run r WHERE r.process = :name
"""


# -- the verbs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verb:
    """A command, and what it passes. `each_run`: each run is on one side for itself."""

    name: str
    prepare: Callable[[Stand], None]
    say: Callable[[Stand], object]
    places: frozenset[str]
    goes_on: frozenset[str]
    each_run: bool = False

    def __str__(self) -> str:
        return self.name


def _waits(house: House, name: str, version: int = 1) -> Process:
    @process(name=name, version=version, registry=house.was)
    async def flow_(flow: Flow) -> Any:
        a = await flow.stage("a")
        await flow.step(house.called, "noted")
        await flow.sleep(hours(1))
        boss = await flow.approval("boss", assign=["bob"], timeout=hours(48))
        return [a, boss.outcome, await flow.signal("go", type=str), await flow.stage("z")]

    return flow_


def _asks_beside(house: House, name: str) -> Process:
    """The same, and whoever is asked is asked with another: who waits for the boss differs from there on, and who has
    passed contradicts it."""

    @process(name=name, version=1, registry=house.new)
    async def flow_(flow: Flow) -> Any:
        a = await flow.stage("a")
        await flow.step(house.called, "noted")
        await flow.sleep(hours(1))
        boss, budget = await flow.gather(
            flow.approval("boss", assign=["bob"], timeout=hours(48)),
            flow.signal("budget", type=str),
        )
        return [a, boss.outcome, budget, await flow.signal("go", type=str), await flow.stage("z")]

    return flow_


def _second(house: House, name: str) -> Process:
    """Another version: what is done has another name, who is asked too, and there is more behind."""

    @process(name=name, version=2, registry=house.was)
    async def flow_(flow: Flow) -> Any:
        x = await flow.stage("x")
        await flow.step(house.called, "noted")
        await flow.sleep(hours(1))
        chief = await flow.approval("chief", assign=["bob"], timeout=hours(48))
        await flow.stage("a", key="more")
        return [x, chief.outcome, await flow.signal("go", type=str), await flow.stage("z")]

    return flow_


def _parked_at_three_places(stand: Stand) -> None:
    stand.harness.client.processes.deploy(_waits(stand.house, stand.name))
    stand.start("passed")
    stand.to_boss("passed")
    stand.behind_boss("passed")
    stand.start("asked")
    stand.to_boss("asked")
    stand.start("asleep")


def _to_be_amended(stand: Stand) -> None:
    _parked_at_three_places(stand)
    stand.content = _asks_beside(stand.house, stand.name)


def _amend(stand: Stand) -> None:
    assert stand.content is not None
    stand.operator.processes.amend(stand.content, others="park", by="ann", reason="both")


def _to_be_migrated(stand: Stand) -> None:
    _parked_at_three_places(stand)
    stand.harness.client.processes.deploy(_second(stand.house, stand.name))
    stand.plan = Plan.model_validate(
        {
            "process": stand.name,
            "from": 1,
            "to": 2,
            "map": {"a": "x", "boss": "chief"},
            "on_error": "park",
        }
    )
    stand.digest = stand.harness.client.processes.preview_migration(stand.plan).digest


def _migrate(stand: Stand) -> None:
    assert stand.plan is not None
    stand.operator.processes.migrate(stand.plan, stand.digest, by="ann", reason="renamed")


def _migrated(stand: Stand) -> None:
    _to_be_migrated(stand)
    assert stand.plan is not None
    stand.harness.client.processes.migrate(stand.plan, stand.digest, by="ann")


def _undo(stand: Stand) -> None:
    assert stand.plan is not None
    stand.operator.processes.undo_migration(stand.plan, by="ann", reason="it was wrong")


def _failed(stand: Stand) -> None:
    @process(name=stand.name, version=1, registry=stand.house.was)
    async def flow_(flow: Flow) -> Any:
        a = await flow.stage("a")
        boss = await flow.approval("boss", assign=["bob"], timeout=hours(48))
        return [a, boss.outcome, await flow.stage("bad")]

    stand.harness.client.processes.deploy(flow_)
    stand.start("one")
    stand.house.fails = True
    stand.behind_boss("one")
    stand.house.fails = False


def _retry(stand: Stand) -> None:
    stand.operator.operations.retry(
        stand.runs["one"], by="ann", reason="it is up again", operation=OPERATION
    )


def _passed(stand: Stand) -> None:
    stand.harness.client.processes.deploy(_waits(stand.house, stand.name))
    stand.start("one")
    stand.to_boss("one")
    stand.behind_boss("one")


def _rewind(stand: Stand) -> None:
    stand.operator.operations.rewind(
        stand.runs["one"], "a", by="ann", reason="all of it was wrong", operation=OPERATION
    )


def _fork(stand: Stand) -> None:
    stand.operator.operations.fork(
        stand.runs["one"],
        at="boss",
        key=f"{stand.name}-copy",
        by="ann",
        reason="a try",
        operation=OPERATION,
    )


_OF_ONE = frozenset(
    {
        "lock_run_to_re_enter",
        "lock_open_to_re_enter",
        "read_standing",
        "read_revisions",
        "transaction",
    }
)
_OF_STAGES = frozenset({"load_run", "read_revisions", "claim_activity", "work", "commit_turn"})

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "amend",
            _to_be_amended,
            _amend,
            frozenset(
                {
                    "read_content",
                    "load_open_runs",
                    "amend_process",
                    "transaction",
                    "move_to_revision",
                    "park_at_revision",
                }
            ),
            _OF_STAGES | {"fire_timers", "note_left", "record_settlement"},
            each_run=True,
        ),
        Verb(
            "migrate",
            _to_be_migrated,
            _migrate,
            frozenset(
                {
                    "runs_of_version",
                    "runs_migrated",
                    "read_revisions",
                    "runs_to_migrate",
                    "hold_run_to_rewrite",
                    "migrate_run",
                    "transaction",
                    "park_unmigrated",
                }
            ),
            _OF_STAGES | {"fire_timers"},
            each_run=True,
        ),
        Verb(
            "undo",
            _migrated,
            _undo,
            frozenset({"runs_migrated", "hold_run_to_rewrite", "undo_migration", "transaction"}),
            _OF_STAGES | {"fire_timers"},
            each_run=True,
        ),
        Verb("retry", _failed, _retry, _OF_ONE | {"re_enter_run"}, _OF_STAGES),
        Verb(
            "rewind",
            _passed,
            _rewind,
            _OF_ONE | {"re_enter_run"},
            _OF_STAGES | {"fire_timers", "hold_turn", "remember_flow_step"},
        ),
        Verb("fork", _passed, _fork, _OF_ONE | {"find_run", "fork_run"}, _OF_STAGES),
    )
}
