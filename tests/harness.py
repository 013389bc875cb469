"""The engine without Celery: what it would have sent is collected, and `drain` delivers it here.

Database     a database of the tests' own, and its clock: `SET perennial.now` for every session
Harness      workers (EngineContexts) over it, a client, and the deliveries between them, in one of
             the modes of tests/modes.py
WireTrace    round trips as libpq counts them on the wire: a hidden BEGIN or COMMIT counts too
wait_for     bounded polling of a fact in Postgres; `wait_until_blocked` for a lock's queue
meanwhile    another connection's work, which waits for a lock that the test holds
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch
from uuid import UUID

import psycopg
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, event, text

from orchestrator import Client, Registry, Settings
from orchestrator.core.definition import Process
from orchestrator.core.run import RunStatus
from orchestrator.core.run_notice import RunNotice
from orchestrator.core.schemas import InputSchema
from orchestrator.core.views import Started
from orchestrator.engine import sweep, turn
from orchestrator.engine.context import EngineContext, connect, connect_for_reads
from orchestrator.engine.fire import fire
from orchestrator.engine.liveness import Identity
from orchestrator.engine.stage import run_stage
from orchestrator.store.parts import ADVANCE
from orchestrator.store.schema import SCHEMA, in_schema, options_in
from orchestrator.store.transitions import processes, workers
from orchestrator.store.transitions.amend import amend_if_current
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.timers import ArmedTimer
from tests.modes import NORMAL, Leaving, Mode, leaving_early

TABLES = [
    "history",
    "outbox",
    "worker",
    "signal",
    "timer",
    "approval_vote",
    "approval",
    "activity",
    "run",
    "process",
    "process_history",
    "cause",
    "operation",
    "correlation",
]
DEADLINE_SECONDS = 10.0


class Database:
    """One database, an engine on it, and the clock that all its new sessions see.

    `schema`: where the record is. Tests name `perennial` in their SQL, as our texts do, and mean that one.
    """

    def __init__(self, name: str, url: str, schema: str = SCHEMA) -> None:
        self.name, self.url, self.schema = name, url, schema
        self.moved_to: datetime | None = None
        self._engines: list[Engine] = []
        self.engine = self.adopt(create_engine(url, execution_options=options_in(schema)))

    @property
    def libpq_url(self) -> str:
        return self.url.replace("postgresql+psycopg://", "postgresql://")

    def open(self, settings: Settings | None = None) -> Engine:
        """An engine as the fleet has it, for transitions."""
        return self.adopt(connect(settings or self.settings(), finds_by_key=True))

    def open_for_reads(self, settings: Settings | None = None) -> Engine:
        """And beside it the one for reads."""
        return self.adopt(connect_for_reads(settings or self.settings(), pool_size=1))

    def adopt(self, engine: Engine) -> Engine:
        """From here on its sessions see this database's clock: each when it is taken from the pool."""
        event.listen(engine, "connect", self._note_clock)
        event.listen(engine, "checkout", self._set_clock_of)
        self._engines.append(engine)
        return engine

    def _note_clock(self, _connection: object, record: Any) -> None:
        record.info["clock"] = self.moved_to

    def _set_clock_of(self, connection: Any, record: Any, _borrower: object) -> None:
        if record.info.get("clock") != self.moved_to:
            at = self.moved_to.isoformat() if self.moved_to is not None else ""
            connection.execute("SELECT set_config('perennial.now', %s, false)", [at])
            connection.commit()
            record.info["clock"] = self.moved_to

    def settings(self, **others: Any) -> Settings:
        return Settings(
            database_url=SecretStr(self.url), **{"database_schema": self.schema, **others}
        )

    def psycopg(self, *, autocommit: bool = False) -> psycopg.Connection[Any]:
        return psycopg.connect(self.libpq_url, autocommit=autocommit)

    def rows(self, sql: str, **parameters: object) -> list[Any]:
        with self.engine.begin() as connection:
            result = connection.execute(text(in_schema(sql, self.schema)), parameters)
            return list(result) if result.returns_rows else []

    def value(self, sql: str, **parameters: object) -> Any:
        (row,) = self.rows(sql, **parameters)
        return row[0]

    def empty(self) -> None:
        """Commit + DELETE: cheaper than TRUNCATE on small tables."""
        if self.moved_to is not None:
            self.set_clock(None)
        with self.engine.begin() as connection:
            connection.execute(text("SET LOCAL perennial.drop_history_before = 'infinity'"))
            for table in TABLES:
                connection.execute(text(f'DELETE FROM "{self.schema}".{table}'))

    def set_clock(self, at: datetime | None) -> None:
        """Every session that begins, or is taken from a pool, from now on sees this moment."""
        self.moved_to = at
        what = "RESET perennial.now" if at is None else f"SET perennial.now = '{at.isoformat()}'"
        with self.engine.begin() as connection:
            connection.execute(text(f"ALTER DATABASE {self.name} {what}"))

    @contextmanager
    def closing_engines(self) -> Iterator[None]:
        """What is opened in the block ends with it."""
        before = len(self._engines)
        try:
            yield
        finally:
            for engine in self._engines[before:]:
                engine.dispose()
            del self._engines[before:]

    def cut_connections(self) -> None:
        """End every session of the fleet and of clients, as a restart of Postgres does."""
        self.rows(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'perennial%'"
        )

    def close(self) -> None:
        for engine in self._engines:
            engine.dispose()


