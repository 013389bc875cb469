"""What this worker can't run goes to a living one that can, at once; where there is none, it waits in sight.

A miss costs the run a message, and no interval of a relay: the message goes on to the queue of a code that can run it
(`store.transitions.capabilities`), of which each worker with that code takes. What a process learns of the others is
kept for a second: a worker that starts, or dies, is known by then. (docs/adr/0046)
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import capabilities
from orchestrator.store.transitions.outbox import Handoff

log = logging.getLogger(__name__)

KNOWN_SECONDS = 1.0
"""So long an answer is trusted."""

KNOWN_MAX = 1_000
"""So many answers are kept; then they are asked for again."""


class Sender(Protocol):
    """The fleet's part: it knows queues and messages."""

    @property
    def own_queue(self) -> str | None:
        """The queue of this worker's code."""

    def queue_of(self, handoff: Handoff) -> str | None:
        """The queue that the handoff goes to by rights; None: nobody can tell."""

    def send_on(self, handoff: Handoff, queue: str, to: str, *, hops: int | None = None) -> bool:
        """Send it to another code's queue. False: it has been sent on too often, or the broker is away.

        `hops`: how often it was sent on. None: as often as the message that is worked on now.
        """


class Elsewhere:
    """The living workers of other codes."""

    def __init__(self, sender: Sender, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sender, self._clock = sender, clock
        self._known: dict[tuple[str, tuple[str, ...]], tuple[float, list[str]]] = {}

    def has(self, connection: AnyConnection, handoff: Handoff, needs: Sequence[str]) -> bool:
        """Whether a living worker of another code can run all of `needs`, as far as is known."""
        queue = self._sender.queue_of(handoff)
        return queue is not None and bool(self._queues(connection, queue, tuple(needs)))

    def send_on(
        self,
        connection: AnyConnection,
        handoff: Handoff,
        needs: Sequence[str],
        *,
        hops: int | None = None,
    ) -> bool:
        """Send it to a living worker that can run all of `needs`. False: there is none, as far as is known."""
        queue = self._sender.queue_of(handoff)
        if queue is None:
            return False
        queues = self._queues(connection, queue, tuple(needs))
        if not queues:
            return False
        to = random.choice(queues)  # noqa: S311 - it keeps no secret
        return self._sender.send_on(handoff, queue, to, hops=hops)

    def _queues(
        self, connection: AnyConnection, queue: str, needs: tuple[str, ...]
    ) -> Sequence[str]:
        """That there is none is asked anew each time: so nobody waits for a worker that has come since."""
        known = self._known.get((queue, needs))
        if known is not None and self._clock() - known[0] < KNOWN_SECONDS:
            return known[1]
        found = capabilities.queues_of_those_who_can(
            connection, needs, queue=queue, but=self._sender.own_queue
        )
        queues = [each for each in found if each is not None]
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        if queues:
            self._known[queue, needs] = (self._clock(), queues)
        return queues
