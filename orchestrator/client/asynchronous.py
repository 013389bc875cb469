"""`AsyncClient`: the verbs of `Client`, awaited, for programs on an event loop (FastAPI and others).

    async with AsyncClient("postgresql://…") as client:
        run = await client.start("access-request", {"user": "ann", ...}, key="REQ-1")
        (await client.get(run)).waits

There is one description of each verb, that of `Client`. Here it runs on a stack of its own (a greenlet, as
SQLAlchemy's asyncio does it), which gives way to the loop wherever Postgres is waited for. (docs/adr/0053)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

from pydantic import SecretStr
from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from orchestrator.client.bulk import Bulk
from orchestrator.client.client import Client
from orchestrator.client.operations import Operations
from orchestrator.client.processes import Processes
from orchestrator.core.definition import Registry, default_registry
from orchestrator.engine.context import EngineContext, connect, connect_for_reads, settings_of
from orchestrator.engine.start import Starts
from orchestrator.errors import UnusableConnection
from orchestrator.settings import Settings
from orchestrator.store.driver import await_here, on_a_stack_of_its_own

P = ParamSpec("P")
R = TypeVar("R")


class Verb(Generic[P, R]):
    """A verb of a client that waits, as one that is awaited: same arguments, same answer, same errors."""

    def __init__(self, function: Callable[Concatenate[Any, P], R]) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    @overload
    def __get__(self, facet: None, kind: type, /) -> Self: ...
    @overload
    def __get__(self, facet: _Facet, kind: type, /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(self, facet: Any, kind: type, /) -> Any:
        """As a method."""
        if facet is None:
            return self
        function = self.function

        async def verb(*args: P.args, **kwargs: P.kwargs) -> R:
            return await on_a_stack_of_its_own(_perform, function, facet.waiting, args, kwargs)

        verb.__name__, verb.__doc__ = function.__name__, self.__doc__
        return verb


def _perform(
    function: Callable[..., R], facet: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> R:
    if kwargs.get("connection") is not None:
        kwargs["connection"] = _waiting(kwargs["connection"])
    answer = function(facet, *args, **kwargs)
    # What reads as it goes is read here: there is no loop to give way to where it is gone through.
    return cast("R", iter(list(answer))) if isinstance(answer, Iterator) else answer


def _waiting(connection: Any) -> Any:
    """What waits on this stack, in what a caller has given."""
    if isinstance(connection, AsyncSession):
        return connection.sync_session
    if isinstance(connection, AsyncConnection):
        found = connection.sync_connection
        if found is None:
            raise UnusableConnection(
                "this AsyncConnection is not begun: use it in `async with engine.begin() as connection:`"
            )
        return found
    if isinstance(connection, AsyncEngine):
        raise UnusableConnection(
            "AsyncEngine is no connection and has no transaction: give the connection of an"
            " `async with engine.begin() as connection:`, or an AsyncSession"
        )
    raise UnusableConnection(
        f"AsyncClient's connection= can't be {type(connection).__module__}.{type(connection).__qualname__}, on which"
        " the loop would wait: give SQLAlchemy's AsyncConnection or AsyncSession, or use Client"
    )


class _Facet:
    """A part of the client, beside the one of `Client` whose verbs it has."""

    def __init__(self, waiting: Any) -> None:
        self.waiting = waiting
        """The same part of `Client`, on connections that give way to the loop."""


class AsyncBulk(_Facet):
    """One verb over many runs: `client.operations.bulk`."""

    preview = Verb(Bulk.preview)
    apply = Verb(Bulk.apply)
    resume = Verb(Bulk.resume)
    pause = Verb(Bulk.pause)
    stop = Verb(Bulk.stop)
    list = Verb(Bulk.list)
    get = Verb(Bulk.get)
    results = Verb(Bulk.results)


class AsyncOperations(_Facet):
    """An operator's verbs: `client.operations`."""

    retry = Verb(Operations.retry)
    skip = Verb(Operations.skip)
    complete = Verb(Operations.complete)
    fail = Verb(Operations.fail)
    edit = Verb(Operations.edit)
    rewind = Verb(Operations.rewind)
    fork = Verb(Operations.fork)
    export = Verb(Operations.export)
    restart = Verb(Operations.restart)
    pause = Verb(Operations.pause)
    resume = Verb(Operations.resume)
    incidents = Verb(Operations.incidents)
    cause = Verb(Operations.cause)
    note_cause = Verb(Operations.note_cause)
    mute_cause = Verb(Operations.mute_cause)
    mend_cause = Verb(Operations.mend_cause)
    counts = Verb(Operations.counts)
    timer_lateness = Verb(Operations.timer_lateness)
    tree = Verb(Operations.tree)

    def __init__(self, waiting: Operations) -> None:
        super().__init__(waiting)
        self.bulk = AsyncBulk(waiting.bulk)