class CollectingMessenger:
    """Keeps what the engine tells the fleet; a deaf one, only what relays do."""

    def __init__(self, *, is_deaf: bool = False) -> None:
        self.is_deaf = is_deaf
        self.handed_off: list[Handoff] = []
        self.armed: list[ArmedTimer] = []
        self.disarmed: list[UUID] = []
        self.announced: list[RunNotice] = []

    def hand_off(self, handoffs: Sequence[Handoff]) -> Sequence[Handoff]:
        if not self.is_deaf:
            self.handed_off.extend(handoffs)
        return ()

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """While the block runs, nothing is lost."""
        was_deaf, self.is_deaf = self.is_deaf, False
        try:
            yield
        finally:
            self.is_deaf = was_deaf

    def backlog_of(self, queue: str | None) -> int:
        return 0

    def arm(self, timers: Sequence[ArmedTimer]) -> None:
        if not self.is_deaf:
            self.armed.extend(timers)

    def disarm(self, timers: Sequence[tuple[UUID, str | None]]) -> None:
        if not self.is_deaf:
            self.disarmed.extend(timer_id for timer_id, _ in timers)

    def announce(self, notice: RunNotice) -> None:
        self.announced.append(notice)


def deliver(message: Handoff | UUID, context: EngineContext) -> None:
    """What the Celery task of this message, a handoff or a due timer's id, does."""
    if isinstance(message, UUID):
        context.messenger.hand_off(fire(context, message))
    elif message.task == ADVANCE:
        with context.identity.lease():
            turn.advance(context, message.run_id)
    else:
        run_stage(context, message.run_id, message.key, message.attempt)


