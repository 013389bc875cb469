"""A stage: a function of the fleet's, handed off to whichever worker has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.core import codec
from orchestrator.core.approvals import Decision
from orchestrator.core.definition import Registry, Stage
from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.kinds.base import Ask, NewActivity, Request, SoFar, Then, TimerRule
from orchestrator.errors import InvalidArguments, PayloadError

UNDOES = "undoes"
"""In the policy of a compensation: the key of what it undoes; "" of one that was added by hand."""

ENDS = "ends"
"""And that its run ends with it."""


@dataclass(slots=True)
class StageCall(Ask):
    """A stage and its arguments by name."""

    stage: Stage[..., Any]
    arguments: dict[str, Any]
    compensation: Any = None
    """What undoes it (`core.undoing.Compensation`), if anything does."""
    undoes: dict[str, Any] | None = None
    """It is a compensation: the marks that its policy has of that (`UNDOES`)."""

    kind: ClassVar = ActivityKind.STAGE
    opened_event: ClassVar = "stage handed off"
    is_work: ClassVar = True
    is_handed_off: ClassVar = True
    is_counted_down: ClassVar = True
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
            policy=policy_of(stage) | (self.undoes or {}),
            timeout_seconds=stage.timeout_seconds,
        )

    @classmethod
    def entries_in(cls, registry: Registry) -> Mapping[str, Any]:
        """Those that are registered with @stage."""
        return registry.stages

    @classmethod
    def of_entry(cls, entry: Stage[..., Any], so_far: SoFar) -> StageCall:
        """The run's input is its first argument; further ones are what came before, by name."""
        inputs = (so_far.value,) if entry.parameters else ()
        arguments = arguments_of(entry, so_far.results, so_far.decisions)
        return cls(entry, entry.bind(inputs, arguments))


def policy_of(stage: Stage[..., Any]) -> dict[str, Any]:
    """What the record keeps for those who judge its attempts without its Python."""
    policy = stage.retry.as_policy()
    if stage.heartbeat_seconds is not None:
        policy["heartbeat_seconds"] = stage.heartbeat_seconds
    return policy


def arguments_of(
    stage: Stage[..., Any], results: Mapping[str, Any], decisions: Mapping[str, Decision]
) -> dict[str, Any]:
    """What a stage of a declarative process gets beyond the input, of what has happened so far."""
    available: dict[str, Any] = {parameter_of(name): result for name, result in results.items()}
    available["decision"] = next(reversed([*decisions.values()]), None)
    available["decisions"] = dict(decisions)
    return {name: available[name] for name in list(stage.parameters)[1:] if name in available}


def parameter_of(name: str) -> str:
    """`provision-access` is handed on as `provision_access`."""
    return re.sub(r"[^a-z0-9]", "_", name)