class AsyncProcesses(_Facet):
    """The definitions in the record: `client.processes`."""

    deploy = Verb(Processes.deploy)
    list = Verb(Processes.list)
    history = Verb(Processes.history)
    set_current = Verb(Processes.set_current)
    retire = Verb(Processes.retire)
    unretire = Verb(Processes.unretire)
    check = Verb(Processes.check)
    propose_migration = Verb(Processes.propose_migration)
    preview_migration = Verb(Processes.preview_migration)
    migrate = Verb(Processes.migrate)
    undo_migration = Verb(Processes.undo_migration)
    needs_amendment = Verb(Processes.needs_amendment)
    preview_amendment = Verb(Processes.preview_amendment)
    amend = Verb(Processes.amend)


class AsyncClient(_Facet):
    """A door to the record for one event loop. Close it, or use it as an async context manager."""

    start = Verb(Client.start)
    start_many = Verb(Client.start_many)
    signal = Verb(Client.signal)
    answer = Verb(Client.answer)
    complete = Verb(Client.complete)
    fail_callback = Verb(Client.fail_callback)
    heartbeat = Verb(Client.heartbeat)
    cancel = Verb(Client.cancel)
    decide = Verb(Client.decide)
    approve = Verb(Client.approve)
    reject = Verb(Client.reject)
    approvals = Verb(Client.approvals)
    get = Verb(Client.get)
    list = Verb(Client.list)
    query = Verb(Client.query)
    history = Verb(Client.history)
    result = Verb(Client.result)

    def __init__(
        self,
        database: str | SecretStr | URL | AsyncEngine | Settings | None = None,
        *,
        registry: Registry = default_registry,
        schema: str | None = None,
    ) -> None:
        """As `Client`; an engine is one of SQLAlchemy's asyncio, on psycopg, and stays yours.

        Connects on first use, on the loop that it is used on: one client for each loop. Raises what `Client` does.
        """
        given: Any = database  # not every author runs mypy
        if isinstance(given, Engine):
            message = "AsyncClient takes an AsyncEngine (sqlalchemy.ext.asyncio), not an Engine: or use Client"
            raise TypeError(message)
        super().__init__(_OnLoop(database, registry=registry, schema=schema))
        self.processes = AsyncProcesses(self.waiting.processes)
        """What may be started: `client.processes.deploy`."""
        self.operations = AsyncOperations(self.waiting.operations)
        """An operator's verbs: `client.operations.resume`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    close = Verb(Client.close)


class _OnLoop(Client):
    """The client whose verbs these are, on connections that give way to the loop."""

    def __init__(
        self,
        database: str | SecretStr | URL | AsyncEngine | Settings | None,
        *,
        registry: Registry,
        schema: str | None,
    ) -> None:
        self._owns_engine = not isinstance(database, AsyncEngine)
        given: Any = database.sync_engine if isinstance(database, AsyncEngine) else database
        settings = settings_of(given, schema)
        self._registry, self._schema = registry, settings.database_schema
        if isinstance(database, AsyncEngine):
            engine, for_reads = given, None
        else:
            engine = connect(settings, is_async=True)
            for_reads = connect_for_reads(settings, is_async=True)
        self._stand_on(
            EngineContext(engine, registry, settings, reads=for_reads, looks_before_use=True)
        )

    def _starts_on(self, context: EngineContext) -> Starts:
        """Each by itself: those who share a statement would wait for each other's thread."""
        return Starts(context)

    def _pause(self, seconds: float) -> None:
        await_here(asyncio.sleep(seconds))
