"""How the pool's children end: their parent sees it, and notes it in the record.

A child that dies (a crash, an exit, the kernel's out-of-memory killer) can't say so itself. Celery tells
the parent, in its event loop, where nothing may wait. So what was seen is kept here, and maintenance
notes it before it looks for what was lost. Only then an incident can say more than that a worker is gone.

It must be seen before the child's silence is judged. Celery's pool hears of an exit at once or, if it heard
too early to find the exit code, when it looks at its children, every five seconds: that is too late, so
it is made to look more often.

Pools without a parent (solo, threads) tell nothing, and neither does a machine that is gone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from celery.exceptions import WorkerLostError
from celery.signals import task_failure
from sqlalchemy.exc import OperationalError

from orchestrator.fleet.compat import look_at_children_of, reason_of
from orchestrator.fleet.member import Member
from orchestrator.store.parts import ADVANCE
from orchestrator.store.transitions import exits

log = logging.getLogger(__name__)

EXITS_MAX = 1000
"""So many are kept while Postgres is away; then the oldest is forgotten."""


@dataclass(frozen=True, slots=True)
class ChildExit:
    """A child that ended in the middle of our task."""

    task: str
    arguments: tuple[Any, ...]
    reason: str


class ChildExits:
    """What this worker saw, and has not noted yet."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._seen: deque[ChildExit] = deque(maxlen=EXITS_MAX)
        self._looks: Any = None

    def watch(self, worker: Any) -> None:
        """Begin to listen to this Celery worker."""
        task_failure.connect(self._on_failure, weak=False)
        look = look_at_children_of(worker)
        if look is not None:
            interval_seconds = self._member.settings.heartbeat_seconds / 2
            self._looks = worker.timer.call_repeatedly(interval_seconds, look)

    def unwatch(self) -> None:
        """End it."""
        task_failure.disconnect(self._on_failure)
        if self._looks is not None:
            self._looks.cancel()

    def note(self) -> None:
        """Write down what was seen; while Postgres is away, raise, and keep it for the next time."""
        while self._seen:
            child_exit = self._seen.popleft()
            try:
                self._note(child_exit)
            except OperationalError:
                self._seen.appendleft(child_exit)
                raise
            except Exception:  # noqa: BLE001 - a note that can't be written must not come back for ever
                log.warning(
                    "an exit in %s was not noted: its arguments are not ours", child_exit.task
                )

    def _on_failure(
        self, sender: Any = None, args: Sequence[Any] = (), exception: Any = None, **_: Any
    ) -> None:
        if (
            isinstance(exception, WorkerLostError)
            and sender.app is self._member.app
            and getattr(sender, "is_perennial", False)
        ):
            self._seen.append(ChildExit(sender.name, tuple(args), reason_of(exception)))

    def _note(self, child_exit: ChildExit) -> None:
        context = self._member.context
        actor = context.identity.name
        with context.connection() as connection:
            match child_exit:
                case ChildExit(task, run_ids) if task == ADVANCE:
                    for run_id in run_ids:
                        exits.note_exit_if_held(
                            connection, UUID(run_id), reason=child_exit.reason, actor=actor
                        )
                case ChildExit(_, [run_id, key, attempt]):
                    exits.note_exit_if_claimed(
                        connection,
                        UUID(run_id),
                        key,
                        attempt,
                        reason=child_exit.reason,
                        actor=actor,
                    )
