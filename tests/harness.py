"""The engine without Celery: what it would have sent is collected, and `drain` delivers it here.

Database     a database of the tests' own, and its clock: `SET perennial.now` for every session
Harness      workers (EngineContexts) over it, a client, and the deliveries between them
WireTrace    round trips as libpq counts them on the wire: a hidden BEGIN or COMMIT counts too
wait_for     bounded polling of a fact in Postgres; `wait_until_blocked` for a lock's queue
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import psycopg
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, event, text

from orchestrator import Client, Registry, Settings
from orchestrator.core.definition import Process
from orchestrator.core.run import RunStatus
from orchestrator.core.views import Started
from orchestrator.engine.context import EngineContext, connect
from orchestrator.engine.fire import fire
from orchestrator.engine.liveness import Identity
from orchestrator.engine.recover import relay, sweep
from orchestrator.engine.stage import run_stage
from orchestrator.engine.turn import advance
from orchestrator.store import workers
from orchestrator.store.outbox import ADVANCE, Handoff
from orchestrator.store.timers import ArmedTimer

TABLES = [
    "history",
    "outbox",
    "schedule",
    "worker",
    "signal",
    "timer",
    "approval_vote",
    "approval",
    "activity",
    "run",
    "process",
]
DEADLINE_SECONDS = 10.0


class Database:
    """One database, an engine on it, and the clock that all its new sessions see."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self.url = name, url
        self.engine = create_engine(url)
        self._engines: list[Engine] = [self.engine]
        self.moved_to: datetime | None = None

    @property
    def libpq_url(self) -> str:
        return self.url.replace("postgresql+psycopg://", "postgresql://")

    def open(self, settings: Settings | None = None) -> Engine:
        """An engine as the fleet has it."""
        engine = connect(settings or self.settings())
        event.listen(engine, "connect", self._note_clock)
        event.listen(engine, "checkin", self._close_if_of_another_clock)
        self._engines.append(engine)
        return engine

    def _note_clock(self, _connection: object, record: Any) -> None:
        record.info["clock"] = self.moved_to

    def _close_if_of_another_clock(self, connection: Any, record: Any) -> None:
        """It was out while the clock was moved: its pool is gone, and nobody else would close it."""
        if connection is not None and record.info.get("clock") != self.moved_to:
            record.invalidate()

    def settings(self, **others: Any) -> Settings:
        return Settings(database_url=SecretStr(self.url), **others)

    def psycopg(self, *, autocommit: bool = False) -> psycopg.Connection[Any]:
        return psycopg.connect(self.libpq_url, autocommit=autocommit)

    def rows(self, sql: str, **parameters: object) -> list[Any]:
        with self.engine.begin() as connection:
            result = connection.execute(text(sql), parameters)
            return list(result) if result.returns_rows else []

    def value(self, sql: str, **parameters: object) -> Any:
        (row,) = self.rows(sql, **parameters)
        return row[0]

    def empty(self) -> None:
        """Commit + DELETE: cheaper than TRUNCATE on small tables."""
        if self.moved_to is not None:
            self.set_clock(None)
        with self.engine.begin() as connection:
            for table in TABLES:
                connection.execute(text(f"DELETE FROM perennial.{table}"))

    def set_clock(self, at: datetime | None) -> None:
        """Every session that begins from now on sees this moment; open ones are closed."""
        self.moved_to = at
        what = "RESET perennial.now" if at is None else f"SET perennial.now = '{at.isoformat()}'"
        with self.engine.begin() as connection:
            connection.execute(text(f"ALTER DATABASE {self.name} {what}"))
        for engine in self._engines:
            engine.dispose()

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
    """Keeps what the engine tells the fleet."""

    def __init__(self) -> None:
        self.handed_off: list[Handoff] = []
        self.armed: list[ArmedTimer] = []
        self.disarmed: list[UUID] = []
        self.announced: list[tuple[UUID, str, RunStatus, str | None]] = []

    def hand_off(self, handoffs: Sequence[Handoff]) -> None:
        self.handed_off.extend(handoffs)

    def backlog_of(self, queue: str | None) -> int:
        return 0

    def arm(self, timers: Sequence[ArmedTimer]) -> None:
        self.armed.extend(timers)

    def disarm(self, timers: Sequence[tuple[UUID, str | None]]) -> None:
        self.disarmed.extend(timer_id for timer_id, _ in timers)

    def announce(
        self, run_id: UUID, process: str, status: RunStatus, waiting_for: str | None
    ) -> None:
        self.announced.append((run_id, process, status, waiting_for))


class Harness:
    """A fleet of one, and more with `worker()`. Messages are delivered when the test says so."""

    def __init__(self, database: Database, registry: Registry | None = None) -> None:
        self.database = database
        self.registry = registry or Registry()
        self.settings = database.settings()
        self.context = self.worker("worker-1")
        self.client = Client(self.settings, registry=self.registry)
        database._engines.append(self.client._context.database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.client.close()
        self.context.database.dispose()

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
            messenger=CollectingMessenger(),
            identity=Identity(name),
            chance=lambda: 0.5,
        )
        if beats:
            self.beat(context)
        return context

    def beat(self, context: EngineContext) -> UUID:
        """One heartbeat of that worker's identity, as its heart would write it."""
        with context.identity.holding() as worker_id, context.connection() as connection:
            workers.beat(connection, [worker_id], name=context.identity.name, pid=1)
        return worker_id

    # -- runs --------------------------------------------------------------------------------

    def start(self, process: Process, value: Any = None, **options: Any) -> Started:
        """Deploy and start."""
        self.client.deploy(process)
        return self.client.start(process, value, **options)

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

    def deliver(self, handoff: Handoff, context: EngineContext | None = None) -> None:
        """What the Celery task of this message does."""
        context = context or self.context
        if handoff.task == ADVANCE:
            advance(context, handoff.run_id)
        else:
            run_stage(context, handoff.run_id, handoff.key, handoff.attempt)

    def pending(self) -> list[Handoff]:
        """What is to be delivered now: what was handed off, and what a relay finds due."""
        relay(self.context)
        found, self.messenger.handed_off = self.messenger.handed_off, []
        return found

    def drain(self, *, timers: bool = True, bound: int = 2000) -> int:
        """Deliver messages and fire due timers until nothing is due; answers how many that were."""
        delivered = 0
        while True:
            due = self.due_timers() if timers else []
            messages = self.pending()
            if not due and not messages:
                return delivered
            for timer_id in due:
                self.context.messenger.hand_off(fire(self.context, timer_id))
            for message in messages:
                self.deliver(message)
            delivered += len(due) + len(messages)
            assert delivered < bound, "the fleet doesn't come to rest"

    def recover(self, rounds: int = 6) -> None:
        """Time passes; sweeps find what was left undone, and it is delivered."""
        for _ in range(rounds):
            self.move(seconds=30)
            sweep(self.context)
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


def wait_for(look: Callable[[], Any], what: str) -> Any:
    """Poll a fact that another thread is bringing about; fails after a deadline."""
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    nobody = threading.Event()
    while not (found := look()):
        if time.monotonic() > give_up_at:
            message = f"{what} did not happen within {DEADLINE_SECONDS} s"
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


@contextmanager
def released(*held: psycopg.Connection[Any]) -> Iterator[None]:
    """Roll back and close connections, whatever happened."""
    try:
        yield
    finally:
        for connection in held:
            with contextlib.suppress(psycopg.Error):
                connection.close()
