"""What every verb of the engine needs: the database, the definitions, the fleet's ear, and who we are."""

from __future__ import annotations

import random
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Any, Self
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry

from orchestrator.core import jsonb
from orchestrator.core.definition import Registry, Stage
from orchestrator.core.kept_flow import KeptFlow, Known
from orchestrator.core.kinds.base import NewActivity
from orchestrator.core.replay import Replay
from orchestrator.engine.alive import connect_alive
from orchestrator.engine.definitions import Definitions
from orchestrator.engine.elsewhere import Elsewhere
from orchestrator.engine.event_loop import awaited
from orchestrator.engine.foreign import Foreign
from orchestrator.engine.liveness import Identity
from orchestrator.engine.messenger import Messenger, SilentMessenger
from orchestrator.engine.reports import Reports
from orchestrator.engine.set_aside import SetAside
from orchestrator.errors import PerennialError
from orchestrator.faults import reach
from orchestrator.settings import Settings, SettingsError
from orchestrator.store.batched import BatchConnection
from orchestrator.store.driver import as_plain
from orchestrator.store.schema import checked, options_in, schema_of
from orchestrator.store.session import connection_arguments, set_up
from orchestrator.store.statement import COMMITS_EACH, lack_in, pooler_in
from orchestrator.store.transitions.claim import Claim

POOL_SIZE = 5
"""So many connections are kept for a process' threads; twice as many may be open."""

_PLANNED_ONCE = {"plan_cache_mode": "force_generic_plan"}
"""One plan fits all: a transition finds its rows by key, and planning it costs more than running it (docs/adr/0008)."""

_FOUND_BY_KEY = {f"enable_{way}": "off" for way in ("seqscan", "hashjoin", "mergejoin")}
"""A plan that was made while a table was small must not read all of it when it has grown (docs/adr/0014)."""

StageCall = Callable[[Stage[..., Any], Claim, dict[str, Any]], Any]
"""Calls a stage's function with its arguments. Raises what that raises, and RetryAsked."""


def call_plainly(stage: Stage[..., Any], _claim: Claim, arguments: dict[str, Any]) -> Any:
    """A stage is a function. Where it is an `async def`, this thread waits for it."""
    return awaited(stage(**arguments), timeout_seconds=stage.timeout_seconds)


StepCaller = Callable[[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], Any]
"""Calls what a step is. Raises what that raises; of an `async def` it gives what is to be awaited."""


