"""Start runs: one statement, in the producer's own transaction if it likes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.core import codec
from orchestrator.core.checks import check_delay, check_words
from orchestrator.core.definition import Process, Registry
from orchestrator.core.views import Started
from orchestrator.errors import PayloadError, UnknownProcess
from orchestrator.store.starts import NewRun, start_runs
from orchestrator.store.statement import AnyConnection

RUNS_PER_CALL_MAX = 10_000
"""The most runs one `start_many` takes: one statement must stay a reasonable message."""

KEY_LENGTH_MAX = 500


def start(
    connection: AnyConnection,
    registry: Registry,
    process: str | Process,
    inputs: Sequence[Any],
    *,
    keys: Sequence[str | None],
    version: int | None,
    attributes: dict[str, Any] | None,
    expires_in: timedelta | None,
    by: str,
) -> list[Started]:
    """Start a run for each input; the answers come in the inputs' order.

    Raises InvalidInput where the process's type is known here, PayloadError, and UnknownProcess.
    """
    if len(inputs) > RUNS_PER_CALL_MAX:
        raise PayloadError(
            f"{len(inputs)} runs in one call; the bound is {RUNS_PER_CALL_MAX}. Start them in parts."
        )
    if len(inputs) != len(keys):
        raise PayloadError(
            f"{len(inputs)} inputs, but {len(keys)} keys: give one key for each input"
        )
    if not inputs:
        return []
    name, version, definition = _definition(registry, process, version)
    declared = definition.input_type if definition is not None else Any
    what = f"input of {name}"
    runs: dict[str | UUID, NewRun] = {}
    asked: list[str | UUID] = []
    for value, key in zip(inputs, keys, strict=True):
        run = NewRun(uuid7(), _checked_key(key), codec.check_input(value, declared, what=what))
        asked.append(key or run.id)
        runs.setdefault(key or run.id, run)
    rows = start_runs(
        connection,
        name,
        list(runs.values()),
        version=version,
        attributes=_written(attributes, name),
        expires_in_seconds=_seconds(expires_in),
        actor=_actor(by),
    )
    if rows is None:
        wanted = name if version is None else f"{name} version {version}"
        raise UnknownProcess(
            f"no process {wanted!r} is deployed; deploy it with `perennial deploy`"
        )
    found = {
        row.business_key or row.id: Started(row.id, row.process, row.version, row.created)
        for row in rows
    }
    return [found[reference] for reference in asked]


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
    return by or "producer"


def _checked_key(key: str | None) -> str | None:
    if key is not None and not (0 < len(key) <= KEY_LENGTH_MAX and key.isprintable()):
        raise PayloadError(
            f"a business key has 1 to {KEY_LENGTH_MAX} printable characters: {key[:40]!r}"
        )
    return key
