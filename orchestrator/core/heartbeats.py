"""What a long stage says of itself: `heartbeat(details)`, and what the attempt before has said last.

Outside of a stage both do nothing, so that a stage is tested as plain Python.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, overload

from orchestrator.core.driving import refuse_in_flow
from orchestrator.core.steps import stage_at_work

T = TypeVar("T")

DETAILS_CHARACTERS_MAX = 4_000
"""The details of a heartbeat are no place for results: they say how far a stage has come."""

EVERY_SECONDS_MAX = 5.0
"""Details are written as often as this, or three times within a stage's `heartbeat_seconds`."""


class Beats(Protocol):
    """What the engine puts behind `heartbeat` while a stage is at work."""

    def beat(self, details: Any) -> None:
        """The stage goes on."""

    def last(self, declared: Any) -> Any:
        """What was said last."""


def heartbeat(details: Any = None) -> None:
    """The stage at work goes on, and has come so far: `heartbeat({"done": 40, "of": 100})`.

    Call it as often as you like, in a plain stage or an `async def`: details are written every few seconds, and when
    the attempt fails. The next attempt finds the last ones (`last_heartbeat`), and `perennial show` shows them. A stage
    with `heartbeat_seconds` that says nothing for so long has failed that attempt. Where this attempt was handed to
    another worker, the call ends it. Raises PayloadError: the details have no JSON form, or are too large.
    """
    refuse_in_flow(heartbeat)
    beats = _beats()
    if beats is not None:
        beats.beat(details)


@overload
def last_heartbeat() -> Any: ...
@overload
def last_heartbeat(type: type[T]) -> T | None: ...
def last_heartbeat(type: Any = Any) -> Any:  # noqa: A002 - as of a signal
    """The details that this stage has said last, in this attempt or the one before; None: none.

    `type`: what they are read as, plain JSON by default. Raises PayloadMismatch where they don't fit.
    """
    refuse_in_flow(last_heartbeat)
    beats = _beats()
    return None if beats is None else beats.last(type)


def _beats() -> Beats | None:
    context = stage_at_work()
    return None if context is None else context.beats