def call_step_plainly(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """A step is a function."""
    return function(*args, **kwargs)


MayTake = Callable[[NewActivity], bool]
"""Whether this worker goes on with that stage at once, without a message in between."""


def by_message(_stage: NewActivity) -> bool:
    """Each stage is handed off by a message: the rule, and all there is without `engine.eager`."""
    return False


class Batch(BatchConnection):
    """The batch that a run goes on in (engine.eager.batch), as that run sees it."""

    @abstractmethod
    def step_aside(self, name: str) -> None:
        """Before a call that others shouldn't wait for: wait for them, or be handed back."""


class NoKeptFlows:
    """Each turn replays its flow: the rule, and all there is without `engine.eager.kept_flows`."""

    def wants(self, replay: Replay) -> bool:
        """Whether this flow is to be kept once its turn is committed."""
        del replay
        return False

    def known(self, run_id: UUID) -> Known | None:
        """What is known of that run."""
        del run_id
        return None

    def take(self, run_id: UUID, revision: int, process: object) -> KeptFlow | None:
        """Its flow, as that revision has left it. Whoever takes it puts it back, or closes it."""
        del run_id, revision, process
        return None

    def put(self, run_id: UUID, flow: KeptFlow) -> None:
        """Keep it until its next turn."""
        del run_id
        flow.close()


class UntimedCalls:
    """Nobody asks how long calls take: the rule, and all there is without `engine.eager.call_durations`."""

    def note(self, name: str, seconds: float) -> None:
        """A call has ended."""

    def is_short(self, name: str) -> bool:
        """Whether others may wait for a call of it."""
        del name
        return False


@dataclass
class EngineContext:
    """Built once per process by whoever composes it: the fleet, the client, a test."""

    database: Engine
    registry: Registry
    settings: Settings
    messenger: Messenger = field(default_factory=SilentMessenger)
    identity: Identity = field(default_factory=Identity)
    random: Callable[[], float] = random.random
    monotonic: Callable[[], float] = time.monotonic
    call_durations: UntimedCalls = field(default_factory=UntimedCalls)
    kept_flows: NoKeptFlows = field(default_factory=NoKeptFlows)
    reports: Reports = field(default_factory=Reports)
    """Who is told of what has failed."""
    call_stage: StageCall = call_plainly
    """The fleet knows stages that are Celery tasks."""
    call_step: StepCaller = call_step_plainly
    """The kit for tests has stand-ins."""
    replay: Callable[..., Any] | None = None
    """What stands for `Replay` in a turn; None: itself. The kit for tests replays at each await."""
    may_take: MayTake = by_message
    """Whether this worker goes on with a stage that its commit opens, which the commit then claims for it."""
    batch: Batch | None = None
    """The batch that this run goes on in, if it does."""
    spare: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(POOL_SIZE))
    """Half of the connections that may be open: so many may be held by one who may come to ask for another."""

    foreign: Foreign | None = None
    """What a relay leaves to other apps on this database; None: it sends all."""
    elsewhere: Elsewhere | None = None
    """Who sends on what this worker can't run; None: it is left to a relay."""
    reads: Engine | None = None
    """For what reads or changes as many rows as there are; None: on `database` (docs/adr/0041)."""
    looks_before_use: bool = False
    """Whether a connection that was cut in its pool is seen before it is used: for who can't repeat a verb."""

    def __post_init__(self) -> None:
        self.definitions = Definitions(self.registry, self.monotonic)
        self.set_aside = SetAside(self.monotonic)
        # Nor does the engine of somebody else's know of a schema.
        options = options_in(self.settings.database_schema)
        # Connections that `connect` makes commit each statement. Whoever's else are told so for each use.
        each = {"isolation_level": "AUTOCOMMIT", **options}
        self._each, self._freely = (
            engine
            if COMMITS_EACH in engine.get_execution_options()
            else engine.execution_options(**each)
            for engine in (self.database, self.reads or self.database)
        )
        self._together = self.database.execution_options(
            isolation_level="READ COMMITTED", **options
        )

    def going_on(self, may_take: MayTake) -> Self:
        """The same context for a worker that goes on with such stages: whoever takes it does what is claimed."""
        one = copy(self)
        one.may_take = may_take
        return one

    def in_batch(self, batch: Batch) -> Self:
        """The same context for a run of a batch."""
        one = copy(self)
        one.batch = batch
        return one

    def connection(self) -> Connection:
        """For verbs of one statement: each is its own transaction, in one round trip. Close it, as `with` does."""
        return self._take(self._each)

    def reading(self) -> Connection:
        """For a statement over as many rows as there are: Postgres plans it for what it is asked. Close it."""
        return self._take(self._freely)

    def dispose(self, *, close: bool = True) -> None:
        """Let the pools' connections go. `close` False: they are another process's, and stay open."""
        for engine in (self.database, self.reads):
            if engine is not None:
                engine.dispose(close=close)

    def asking(self) -> AbstractContextManager[Connection | BatchConnection]:
        """A connection; or the batch that this run is in: then one statement asks for several runs."""
        return self.connection() if self.batch is None else nullcontext(self.batch)

    def calling(self, name: str) -> _Calling:
        """Around a call of what an author has written: how long it takes is remembered."""
        return _Calling(self, name)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """For verbs of several statements: all or nothing."""
        with self._take(self._together) as connection, connection.begin():
            yield connection
            reach("before", "transaction")
        reach("after", "transaction")

    def _take(self, engine: Engine) -> Connection:
        return connect_alive(engine) if self.looks_before_use else engine.connect()


class _Calling:
    """A class, and no generator: it is made for each stage and step."""

    __slots__ = ("_context", "_name", "_started")

    def __init__(self, context: EngineContext, name: str) -> None:
        self._context, self._name = context, name

    def __enter__(self) -> None:
        self._started = self._context.monotonic()

    def __exit__(self, *_error: object) -> None:
        self._context.call_durations.note(self._name, self._context.monotonic() - self._started)


def connect(
    settings: Settings,
    *,
    pool_size: int = POOL_SIZE,
    commits_each: bool = True,
    finds_by_key: bool = False,
    is_async: bool = False,
) -> Engine:
    """A lazy SQLAlchemy engine on the settings' database, for transitions; connects on first use.

    No ping before use: it would be a round trip a transition. A connection that a restart of Postgres
    has broken fails one verb, and the pool is renewed; the fences let us repeat it (`once_more_if_cut`).

    `commits_each`: each statement commits by itself, as nearly all verbs want it. False: for whoever uses the
    engine beside us, as SQLAlchemy's own engines are. `finds_by_key`: for workers, whose connections live long.
    `is_async`: its connections wait on an event loop, for who is on a stack that can (`driver.await_here`).
    """
    return _engine(
        settings,
        also=_PLANNED_ONCE | (_FOUND_BY_KEY if finds_by_key else {}),
        pool_size=pool_size,
        max_overflow=pool_size,
        prepare_threshold=0,
        commits_each=commits_each,
        needs_session=finds_by_key,
        is_async=is_async,
    )