class Harness:
    """A fleet of one, and more with `worker()`. Messages are delivered when the test says so."""

    def __init__(
        self, database: Database, registry: Registry | None = None, *, mode: Mode = NORMAL
    ) -> None:
        self.database = database
        self.mode = mode
        self.registry = registry or Registry()
        self.settings = database.settings(batch_size=mode.batch_size)
        self._closing = ExitStack()
        self._closing.enter_context(database.closing_engines())
        self.context = self.worker("worker-1")
        self.client = Client(self.settings, registry=self.registry)
        database.adopt(self.client._context.database)
        database.adopt(self.client._context.reads)
        self._left: list[Handoff] = []
        self._late: list[Handoff | UUID] = []

    def __enter__(self) -> Self:
        if self.mode.leaves_early:
            take_turn = leaving_early(lambda run: self._left.append(Handoff.advance(run, None)))
            self._closing.enter_context(patch.object(turn, "Replay", partial(Leaving, take_turn)))
        if not self.mode.hears_workers:
            relay = sweep.relay

            def heard(context: EngineContext, **options: bool) -> int:
                with context.messenger.hearing():  # type: ignore[attr-defined]
                    return relay(context, **options)

            self._closing.enter_context(patch.object(sweep, "relay", heard))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._closing.close()

    @property
    def messenger(self) -> CollectingMessenger:
        return self.context.messenger  # type: ignore[return-value]

    def worker(
        self, name: str, *, registry: Registry | None = None, beats: bool = False
    ) -> EngineContext:
        """Another process of the fleet, with connections of its own."""
        context = EngineContext(
            self.database.open(self.settings),
            registry or self.registry,
            self.settings,
            messenger=CollectingMessenger(is_deaf=not self.mode.hears_workers),
            reads=self.database.open_for_reads(self.settings),
            identity=Identity(name),
            random=lambda: 0.5,
        )
        if self.mode.goes_on:
            context.kept_flows = import_module("tests.eager").KeptFlows(least_lines=1)
        if beats:
            self.beat(context)
        return context

    def beat(self, context: EngineContext) -> UUID:
        """One heartbeat of that worker's identity, as its process would write it."""
        with context.identity.lease() as worker_id, context.connection() as connection:
            workers.beat(connection, [worker_id], name=context.identity.name, pid=1)
        return worker_id

    # -- runs --------------------------------------------------------------------------------

    def start(self, process: Process, value: Any = None, **options: Any) -> Started:
        """Deploy and start."""
        self.client.processes.deploy(process)
        return self.client.start(process, value, **options)

    def stand_on(self, content: Process, *runs: Any) -> None:
        """That content is its version's next revision, unchecked, and those runs stand on it."""
        with self.context.transaction() as connection:
            current = next(
                each.code_revision
                for each in processes.read_revisions(connection, content.name, content.version)
                if each.is_current
            )
            made = amend_if_current(
                connection, content, InputSchema(), current=current, by="", reason="", diff={}
            )
        for run in runs:
            self.database.rows(
                "UPDATE perennial.run SET code_revision = :made WHERE id = :id",
                made=made,
                id=run.run_id,
            )

    def run(self, process: Process, value: Any = None, **options: Any) -> Started:
        """Deploy, start, and deliver what is due."""
        started = self.start(process, value, **options)
        self.drain()
        return started

    def status(self, run: Any) -> RunStatus:
        return self.client.get(run).status

    def events(self, run: Any) -> list[str]:
        return [entry.event for entry in self.client.history(run)]

    # -- deliveries --------------------------------------------------------------------------

    def deliver(self, message: Handoff | UUID, context: EngineContext | None = None) -> None:
        """As `deliver` does, and in the mode's way."""
        if self.mode.delivers_twice:
            self._late.append(message)
            self._do(message, context or self.context)
        self._do(message, context or self.context)

    def _do(self, message: Handoff | UUID, context: EngineContext) -> None:
        if self.mode.goes_on and not isinstance(message, UUID):
            import_module("tests.eager").do(message, context)
        else:
            deliver(message, context)

    def _deliver_together(self, messages: Sequence[Handoff]) -> list[Handoff]:
        """The turns that are asked for, in one batch, even if it is one turn; answers what is left."""
        turns_of = [message.run_id for message in messages if message.task == ADVANCE]
        eager = import_module("tests.eager")
        eager.go_in_a_batch(self.context, turns_of, lambda _run_id: eager.GoesOn())
        return [message for message in messages if message.task != ADVANCE]

    def relay_all(self) -> None:
        """Share after share, as maintenance does."""
        while sweep.relay(self.context) >= self.settings.batch_size:
            pass

    def pending(self) -> list[Handoff]:
        """What is to be delivered now: what was handed off, and what a relay, or a sweep, finds due."""
        if self.mode.hears_producers:
            self.relay_all()
        elif self.mode.hears_workers:
            sweep.sweep(self.context)
        else:
            self._sweep_impatiently()
        found, self.messenger.handed_off = self._left + self.messenger.handed_off, []
        self._left = []
        return found

    def _sweep_impatiently(self) -> None:
        """As if handoffs had waited for their first interval, and due timers for the grace, already: the
        clock is the scenario's to move.
        """
        self.database.rows(
            "UPDATE perennial.outbox SET publish_at = perennial.now() "
            "WHERE publish_at <= perennial.now() + :first * interval '1 second'",
            first=self.settings.relay_after_seconds,
        )
        at_once = self.settings.model_copy(update={"timer_grace_seconds": 0.0})
        sweep.sweep(replace(self.context, settings=at_once))

    def drain(self, *, bound: int = 2000) -> int:
        """Deliver messages and fire due timers until nothing is due; answers how many that were."""
        delivered = 0
        while True:
            due = self.due_timers()
            messages = self.pending()
            handed_over = len(messages)
            if not due and not messages:
                if not self._late:
                    return delivered
                late, self._late = self._late, []
                for message in late:
                    self._do(message, self.context)
            if self.mode.hears_workers:
                for timer_id in due:
                    self.deliver(timer_id)
            if self.mode.goes_on:
                messages = self._deliver_together(messages)
            for message in messages:
                self.deliver(message)
            delivered += len(due) + handed_over
            assert delivered < bound, "the fleet doesn't come to rest"

    def recover(self, rounds: int = 6) -> None:
        """Time passes; sweeps find what was left undone, and it is delivered."""
        for _ in range(rounds):
            self.move(seconds=30)
            sweep.sweep(self.context)
            self.drain()

    def due_timers(self) -> list[UUID]:
        rows = self.database.rows(
            "SELECT id FROM perennial.timer WHERE state = 'armed' AND due_at <= perennial.now() ORDER BY due_at, id"
        )
        return [row.id for row in rows]

    # -- time --------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        return self.database.moved_to or datetime.now(UTC)

    def freeze(self, at: datetime | None = None) -> datetime:
        """Stop the clock."""
        at = at or datetime.now(UTC).replace(microsecond=0)
        self.database.set_clock(at)
        return at

    def move(self, **by: float) -> datetime:
        """Move the clock forward; it stands still there."""
        at = self.now + timedelta(**by)
        self.database.set_clock(at)
        return at

    # -- the record --------------------------------------------------------------------------

    def open_things(self, run: Any) -> dict[str, int]:
        """What the record still holds open for a run; all zero once it has ended."""
        row = self.database.rows(
            """SELECT
                (SELECT count(*) FROM perennial.activity WHERE run_id = :id AND settled_at IS NULL) AS activities,
                (SELECT count(*) FROM perennial.timer WHERE run_id = :id AND state = 'armed') AS timers,
                (SELECT count(*) FROM perennial.approval WHERE run_id = :id AND state = 'open') AS approvals,
                (SELECT count(*) FROM perennial.outbox WHERE run_id = :id) AS handoffs,
                (SELECT count(*) FROM perennial.run WHERE id = :id AND turn_token IS NOT NULL) AS turns""",
            id=run.run_id if isinstance(run, Started) else run,
        )[0]
        return dict(row._mapping)

    def assert_ended_cleanly(self, run: Any) -> None:
        assert self.client.get(run).status.is_closed
        assert not any(self.open_things(run).values()), self.open_things(run)


