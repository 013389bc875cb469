"""The handoffs that nobody has taken: published again, and the turns among them whose holder has died are freed.

They were left by producers, by dead processes and by lost messages. Those of runs at rest, of other apps, and on
queues that are busy are not sent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection

from orchestrator.engine.context import EngineContext
from orchestrator.engine.database_errors import one_by_one
from orchestrator.engine.lost_attempts import RECOVERY, worker_lost
from orchestrator.store.transitions import exits, lost_attempts, outbox, turns
from orchestrator.store.transitions.outbox import Handoff

log = logging.getLogger(__name__)

BACKLOG_MAX = 50
"""A queue with more messages than this is busy."""

RESENDS_ON_A_BUSY_QUEUE = 6  # guard: a long queue is waited for no longer
"""5 + 10 + 20 + 40 + 80 + 160 s: after about five minutes a handoff is sent again regardless; then after
twice as many intervals, and so on. A queue that nobody serves must not grow by every look at it."""


def relay(context: EngineContext, *, may_judge: bool = True) -> int:
    """Publish a share of the handoffs that are due: left by producers, by dead processes, by lost messages.

    Answers how many it took and is done with. Those it could not send, and those that ask for a turn whose
    holder looks dead but may not be judged yet, are put back, and don't count as sent.
    """
    settings = context.settings
    with context.connection() as connection:
        due = outbox.take_due_handoffs(
            connection,
            relay_after=settings.relay_after_seconds,
            dead_after=settings.dead_after_seconds,
            limit=settings.batch_size,
            # guard: each kind of another app's is met once
            theirs=context.foreign.kinds if context.foreign else (),
        )
        # guard: another app's is left to it
        theirs = context.foreign.among(connection, due) if context.foreign else []
        if theirs:
            outbox.leave_handoffs(connection, theirs)
    left_to_others = set(theirs)
    ours = [handoff for handoff in due if handoff not in left_to_others]
    moving = [handoff for handoff in ours if not handoff.is_at_rest]
    kept: list[Handoff] = []
    lost = [handoff for handoff in moving if handoff.turn_is_lost]
    if may_judge:
        free_turns(context, lost)
    else:
        kept = lost
        moving = [handoff for handoff in moving if not handoff.turn_is_lost]
    unsent = [*kept, *context.messenger.hand_off(_worth_sending(context, moving))]
    if unsent:
        with context.connection() as connection:
            outbox.put_back_handoffs(connection, unsent, relay_after=settings.relay_after_seconds)
    return len(ours) - len(unsent)


def free_turns(context: EngineContext, lost: Sequence[Handoff]) -> None:
    """Take the turns of dead holders from them: whoever gets the handoff may hold the turn."""
    for handoff in lost:
        with (
            one_by_one("the turn of run %s could not be freed", handoff.run_id),
            context.transaction() as connection,
        ):
            _free_turn(context, connection, handoff.run_id)


def _free_turn(context: EngineContext, connection: Connection, run_id: UUID) -> None:
    freed = turns.free_turn_if_lost(
        connection, run_id, dead_after=context.settings.dead_after_seconds
    )
    if freed is None:
        return
    reason = exits.exit_reason(connection, run_id, since=freed.held_since)
    error = worker_lost("the worker that held the turn", reason)
    lost_attempts.append_history(
        connection,
        run_id,
        actor=RECOVERY,
        event="turn freed",
        from_status=freed.status,
        detail=error,
    )
    log.warning("turn freed: run %s: %s", run_id, error["message"])


def _worth_sending(context: EngineContext, due: Sequence[Handoff]) -> list[Handoff]:
    """Not those of runs at rest, nor those that most likely still stand in a long queue: sending them again
    would lengthen it.

    A lost message on a busy queue is sent again when the queue is short, or at the latest after
    `RESENDS_ON_A_BUSY_QUEUE` intervals, whatever its length. Doubled from then on, so that the messages
    on a queue that nobody serves grow with the logarithm of the time.
    """
    may_wait = {handoff.queue for handoff in due if not _is_sent_regardless(handoff.publishes)}
    busy = {queue for queue in may_wait if context.messenger.backlog_of(queue) > BACKLOG_MAX}
    return [
        handoff
        for handoff in due
        if handoff.queue not in busy or _is_sent_regardless(handoff.publishes)
    ]


def _is_sent_regardless(publishes: int) -> bool:
    """Never sent before, or after 6, 12, 24, 48, ... intervals."""
    times, rest = divmod(publishes, RESENDS_ON_A_BUSY_QUEUE)
    return publishes == 0 or (rest == 0 and times.bit_count() == 1)
