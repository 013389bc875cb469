"""Heartbeats of a stage's own: how far it has come, written now and then, fenced by its attempt.

No thread and no timer of its own: the calls of the author's code write, at most every few seconds; and who looks for
attempts that are lost looks for those that have said nothing for too long. (docs/adr/0058)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from orchestrator.core import codec
from orchestrator.core.definition import Stage
from orchestrator.core.heartbeats import DETAILS_CHARACTERS_MAX, EVERY_SECONDS_MAX
from orchestrator.engine.context import EngineContext
from orchestrator.engine.event_loop import EVENT_LOOP
from orchestrator.engine.stage_steps import AttemptLost
from orchestrator.engine.troubles import one_line
from orchestrator.errors import PayloadError
from orchestrator.store.transitions.claim import Claim
from orchestrator.store.transitions.heartbeats import beat_attempt_if_claimed

log = logging.getLogger(__name__)


class BeatsOfStage:
    """Those of one attempt. Made with it, and idle until its code calls `heartbeat`."""

    __slots__ = (
        "_claim",
        "_context",
        "_is_lost",
        "_said",
        "_stage",
        "_unwritten",
        "_writing",
        "_written_at",
    )

    def __init__(self, context: EngineContext, claim: Claim, stage: Stage[..., Any]) -> None:
        self._context, self._claim, self._stage = context, claim, stage
        self._said: str | None = None
        """The details of this attempt, as JSON text."""
        self._unwritten: str | None = None
        self._written_at: float | None = None
        self._is_lost = False
        self._writing: threading.Lock | None = None
        """Of two writes the later one is the last in the record too."""

    def beat(self, details: Any) -> None:
        """The stage goes on. Raises AttemptLost, PayloadError."""
        if self._is_lost:
            raise AttemptLost(self._claim.key)
        what = f"details of a heartbeat of stage {self._stage.name}"
        text = codec.encode(details, what=what)
        if len(text) > DETAILS_CHARACTERS_MAX:
            raise PayloadError(
                f"{what} have {len(text)} characters, and may have {DETAILS_CHARACTERS_MAX}: say how far the stage"
                " has come, and keep what it has found elsewhere"
            )
        self._said = self._unwritten = text
        self._writing = self._writing or threading.Lock()
        now = self._context.monotonic()
        # guard: heartbeats are written now and then
        if self._written_at is not None and now - self._written_at < self._every_seconds():
            return
        self._written_at = now
        if self._stage.is_asynchronous:
            EVENT_LOOP.do_aside(self.write)  # the loop waits for no Postgres
        else:
            self.write()
            if self._is_lost:
                raise AttemptLost(self._claim.key)

    def last(self, declared: Any) -> Any:
        """What was said last, in this attempt or one before."""
        what = f"heartbeat of stage {self._stage.name}"
        if self._said is not None:
            return codec.decode_recorded(codec.parse(self._said), declared, what=what)
        if self._claim.heartbeat is None:
            return None
        return codec.decode_recorded(self._claim.heartbeat, declared, what=what)

    def write(self) -> None:
        """What is not written yet. A heartbeat is a hint: where Postgres is away, the stage goes on."""
        if self._writing is not None:
            with self._writing:
                self._write()

    def _write(self) -> None:
        text, self._unwritten = self._unwritten, None
        if text is None or self._is_lost:
            return
        claim = self._claim
        try:
            with self._context.connection() as connection:
                is_ours = beat_attempt_if_claimed(
                    connection, claim.run.context.id, claim.key, claim.attempt, details=text
                )
        except SQLAlchemyError as error:
            log.warning("a heartbeat of %s could not be written: %s", claim.key, one_line(error))
            return
        self._is_lost = not is_ours

    def _every_seconds(self) -> float:
        bound = self._stage.heartbeat_seconds
        return EVERY_SECONDS_MAX if bound is None else min(EVERY_SECONDS_MAX, bound / 3)


def flushing(beats: BeatsOfStage | None, call: Callable[[], Any]) -> Any:
    """What it returns. Where it raises, the next attempt is to know how far it has come."""
    try:
        return call()
    except BaseException:
        if beats is not None:
            beats.write()
        raise
