"""Start runs: one statement, in the producer's own transaction if it likes.

request = check(registry, "access-request", [...], keys=["REQ-1"], ...)    it may be started
start(connection, request)                                                 in one statement
Starts(context).start(request)                                             in one with other threads' starts
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from orchestrator.core import codec
from orchestrator.core.checks import check_delay, check_words, composed
from orchestrator.core.definition import Process, Registry
from orchestrator.core.views import Started
from orchestrator.engine.batching import Batches
from orchestrator.engine.context import EngineContext, is_refused
from orchestrator.errors import PayloadError, UnknownProcess
from orchestrator.store.starts import NewRun, Terms, has_started, start_runs
from orchestrator.store.statement import AnyConnection

RUNS_PER_CALL_MAX = 10_000
"""The most runs one `start_many` takes: one statement must stay a reasonable message."""

KEY_LENGTH_MAX = 500

PATIENCE_MILLISECONDS = 50
"""So long a statement that holds several threads' starts waits for a key that somebody's transaction holds."""


@dataclass(frozen=True, slots=True)
class StartRequest:
    """Runs that are asked for, and may be: of the process's newest version, or of `version`."""

    process: str
    version: int | None
    runs: Sequence[NewRun]


def check(
    registry: Registry,
    process: str | Process,
    inputs: Sequence[Any],
    *,
    keys: Sequence[str | None],
    version: int | None,
    attributes: dict[str, Any] | None,
    expires_in: timedelta | None,
    by: str,
) -> StartRequest:
    """A run for each input. Raises InvalidInput where the process's type is known here, and PayloadError."""
    if len(inputs) > RUNS_PER_CALL_MAX:
        raise PayloadError(
            f"{len(inputs)} runs in one call; the bound is {RUNS_PER_CALL_MAX}. Start them in parts."
        )
    if len(inputs) != len(keys):
        raise PayloadError(
            f"{len(inputs)} inputs, but {len(keys)} keys: give one key for each input"
        )
    name, version, definition = _definition(registry, process, version)
    declared = definition.input_type if definition is not None else Any
    what = f"input of {name}"
    terms = Terms(_written(attributes, name), _seconds(expires_in), _actor(by))
    return StartRequest(
        name,
        version,
        [
            NewRun(uuid7(), _checked_key(key), codec.check_input(value, declared, what=what), terms)
            for value, key in zip(inputs, keys, strict=True)
        ],
    )


def start(
    connection: AnyConnection, request: StartRequest, *, patience_milliseconds: int | None = None
) -> list[Started]:
    """Start them, in one statement; the answers come in their order. Raises UnknownProcess.

    `patience_milliseconds`: as `start_runs` says.
    """
    if not request.runs:
        return []
    runs = _first_of_each_key(request.runs)
    answers = start_runs(
        connection,
        request.process,
        runs,
        version=request.version,
        patience_milliseconds=patience_milliseconds,
    )
    if answers is None:
        wanted = f"process {request.process!r}"
        if request.version is not None:
            wanted += f" version {request.version}"
        raise UnknownProcess(f"no {wanted} is deployed; deploy it with `perennial deploy`")
    if len(runs) == len(request.runs):
        return answers
    found = {run.business_key or run.id: answer for run, answer in zip(runs, answers, strict=True)}
    return [found[run.business_key or run.id] for run in request.runs]


def _first_of_each_key(runs: Sequence[NewRun]) -> Sequence[NewRun]:
    if len(runs) == 1:
        return runs
    first_of_key = {run.business_key: run for run in reversed(runs)}
    return [
        run for run in runs if run.business_key is None or first_of_key[run.business_key] is run
    ]


class Starts:
    """Starts by the threads of one process. Those that come at once go in one statement (docs/adr/0023)."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._batches: Batches[StartRequest, Started] = Batches(
            self._start_together,
            self._start_alone,
            kind=lambda request: (request.process, request.version),
            mark=lambda request: request.runs[0].business_key,
            goes_alone=_goes_alone,
        )

    def start(self, request: StartRequest) -> Started:
        """Start the one run that is asked for, in a transaction of its own or of several threads'."""
        return self._batches.ask(request)

    def _start_together(self, asks: Sequence[StartRequest]) -> list[Started]:
        runs = [run for request in asks for run in request.runs]
        together = StartRequest(asks[0].process, asks[0].version, runs)
        with self._context.connection() as connection:
            return start(connection, together, patience_milliseconds=PATIENCE_MILLISECONDS)

    def _start_alone(self, request: StartRequest) -> Started:
        try:
            with self._context.connection() as connection:
                (started,) = start(connection, request)
        except IntegrityError:
            # Among others it may have started, though whoever asked for all of them was ended before it said so.
            with self._context.connection() as connection:
                found = has_started(connection, request.runs[0])
            if found is None:
                raise
            started = found
        return started


def _goes_alone(failure: Exception, how_many: int) -> bool:
    """Each asks once more alone where Postgres refused the statement of several, or the patience ran out."""
    if isinstance(failure, UnknownProcess):
        return how_many > 1
    is_impatience = getattr(getattr(failure, "orig", None), "sqlstate", None) == (
        LockNotAvailable.sqlstate
    )
    return is_refused(failure) and (how_many > 1 or is_impatience)


def _definition(
    registry: Registry, process: str | Process, version: int | None
) -> tuple[str, int | None, Process | None]:
    """Name, version and, where this program has it, the definition: to check inputs early."""
    if isinstance(process, Process):
        return process.name, process.version, process
    try:
        return process, version, registry.process(process, version)
    except UnknownProcess:
        return process, version, None


def _written(attributes: dict[str, Any] | None, process: str) -> str:
    return (
        codec.encode(attributes, what=f"attributes of a run of {process}") if attributes else "{}"
    )


def _seconds(expires_in: timedelta | None) -> float | None:
    if expires_in is None:
        return None
    check_delay(expires_in.total_seconds(), what="expires_in")
    return expires_in.total_seconds()


def _actor(by: str) -> str:
    if by:
        check_words(by, what="a producer", where="start")
    return composed(by) or "producer"


def _checked_key(key: str | None) -> str | None:
    """One key for what looks the same."""
    key = composed(key) if key is not None else None
    if key is not None and not (0 < len(key) <= KEY_LENGTH_MAX and key.isprintable()):
        raise PayloadError(
            f"a business key has 1 to {KEY_LENGTH_MAX} printable characters: {key[:40]!r}"
        )
    return key
