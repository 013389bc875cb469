"""Errors as a person or a script meets them: one line, an exit code, no traceback.

What is not explained here is a bug, and keeps its traceback.
"""

from __future__ import annotations

import re
import shlex
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from orchestrator import errors
from orchestrator.errors import PerennialError


class ExitCode(IntEnum):
    """How the command ends. `perennial --help` lists these."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    NOT_FOUND = 3
    INTERRUPTED = 130


class CommandRefused(PerennialError):
    """The command line was not understood; the message says what to type."""


class NotConfirmed(PerennialError):
    """What the command would do was shown, and nobody was there to confirm it. Nothing was done."""


class NothingToConnectTo(CommandRefused):
    """No database or broker is named."""


class AppNotFound(PerennialError):
    """The Celery app that holds the stages can't be imported."""


class FleetFailed(PerennialError):
    """`perennial up` could not start, or not keep, what it promised."""


class Refusals(PerennialError):
    """Several definitions are wrong: each with its place and its remedy, one to a line."""

    def __init__(self, refusals: Sequence[PerennialError]) -> None:
        super().__init__("\n".join(_message_of(refusal) for refusal in refusals))


@dataclass(frozen=True, slots=True)
class Failure:
    """An error, explained. `type` is stable: scripts may compare it."""

    type: str
    message: str
    exit_code: ExitCode = ExitCode.REFUSED


_NOT_FOUND = (errors.RunNotFound, errors.UnknownProcess)

_SCHEMA_IS_OLD = ("42P01", "42703", "3F000", "42883")  # no such table, column, schema, function

_NEXT: tuple[tuple[type[PerennialError], str], ...] = (
    (errors.RunNotFound, "`perennial ps` lists the runs."),
    (errors.UnknownProcess, "`perennial deploy` deploys it."),
    (errors.RunClosed, "`perennial show RUN` tells how it ended."),
    (
        errors.RunNotClosed,
        "`perennial show RUN` tells what it waits for; `--wait SECONDS` waits for the end.",
    ),
    (
        errors.RunFailed,
        "`perennial history RUN` tells the story; `perennial retry RUN` lets it go on from where it failed.",
    ),
    (errors.RunCompleted, "`perennial restart RUN --even-if-completed` says so."),
    (errors.DecisionRefused, "`perennial show RUN` tells where it stands."),
)


def explain(error: BaseException, *, run: str | None = None) -> Failure | None:
    """What to tell about an error; None when it isn't ours to explain. `run`: as who asks has named it."""
    if isinstance(error, CommandRefused | errors.SettingsError):
        return Failure(type(error).__name__, str(error), ExitCode.USAGE)
    if isinstance(error, PerennialError):
        code = ExitCode.NOT_FOUND if isinstance(error, _NOT_FOUND) else ExitCode.REFUSED
        return Failure(type(error).__name__, _as_named(_with_next_step(error), run), code)
    if isinstance(error, ImportError):
        return _explain_import(error)
    for root, explanation in (
        ("sqlalchemy", _explain_database),
        ("psycopg", _explain_database),
        ("redis", _explain_broker),
        ("kombu", _explain_broker),
        ("pydantic_core", _explain_setting),
        ("orchestrator", _explain_embedded),
    ):
        if any(kind.__module__.partition(".")[0] == root for kind in type(error).__mro__):
            return explanation(error)
    return None


def _explain_import(error: ImportError) -> Failure | None:
    """The driver is there, and finds no libpq to speak through. Any other import that fails is a bug."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or Path(frames[-1].filename).parts[-3:-1] != ("psycopg", "pq"):
        return None
    return Failure(
        "NoLibpq",
        "psycopg finds no libpq here, so that Postgres can't be reached: "
        "pip install 'celery-perennial[binary]' brings one.",
    )


def _with_next_step(error: PerennialError) -> str:
    """The message, and the command that helps if the message names none."""
    message = _message_of(error)
    step = next((step for kind, step in _NEXT if isinstance(error, kind)), "")
    if not step or "`perennial" in message:
        return message
    return f"{message.rstrip()}{'' if message.rstrip().endswith(('.', '!', '?')) else '.'} {step}"


def _as_named(message: str, run: str | None) -> str:
    """With the run as it was typed: a key, say, and not the id that it stands for."""
    if run is None:
        return message
    message = _RUN_IN_COMMAND.sub(lambda found: f"{found[1]}{shlex.quote(run)}", message)
    return (
        _RUN_ID.sub(lambda _: f"run {run}", message) if not _RUN_ID.match(f"run {run}") else message
    )


_RUN_IN_COMMAND = re.compile(r"(`perennial (?:[^`]* )?)RUN(?=[ `])")
_RUN_ID = re.compile(r"\brun [0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


def _message_of(error: PerennialError) -> str:
    """What it says, with its notes: further problems of the same file."""
    told = str(error) or type(error).__doc__ or type(error).__name__
    return "\n".join((told, *getattr(error, "__notes__", ())))


def _explain_database(error: BaseException) -> Failure | None:
    import psycopg
    from sqlalchemy.exc import OperationalError, ProgrammingError

    cause = getattr(error, "orig", error)  # the driver's own error
    sqlstate = getattr(cause, "sqlstate", None)
    if isinstance(error, OperationalError | psycopg.OperationalError) and sqlstate is None:
        return Failure(
            "DatabaseUnreachable",
            f"can't reach Postgres: {_one_line(cause)}. Is it running? `perennial up` starts one; "
            "--database-url or PERENNIAL_DATABASE_URL names another.",
        )
    if sqlstate in _SCHEMA_IS_OLD:
        return Failure(
            "SchemaNotReady",
            f"the database lacks Perennial's tables, or has older ones ({_one_line(cause)}). "
            "`perennial db upgrade` makes them.",
        )
    if isinstance(error, OperationalError | ProgrammingError | psycopg.Error):
        return Failure("DatabaseRefused", f"Postgres refused ({sqlstate}): {_one_line(cause)}")
    return None


def _explain_broker(error: BaseException) -> Failure | None:
    from kombu.exceptions import OperationalError
    from redis.exceptions import ConnectionError as RedisConnectionError

    if isinstance(error, OperationalError | RedisConnectionError):
        return Failure(
            "BrokerUnreachable",
            f"can't reach the broker: {_one_line(error)}. Is it running? "
            "`perennial up` starts one; --broker-url or PERENNIAL_BROKER_URL names another.",
        )
    return None


def _explain_embedded(error: BaseException) -> Failure | None:
    from orchestrator.embedded.errors import EmbeddedServerError

    return (
        Failure("EmbeddedServerError", str(error))
        if isinstance(error, EmbeddedServerError)
        else None
    )


def _explain_setting(error: BaseException) -> Failure | None:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError) or error.title != "Settings":
        return None
    wrong = (
        f"PERENNIAL_{'_'.join(map(str, each['loc'])).upper().removeprefix('PERENNIAL_')}: "
        + each["msg"].removeprefix("Value error, ")
        for each in error.errors()
    )
    return Failure("SettingsError", "; ".join(wrong), ExitCode.USAGE)


def _one_line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        lines[0].removeprefix("connection failed: ").rstrip(".") if lines else type(error).__name__
    )
