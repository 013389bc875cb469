"""A child: another run, that this one starts, and whose end it is told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

from orchestrator.core import codec
from orchestrator.core.definition import Process
from orchestrator.core.journal import Activity, ActivityKind, ActivityState
from orchestrator.core.kinds.base import (
    Answer,
    Ask,
    AwaitedRow,
    ChildStart,
    NewActivity,
    Request,
    RunNames,
)
from orchestrator.errors import ChildFailed, ChildKeyTaken, activity_failed

CHILD = ActivityKind("child")

OnParentEnd = Literal["cancel", "abandon", "wait"]
"""What the end of a parent does to a child that is open: it is cancelled; it goes on by itself; a parent that ends of
itself waits for it first. So it is for a child that its flow needs no more, as a race or a block is over without it;
one to be waited for goes on then.
"""

KEY_TAKEN = "ChildKeyTaken"
"""Stands as the `type` in the error of a line whose child's business key is another run's."""


@dataclass(frozen=True, slots=True)
class ChildHandle:
    """A child that was started and is not awaited."""

    run_id: UUID
    process: str
    business_key: str | None = None

    def __str__(self) -> str:
        return str(self.run_id)


@dataclass(frozen=True, slots=True)
class ChildCall(Ask):
    """A run of that process. `started_at`: it is not awaited, and this is the time that its flow has seen."""

    process: Process | str
    value: Any
    business_key: str | None
    on_parent_end: OnParentEnd
    expires_in_seconds: float | None = None
    started_at: datetime | None = None

    kind: ClassVar = CHILD
    opened_event: ClassVar = "child started"
    is_counted_down: ClassVar = True

    def compared(self) -> dict[str, Any]:
        """What starts, and with what. What the parent's end does is another matter."""
        return {
            "process": self._process_name,
            "input": self.value,
            "business_key": self.business_key,
        }

    @property
    def _process_name(self) -> str:
        return self.process.name if isinstance(self.process, Process) else self.process

    @property
    def must_be_awaited(self) -> bool:
        """One that the flow's end waits for needs no more."""
        return self.on_parent_end != "wait"

    @property
    def is_waited_for_at_the_end(self) -> bool:
        """As its author has chosen."""
        return self.on_parent_end == "wait"

    @property
    def result_type(self) -> Any:
        """What the process gives; of one that is known by name alone, whatever came."""
        if self.started_at is not None:
            return ChildHandle
        return self.process.result_type if isinstance(self.process, Process) else Any

    def open(self, request: Request) -> NewActivity:
        """With the run that is to be started. Raises InvalidInput: the process doesn't take that."""
        declared = self.process.input_type if isinstance(self.process, Process) else Any
        what = f"input of child {self._process_name}"
        child = ChildStart(
            process=self._process_name,
            input=codec.check_input(self.value, declared, what=what),
            business_key=self.business_key,
            on_parent_end=self.on_parent_end,
            expires_in_seconds=self.expires_in_seconds,
            is_awaited=self.started_at is None,
        )
        if self.started_at is None:
            return NewActivity(request, ActivityState.PENDING, child=child)
        return NewActivity(request, ActivityState.DONE, child=child, settled_at=self.started_at)

    def answer(self, request: Request, entry: Activity) -> Answer:
        """How it ended, if not with a result: of which run, and why."""
        if entry.state is not ActivityState.FAILED:
            return Ask.answer(self, request, entry)
        told = entry.error or {}
        run = told.get("run")
        if run is None:  # an operator has failed it by hand
            return Answer(error=activity_failed(request.key, told, attempts=1))
        kind, message = str(told.get("type")), str(told.get("message"))
        if kind == KEY_TAKEN:
            return Answer(
                error=ChildKeyTaken(
                    request.key,
                    message,
                    run_id=UUID(run),
                    business_key=self.business_key or "",
                )
            )
        return Answer(
            error=ChildFailed(
                request.key,
                run_id=UUID(run),
                process=str(told.get("process")),
                status=str(told.get("status")),
                error_type=kind,
                message=message,
            )
        )

    @classmethod
    def who(cls, row: AwaitedRow) -> tuple[str, ...]:
        """The child, which has a page of its own."""
        return (f"run {(row.policy or {}).get('child')}",)

    @classmethod
    def typed(cls, _names: RunNames, _key: str, _name: str, who: tuple[str, ...]) -> str:
        """Look at it."""
        run = next(iter(who), "").strip("'").removeprefix("run ")
        return f"perennial show {run}" if run else ""