def connect_for_reads(
    settings: Settings, *, pool_size: int = POOL_SIZE, is_async: bool = False
) -> Engine:
    """Another on the same database, for reads and bulk work: each statement is planned for what it is asked.

    `pool_size`: so many connections at most, each opened when it is first needed. (docs/adr/0041)
    """
    return _engine(
        settings,
        also={},
        pool_size=pool_size,
        max_overflow=0,
        prepare_threshold=None,
        commits_each=True,
        needs_session=False,
        is_async=is_async,
    )


def _engine(
    settings: Settings,
    *,
    also: Mapping[str, str],
    pool_size: int,
    max_overflow: int,
    prepare_threshold: int | None,
    commits_each: bool,
    needs_session: bool,
    is_async: bool,
) -> Engine:
    engine = settings.database_address().engine(
        is_async=is_async,
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_reset_on_return=None,
        skip_autocommit_rollback=True,
        hide_parameters=True,  # payloads stay out of logs and of recorded errors
        json_deserializer=jsonb.loads,
        isolation_level="AUTOCOMMIT" if commits_each else None,
        execution_options=({COMMITS_EACH: True} if commits_each else {})
        | options_in(settings.database_schema),
        connect_args={
            "connect_timeout": 10,
            "application_name": "perennial",
            "prepare_threshold": prepare_threshold,
            "keepalives_idle": 10,
            "tcp_user_timeout": 30_000,  # milliseconds, after which a silent network is a lost one
            **connection_arguments(),
        },
    )
    # A worker that stalls in a transaction may not keep its locks for ever.
    idle_milliseconds = str(round(settings.dead_after_seconds * 1000))
    also = {**also, "idle_in_transaction_session_timeout": idle_milliseconds}

    def prepare(connection: Any, _record: object) -> None:
        set_up(
            as_plain(connection),
            also=also,
            keeps=frozenset() if commits_each else frozenset({"search_path"}),
            pooler=settings.database_pooler,
            needs_session=needs_session,
        )

    event.listen(engine, "connect", prepare, insert=True)  # before SQLAlchemy looks at the server
    _close_what_has_failed(engine)  # guard: a failed statement leaves no plan in Postgres
    return engine


def settings_of(database: Any, schema: str | None = None) -> Settings:
    """The settings that a caller means who names a database in this way, and a schema. Never another database.

    Raises SettingsError for an engine that doesn't speak to Postgres through psycopg, and for a schema that no
    record may be in; TypeError for what names no database.
    """
    settings = _settings_of(database)
    if schema is None:
        return settings
    try:
        return settings.model_copy(update={"database_schema": checked(schema)})
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _settings_of(database: Any) -> Settings:
    if database is None:
        return Settings()
    if isinstance(database, Settings):
        return database
    if isinstance(database, SecretStr):
        return Settings(database_url=database)
    if isinstance(database, str | URL):
        return Settings(database_url=SecretStr(_text_of(database)))
    if not isinstance(database, Engine):
        kind = f"{type(database).__module__}.{type(database).__qualname__}"
        remedy = (
            ": give it the engine's url" if isinstance(getattr(database, "url", None), URL) else ""
        )
        message = (
            "a database is a URL as text or sqlalchemy.URL, a SQLAlchemy Engine, Settings, "
            f"or None for PERENNIAL_DATABASE_URL, not {kind.removeprefix('builtins.')}{remedy}"
        )
        raise TypeError(message)
    if (database.dialect.name, database.driver) != ("postgresql", "psycopg"):
        raise SettingsError(
            f"this engine speaks to {database.dialect.name} through {database.driver}, and Perennial to "
            "Postgres through psycopg: give the URL of a Postgres, and it makes an engine of its own"
        )
    return Settings()


def _text_of(url: str | URL) -> str:
    return url if isinstance(url, str) else url.render_as_string(hide_password=False)


def _close_what_has_failed(engine: Engine) -> None:
    """A connection on which a statement has failed is closed when it comes back to its pool.

    psycopg forgets the name of a prepared statement that fails, and doesn't deallocate it: on a connection
    that is kept, each failure leaves a plan in its Postgres process (12 KiB and more; 3.3.9).
    """

    def note(failure: ExceptionContext) -> PerennialError | None:
        if failure.connection is not None and not failure.connection.invalidated:
            failure.connection.info[_HAS_FAILED] = True
        error = failure.original_exception
        return pooler_in(error) or lack_in(error, failure.statement, schema_of(engine))

    def close(_connection: object, record: ConnectionPoolEntry) -> None:
        if record.info.pop(_HAS_FAILED, False):
            record.invalidate(soft=False)

    event.listen(engine, "handle_error", note, retval=True)
    event.listen(engine, "checkin", close)


_HAS_FAILED = "perennial.has_failed"
