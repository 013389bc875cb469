"""`ProcessTester`: a process's tests, on a real Postgres and a clock that the test holds.

    with ProcessTester() as tester:
        run = tester.start(access_request, request)
        tester.advance_time(hours(24))               # it escalates
        run = tester.approve(run, by="director")
        assert run.status == RunStatus.COMPLETED

There is no Celery, no Redis and no waiting. Every call does all the work that is due, in this thread,
by the verbs that workers use: relay, advance, run a stage, fire a timer. The clock stands still
between calls; only `advance_time` moves it, and a retry's delay passes no sooner than that.

What people and partners do is said by the test (`world`), what a stage or a step does can be (`stand_ins`), and what
the record holds can be looked at (`inspection`).

A crash (`SystemExit`, Ctrl-C) in a stage or step comes through to the test, as the end of a worker. Its attempt is
handed out again when the clock has moved by what a fleet takes to see it. A crash that the test has asked for
(`crash`, `crash_at=`) does not come through: the clock moves by itself, and all goes on. Stage timeouts are the
fleet's; `time_out` stands for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any, Self
from uuid import UUID

import psycopg
from pydantic import SecretStr
from sqlalchemy import URL, Engine, event, func, select
from sqlalchemy.pool import ConnectionPoolEntry

from orchestrator.client import Client, RunReference
from orchestrator.core.definition import Registry, default_registry
from orchestrator.core.durations import Duration, seconds_of
from orchestrator.core.hooks import Hooks
from orchestrator.core.views import HistoryEntry, RunView
from orchestrator.engine.context import EngineContext, connect
from orchestrator.engine.fire import fire
from orchestrator.engine.hooks import HookCalls
from orchestrator.engine.lost_attempts import recover_attempts
from orchestrator.engine.messenger import SilentMessenger
from orchestrator.engine.relay import relay
from orchestrator.engine.stage import run_stage
from orchestrator.engine.turn import advance
from orchestrator.errors import RunFailed, RunNotClosed
from orchestrator.settings import Settings
from orchestrator.store.parts import ADVANCE
from orchestrator.store.reads.views import AT_WORK
from orchestrator.store.schema.tables import activity, timer
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.testing.always_replay import replaying_always
from orchestrator.testing.databases import fresh_database
from orchestrator.testing.deaths import Deaths
from orchestrator.testing.errors import TesterError, WorkerDied
from orchestrator.testing.inspection import Inspection, TimerView
from orchestrator.testing.stand_ins import StandIns, StandInVerbs
from orchestrator.testing.witness import Witness
from orchestrator.testing.world import WorldVerbs

_CLOCK = "perennial.now"
_TIMERS_MAX = 10_000
"""So many a run may come by on its way to its end, before its test is told that it comes to none."""
_NO_JITTER = 0.5  # the middle of the spread: retries come after exactly their delay


class ProcessTester(WorldVerbs, StandInVerbs, Inspection):
    """A context manager. Each has a database of its own, with the registry's processes deployed.

    `client` is a Client on it, for what has no verb here: its next call does what that left to do.
    With `connection=`, a verb is part of your own transaction, and what follows is done after its commit.
    `database` is its SQLAlchemy engine, for tables of your own. `now` is the clock.
    """

    client: Client
    database: Engine

    def __init__(
        self,
        *,
        registry: Registry = default_registry,
        database_url: str | URL | None = None,
        now: datetime | None = None,
        always_replay: bool = False,
        doubled: bool = False,
        crash_at: int | None = None,
        hooks: Sequence[Hooks] = (),
    ) -> None:
        """`database_url`: a server where databases may be created; None takes that of
        `PERENNIAL_TEST_DATABASE_URL`, or starts an embedded Postgres once per interpreter.
        `now`: where the clock starts, with its time zone; None is the real time.

        `always_replay`: at each await the flow is thrown away and replayed from the record, twice: one that is not
        pure raises FlowNotPure. `doubled`: every message comes twice, and once more when nothing else is due.
        `crash_at`: the worker dies at the n-th place where it writes; `crashes_at_each_await` tries them all.
        No outcome may change by any of these.

        `hooks`: as `install` takes them. `hook_errors` counts what they have raised.
        """
        self.now = now or datetime.now(UTC).replace(microsecond=0)
        self._registry, self._database_url = registry, database_url
        self._is_doubled, self._replays_always = doubled, always_replay
        self._deaths = Deaths(crash_at)
        self._stand_ins = StandIns(registry)
        self._late: list[Handoff | UUID] = []
        self._hooks = HookCalls.of(hooks, monotonic=self._seconds)
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            url = stack.enter_context(fresh_database(self._database_url))
            settings = Settings(database_url=SecretStr(url))
            self.database = connect(settings, commits_each=False)
            stack.callback(self.database.dispose)
            event.listen(self.database, "checkout", self._set_clock)
            self._inbox, self._witness = _Inbox(), Witness(self._hooks)
            self._may_be_lost = False
            self._found_lost_at = self.now
            """A fleet has seen by then that a worker of ours has died."""
            self._context = EngineContext(
                self.database,
                self._registry,
                settings,
                self._inbox,
                random=lambda: _NO_JITTER,
                monotonic=self._seconds,
                reports=self._witness,
                call_stage=self._stand_ins.call_stage,
                call_step=self._stand_ins.call_step,
            )
            if self._replays_always:
                self._context.replay = replaying_always(self._ask_for_turn)
            self._forget_flows()
            self.client = Client(self.database, registry=self._registry)
            self.client.processes.deploy(*self._registry.processes.values())
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._closing.close()

    # -- time --------------------------------------------------------------------------------

    def advance_time(self, duration: Duration) -> None:
        """Let time pass: a timedelta, or seconds.

        Each timer on the way fires at its own moment, and what follows is done then.
        """
        seconds = seconds_of(duration, what="advance_time")
        if not seconds >= 0:
            message = f"time does not go back: advance_time({duration!r})"
            raise ValueError(message)
        self._work_until(self.now + timedelta(seconds=seconds))

    def advance_to_next(self) -> TimerView | None:
        """Let time pass until the next timer is due, and do what follows. Returns that timer; None: there is none."""
        coming = self.timers()
        if not coming:
            return None
        self._work_until(max(self.now, coming[0].due_at))
        return coming[0]

    def run_to_the_end(self, run: RunReference) -> RunView:
        """Let time pass from timer to timer until the run has ended, and return it.

        Raises TesterError where it waits for what no time brings, or rests.
        """
        for _ in range(_TIMERS_MAX):
            found = self.get(run)
            if found.status.is_closed:
                return found
            if not found.status.is_moving or self.advance_to_next() is None:
                raise TesterError(_why_it_does_not_end(found))
        raise TesterError(
            f"run {found.id} of {found.process} has not ended after {_TIMERS_MAX} timers: a loop that ends by itself "
            "ends sooner, and one that doesn't is tested by advance_time"
        )

    # -- what the record says ----------------------------------------------------------------

    def get(self, run: RunReference) -> RunView:
        """The run, once all that is due now is done."""
        self._work_until(self.now)
        return self.client.get(run)

    def result(self, run: RunReference) -> Any:
        """The result of a run that completed. Raises RunNotClosed, RunFailed, from what its code has raised."""
        found = self.get(run)
        try:
            return self.client.result(found)
        except (RunNotClosed, RunFailed) as error:
            cause = self._witness.cause_of(found.id)
            if any(wait.detail == AT_WORK for wait in found.waits):
                seconds = self._context.settings.dead_after_seconds
                raise RunNotClosed(
                    f"{error}, which was cut short{f' by {cause!r}' if cause else ''}. A fleet takes it for a dead "
                    f"worker's, and hands it out again: `advance_time(seconds({seconds:g}))` does"
                ) from cause
            if cause is None or not (found.error or found.failures):
                raise
            raise error from cause

    def history(self, run: RunReference) -> Sequence[HistoryEntry]:
        """Every fact of the run, in order."""
        return self.client.history(self.get(run))

    @property
    def places(self) -> Sequence[str]:
        """Where `crash_at` may strike, as far as the worker has come: `before commit_turn` is the first."""
        return tuple(self._deaths.places)

    @property
    def hook_errors(self) -> dict[str, int]:
        """How often each of the `hooks` has raised: `Tracing.before_attempt` → 3."""
        return self._witness.hook_errors

    # -- within ------------------------------------------------------------------------------

    def _settle(self) -> None:
        self._work_until(self.now)

    def _seconds(self) -> float:
        """A stage takes no time, so that dates come out round."""
        return self.now.timestamp()

    def _ask_for_turn(self, run_id: UUID) -> None:
        self._inbox.hand_off([Handoff.advance(run_id, None)])

    def _work_until(self, moment: datetime) -> None:
        """Do all that is due, and whatever becomes due until then, in the order of time."""
        self._do_handoffs()
        while True:
            until = max(moment, self._found_lost_at)
            due = self._next_due(until)
            if due is not None:
                timer_id, due_at = due
                self.now = max(self.now, due_at)
                if timer_id is None:
                    recover_attempts(self._context)
                else:
                    self._deliver(timer_id)
            elif self.now < until:
                self.now = until
            elif not self._late:
                return
            else:
                late, self._late = self._late, []
                for message in late:
                    self._perform(message)
            self._do_handoffs()

    def _next_due(self, moment: datetime) -> tuple[UUID | None, datetime] | None:
        """The next timer; or, as None, when the fleet would take for lost what a crash has left at work."""
        due, lost_at = self._next_timer(moment), self._next_loss(moment)
        if lost_at is not None and (due is None or lost_at < due[1]):
            return None, lost_at
        return due

    def _next_loss(self, moment: datetime) -> datetime | None:
        if not self._may_be_lost:
            return None
        claims = select(func.min(activity.c.claimed_at)).where(activity.c.state == "claimed")
        with self._context.connection() as connection:
            claimed_at = connection.execute(claims).scalar_one()
        if claimed_at is None:
            return None
        lost_at: datetime = claimed_at + timedelta(
            seconds=self._context.settings.dead_after_seconds
        )
        return lost_at if lost_at <= moment else None

    def _do_handoffs(self) -> None:
        while self._inbox.handoffs or relay(self._context):
            while self._inbox.handoffs:
                self._deliver(self._inbox.handoffs.popleft())

    def _deliver(self, message: Handoff | UUID) -> None:
        """A handoff, or a timer by its id, as a fleet delivers it."""
        if self._is_doubled:
            self._late.append(message)
            self._perform(message)
        self._perform(message)

    def _perform(self, message: Handoff | UUID) -> None:
        try:
            with self._deaths.may_come():
                if isinstance(message, UUID):
                    self._inbox.hand_off(fire(self._context, message))
                else:
                    self._do(message)
        except WorkerDied:  # what it had at work, or had not passed on, is found by the others
            self._may_be_lost = True
            self._found_lost_at = self.now + timedelta(seconds=self._seconds_to_find_a_death)
            self._forget_flows()
        except BaseException as crash:  # as the end of a worker's process: at work it stays
            self._may_be_lost = True
            self._forget_flows()
            if not isinstance(message, UUID):
                self._witness.note(message.run_id, crash)
            raise

    def _forget_flows(self) -> None:
        """The worker is a new one. It keeps long flows, as those of a fleet do."""
        if self._replays_always or find_spec("orchestrator.engine.eager") is None:
            return
        from orchestrator.engine.eager.kept_flows import KeptFlows

        self._context.kept_flows = KeptFlows()

    @property
    def _seconds_to_find_a_death(self) -> float:
        settings = self._context.settings
        return max(settings.dead_after_seconds, settings.relay_after_seconds)

    def _do(self, handoff: Handoff) -> None:
        if handoff.task == ADVANCE:
            advance(self._context, handoff.run_id)
        else:
            run_stage(self._context, handoff.run_id, handoff.key, handoff.attempt)

    def _next_timer(self, moment: datetime) -> tuple[UUID, datetime] | None:
        due = select(timer.c.id, timer.c.due_at).where(
            timer.c.state == "armed", timer.c.due_at <= moment
        )
        with self._context.connection() as connection:
            row = connection.execute(
                due.order_by(timer.c.due_at, timer.c.id).limit(1)
            ).one_or_none()
        return None if row is None else (row.id, row.due_at)

    def _set_clock(
        self, connection: psycopg.Connection[Any], entry: ConnectionPoolEntry, _borrower: object
    ) -> None:
        """Whoever takes a connection from the pool finds our clock on it."""
        if entry.info.get(_CLOCK) != self.now:
            connection.execute("SELECT set_config(%s, %s, false)", [_CLOCK, self.now.isoformat()])
            connection.commit()
            entry.info[_CLOCK] = self.now


def _why_it_does_not_end(run: RunView) -> str:
    """And what the test is to do about it."""
    waits = "; ".join(
        f"{wait.kind} {wait.name!r} of {', '.join(wait.who) or 'nobody'}" for wait in run.waits
    )
    error = f": {run.error['type']}: {run.error['message']}" if run.error else ""
    return (
        f"run {run.id} of {run.process} is {run.status}{error}, and does not end by time alone"
        + (f": it waits for {waits}" if waits and not error else "")
        + ". Approve, signal, complete or resume what it waits for, then go on"
    )


class _Inbox(SilentMessenger):
    """Where handoffs lie until the tester does them."""

    def __init__(self) -> None:
        self.handoffs: deque[Handoff] = deque()

    def hand_off(self, handoffs: Sequence[Handoff]) -> Sequence[Handoff]:
        """Keep them in order."""
        self.handoffs.extend(handoffs)
        return ()
