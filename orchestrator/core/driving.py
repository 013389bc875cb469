"""What flow code may not call itself, since it would be done unrecorded, and again at each replay.

While the kernel drives flow code, `driven_by` holds the turn. What a step calls isn't flow code: the turn
performs steps between two of the flow's own lines.
"""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol


class Turn(Protocol):
    """The turn that drives a flow."""

    def refuse(self, kind: str, why: str) -> NoReturn:
        """Park the run, whatever its flow makes of it."""


driven_by: ContextVar[Turn | None] = ContextVar("perennial_driven_by", default=None)

STAGE_INSTEAD = "`await flow.stage({name}, …)`"
_INSTEAD = {
    ("orchestrator.core.steps", "step"): "`await flow.step(…)`",
    ("orchestrator.core.steps", "idempotency_key"): "it in the stage or step that needs it",
    ("orchestrator.core.heartbeats", "heartbeat"): "it in the stage that takes long",
    ("orchestrator.core.heartbeats", "last_heartbeat"): "it in the stage that takes long",
}


def instead_of(called: Any) -> str | None:
    """What a flow writes instead of calling this itself. None: it may call it."""
    instead = getattr(type(called), "instead_in_flow", None) or _INSTEAD.get(
        (getattr(called, "__module__", ""), getattr(called, "__qualname__", ""))
    )
    name = str(getattr(called, "__name__", "")).replace("-", "_")
    return None if instead is None else instead.format(name=name)


def refuse_in_flow(called: Any) -> None:
    """Park the run of the flow whose code calls this; nothing happens anywhere else.

    For the very function that an author calls: its caller's line is named.
    """
    turn = driven_by.get()
    if turn is None:
        return
    frame = inspect.currentframe()
    caller = frame.f_back.f_back if frame is not None and frame.f_back is not None else None
    at = f"{caller.f_code.co_filename}:{caller.f_lineno}: " if caller is not None else ""
    name = getattr(called, "__name__", called)
    turn.refuse(
        "CalledInFlow",
        f"{at}the flow calls {name} itself, so that it is done unrecorded and again at each replay. "
        f"Write {instead_of(called)}",
    )
