"""A made-up Client behind the real command line: what is typed, printed and exited with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

from typer.testing import CliRunner, Result

from orchestrator.cli.app import app
from orchestrator.cli.session import Session
from orchestrator.client import Client
from orchestrator.client.operations import Operations
from orchestrator.client.processes import Processes
from orchestrator.core.journal import ActivityKind
from orchestrator.core.run import RunStatus
from orchestrator.core.views import (
    ApprovalView,
    HistoryEntry,
    RunSummary,
    RunView,
    Upcoming,
    Wait,
)

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
RUN_ID = UUID("0195a1f0-0000-7000-8000-000000000017")


def ago(**parts: float) -> datetime:
    return NOW - timedelta(**parts)


def ahead(**parts: float) -> datetime:
    return NOW + timedelta(**parts)


MANAGER = Wait(
    kind=ActivityKind.APPROVAL,
    key="wait-for-manager-approval",
    name="wait-for-manager-approval",
    who=("alice",),
    since=ago(hours=2, minutes=5),
    next=(
        Upcoming("escalates to director", ahead(hours=21, minutes=55)),
        Upcoming("times out", ahead(hours=45, minutes=55)),
    ),
)

WAITING = RunView(
    id=RUN_ID,
    process="access-request",
    version=1,
    business_key="permit-17",
    status=RunStatus.WAITING,
    stage="wait-for-manager-approval",
    previous_stage="validate-request",
    revision=3,
    input={"user": "ada", "role": "admin"},
    output=None,
    error=None,
    attributes={},
    created_at=ago(hours=2, minutes=6),
    started_at=ago(hours=2, minutes=6),
    last_progress_at=ago(hours=2, minutes=5),
    expires_at=None,
    closed_at=None,
    next_timer_at=ahead(hours=21, minutes=55),
    waiting_for="approval wait-for-manager-approval",
    active_milliseconds=41,
    waits=(MANAGER,),
)

APPROVAL = ApprovalView(
    run_id=RUN_ID,
    key="wait-for-manager-approval",
    name="wait-for-manager-approval",
    process="access-request",
    business_key="permit-17",
    state="open",
    assignees=("alice",),
    escalated=False,
    opened_at=ago(hours=2, minutes=5),
    escalates_at=ahead(hours=21, minutes=55),
    deadline=ahead(hours=45, minutes=55),
    decided_by=None,
    decided_at=None,
    comment="",
    input={"user": "ada", "role": "admin"},
)

HISTORY = [
    HistoryEntry(ago(hours=2, minutes=6), "ada", "started", None, None, None, "running", {}),
    HistoryEntry(
        ago(hours=2, minutes=5),
        "worker-1@host",
        "stage-done",
        "validate-request",
        2,
        "running",
        "waiting",
        {"queue": "celery"},
    ),
]


def summary(view: RunView) -> RunSummary:
    """The run as `ps` has it."""
    shared = {name: getattr(view, name) for name in RunSummary.__slots__ if name != "waiting_for"}
    wait = view.waits[0] if view.waits else None
    return RunSummary(**shared, waiting_for=f"{wait.kind} {wait.name}" if wait else None)


@dataclass(frozen=True)
class Deployed:
    name: str
    version: int
    fingerprint: str
    created: bool
    replaced: bool = False
    unchecked: str = ""


@dataclass
class FakeClient:
    """Answers from `answers`; an answer that is an exception is raised. Remembers what was asked."""

    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    closed: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.closed = True

    @property
    def operations(self) -> Any:
        return _Facet(self, Operations)

    @property
    def processes(self) -> Any:
        return _Facet(self, Processes)

    def __getattr__(self, verb: str) -> Any:
        assert verb.startswith("__") or hasattr(Client, verb), f"Client has no {verb}"
        return self.answer_to(verb)

    def answer_to(self, verb: str) -> Any:
        def answer(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((verb, args, kwargs))
            given = self.answers[verb]
            if isinstance(given, BaseException):
                raise given
            return given

        return answer


@dataclass
class _Facet:
    """The verbs that the real one has, answered by the client it is of."""

    client: FakeClient
    real: type

    def __getattr__(self, verb: str) -> Any:
        assert hasattr(self.real, verb), f"{self.real.__name__} has no {verb}"
        return self.client.answer_to(verb)


@dataclass
class Terminal:
    """`perennial(...)` as typed, at a fixed moment in UTC, with the fake Client behind it."""

    client: FakeClient
    session: Session
    width: int = 100

    def __call__(self, *arguments: str, stdin: str | None = None, **environment: str) -> Result:
        env = {
            "COLUMNS": str(self.width),
            "TERMINAL_WIDTH": str(self.width),
            "PERENNIAL_DATABASE_URL": "postgresql+psycopg://made@up/db",
            "PERENNIAL_BROKER_URL": None,
            "PERENNIAL_APP": None,
            "PERENNIAL_DATA_DIR": None,
            "FORCE_COLOR": None,
            "NO_COLOR": None,
        }
        session = replace(self.session)
        return CliRunner().invoke(app, arguments, obj=session, input=stdin, env=env | environment)

    def json(self, *arguments: str) -> Any:
        """The one document that stdout holds."""
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def refusal(self, *arguments: str) -> tuple[int, dict[str, str]]:
        """The exit code and the error on stderr, with nothing on stdout."""
        result = self(*arguments, "--json")
        assert result.stdout == ""
        return result.exit_code, json.loads(result.stderr)["error"]
