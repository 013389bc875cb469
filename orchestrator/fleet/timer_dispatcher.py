"""Delayed messages reach their queues: a thread beside each worker sleeps on Redis until a timer is due."""

from __future__ import annotations

import logging

from orchestrator.engine.sweep import rebuild_index
from orchestrator.faults import around
from orchestrator.fleet.member import Member
from orchestrator.fleet.timer_index import TimerIndex

log = logging.getLogger(__name__)


class TimerDispatcher:
    """Delayed messages, one look at a time."""

    def __init__(self, member: Member, timer_index: TimerIndex) -> None:
        self._member, self._timer_index = member, timer_index

    def work(self) -> None:
        """Move what is due; then sleep until the next is, or rebuild what Redis has lost."""
        moved = self._timer_index.move()
        if not moved.epoch_is_there and self._timer_index.may_rebuild():  # guard: epoch check
            try:
                with around("rebuild"):
                    count = rebuild_index(self._member.context)
                    self._timer_index.rebuilt()
            except BaseException:
                self._timer_index.let_rebuild()  # guard: a failed rebuild is made again
                raise
            log.info(
                "a new epoch of Redis: %s timer(s) indexed again",
                count,
                extra={"action": "rebuild"},
            )
            return
        self._timer_index.wait(moved.wait_seconds)
