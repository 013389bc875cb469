"""A stage: a function of the fleet's, handed off to whichever worker has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.core import codec
from orchestrator.core.definition import Stage
from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds.base import Ask, NewActivity, Request, Then, TimerRule
from orchestrator.errors import InvalidArguments, PayloadError


@dataclass(slots=True)
class StageCall(Ask):
    """A stage and its arguments by name."""

    stage: Stage[..., Any]
    arguments: dict[str, Any]

    kind: ClassVar = ActivityKind.STAGE
    opened_event: ClassVar = "stage handed off"
    is_work: ClassVar = True
    is_handed_off: ClassVar = True
    timers: ClassVar = (TimerRule("retry", leads_to=ActivityState.PENDING, then=Then.HANDOFF),)

    def compared(self) -> dict[str, Any]:
        """The stage's arguments."""
        return self.arguments

    @property
    def result_type(self) -> Any:
        """As the stage declares it."""
        return self.stage.result_type

    def open(self, request: Request) -> NewActivity:
        """With all that its worker needs."""
        stage = self.stage
        what = f"argument of stage {stage.name}"
        try:
            parts = [
                f"{codec.encode_name(name)}:{codec.encode(value, stage.parameters[name], what=what)}"
                for name, value in self.arguments.items()
            ]
        except PayloadError as error:
            raise InvalidArguments(str(error)) from None
        return NewActivity(
            request,
            ActivityState.PENDING,
            input="{" + ",".join(parts) + "}",
            queue=stage.queue,
            policy=stage.retry.as_policy(),
            timeout_seconds=stage.timeout_seconds,
        )