# -- round trips ---------------------------------------------------------------------------------


class WireTrace:
    """libpq's own trace of an engine's connections: each Sync or simple Query is a round trip."""

    def __init__(self, engine: Engine) -> None:
        self._file = tempfile.NamedTemporaryFile("r+", suffix=".trace")  # noqa: SIM115 - closed in stop
        self._traced: list[Any] = []
        engine.dispose()
        event.listen(engine, "connect", self._trace)
        self._engine = engine

    def _trace(self, dbapi_connection: Any, _record: Any) -> None:
        connection = dbapi_connection  # psycopg's own
        connection.pgconn.trace(self._file.fileno())
        connection.pgconn.set_trace_flags(psycopg.pq.Trace.SUPPRESS_TIMESTAMPS)
        self._traced.append(connection)

    def lines(self) -> list[str]:
        return Path(self._file.name).read_text().splitlines()

    @contextmanager
    def counting(self) -> Iterator[Count]:
        before = len(self.lines())
        count = Count()
        yield count
        sent = [line for line in self.lines()[before:] if line.startswith("F\t")]
        count.round_trips = sum(1 for line in sent if re.match(r"F\t\d+\t(Query|Sync)\b", line))
        count.transaction_control = [
            line
            for line in sent
            if re.search(r"\"\s*(BEGIN|COMMIT|ROLLBACK|DEALLOCATE)", line, re.IGNORECASE)
        ]

    def stop(self) -> None:
        event.remove(self._engine, "connect", self._trace)
        for connection in self._traced:
            if not connection.closed:
                connection.pgconn.untrace()
        self._engine.dispose()
        self._file.close()


class Count:
    """How many round trips a block made, and which of them were BEGIN, COMMIT and the like."""

    round_trips: int = -1
    transaction_control: Sequence[str] = ()


# -- two at once ---------------------------------------------------------------------------------


def wait_for(
    look: Callable[[], Any], what: str, *, within_seconds: float = DEADLINE_SECONDS
) -> Any:
    """Poll a fact that another thread is bringing about; fails after a deadline."""
    give_up_at = time.monotonic() + within_seconds
    nobody = threading.Event()
    while not (found := look()):
        if time.monotonic() > give_up_at:
            message = f"{what} did not happen within {within_seconds} s"
            raise AssertionError(message)
        nobody.wait(0.002)
    return found


def wait_until_blocked(
    database: Database, count: int = 1, *, or_ended: threading.Thread | None = None
) -> None:
    """Until `count` sessions of this database wait for a lock."""
    wait_for(
        lambda: (
            (or_ended is not None and not or_ended.is_alive())
            or database.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            >= count
        ),
        f"{count} session(s) waiting for a lock",
    )


class Thread(threading.Thread):
    """A thread whose outcome is kept: `outcome()` joins, and returns or raises it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is asked for
            self._error = error

    def outcome(self) -> Any:
        self.join(DEADLINE_SECONDS)
        assert not self.is_alive(), "the other side hangs"
        if self._error is not None:
            raise self._error
        return self._result


def meanwhile(harness: Harness, work: Callable[[Any], Any], *, at: Any = None) -> Thread:
    """`work(connection)` on a connection of its own, in a transaction; it is waiting for a lock when this returns,
    or has ended, where the guard that makes it wait is cut out."""

    def on_its_own() -> Any:
        with (
            contextlib.closing(harness.database.psycopg()) as closed_at_last,
            closed_at_last as connection,
        ):
            if at is not None:
                connection.execute(f"SET perennial.now = '{at.isoformat()}'")
            return work(connection)

    thread = Thread(on_its_own)
    wait_until_blocked(harness.database, or_ended=thread)
    return thread


@contextmanager
def released(*held: psycopg.Connection[Any]) -> Iterator[None]:
    """Roll back and close connections, whatever happened."""
    try:
        yield
    finally:
        for connection in held:
            with contextlib.suppress(psycopg.Error):
                connection.close()
