"""The outbox: a handoff stays here until its receiver has taken it.

It commits with the transition that made it. Whoever committed publishes it at once; the claim of a
stage, or the commit of a turn, deletes it. What is still here at `publish_at` is published again, at
growing intervals, whatever became of the message: never sent, lost with Redis, or lying in a dead
worker's memory. `publishes` counts: 0 was never sent, as a producer leaves it; whoever commits and
publishes at once writes 1. (docs/adr/0003)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from orchestrator.store.parts import (
    ADVANCE,
    CHILDREN_KEY,
    HAND_OFF,
    REPLACES,
    SENT_AT_ONCE,
    SOONEST_WINS,
    WAKE_RELAYS,
    hand_off_turn,
)
from orchestrator.store.rowset import RowSet
from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.capabilities import stage_of, turn_of
from orchestrator.store.transitions.turns import TURN_IS_LOST

RESEND_SECONDS_MAX = 300
"""The longest interval between two sendings of a handoff that nobody takes."""

LEFT_TO_OTHERS_SECONDS = 30
"""So long a relay leaves what its own app can't run to those that can."""

LOOKED_AT_SHARES = 10
"""A relay looks for the newest handoffs through so many shares: what falls due between two of its looks."""


# Oldest first, except that half of the share goes to the newest that were never sent: a run that was
# just started must not wait behind a flood, and the oldest must not starve. Those are looked for at the new
# end only so far, since in a flood what is to be sent again crowds there too.
# The handoffs of a run at rest are put off; its resuming makes them due. Put off, not for ever: the run's
# row isn't locked here, and may have been resumed this very moment.
# Found again by place (ctid), since they are locked: a join by key would read the whole table in a flood.
# `theirs`: what is left to others, who have apps of their own on this database (engine.foreign).
def _take_due(columns: str = "", newest_but_theirs: str = "", oldest_but_theirs: str = "") -> str:
    return f"""
WITH newest AS (
    SELECT d.ctid FROM perennial.outbox d WHERE d.publishes = 0 AND d.ctid = ANY(ARRAY(
        SELECT n.ctid FROM (
            SELECT o.ctid, o.publishes{columns} FROM perennial.outbox o WHERE o.publish_at <= perennial.now()
            ORDER BY o.publish_at DESC LIMIT %(looked_at)s
        ) n WHERE n.publishes = 0{newest_but_theirs} LIMIT %(limit)s / 2))
    FOR NO KEY UPDATE SKIP LOCKED
), oldest AS (
    SELECT d.ctid FROM perennial.outbox d
    WHERE d.publish_at <= perennial.now() AND NOT d.ctid = ANY(ARRAY(SELECT ctid FROM newest)){oldest_but_theirs}
    ORDER BY d.publish_at LIMIT %(limit)s - (SELECT count(*) FROM newest)
    FOR NO KEY UPDATE
        SKIP LOCKED  /* guard: relays share */
)
UPDATE perennial.outbox o SET publishes = o.publishes + 1,
    publish_at = CASE WHEN r.status IN ('running', 'waiting') OR o.key = '{CHILDREN_KEY}' THEN
        perennial.now() + least(%(longest_seconds)s, %(relay_after)s * 2 ^ least(o.publishes, 20)
            ) * interval '1 second'  /* guard: sent again after relay_after */
        ELSE perennial.now() + %(longest_seconds)s * interval '1 second' END
FROM perennial.run r
WHERE o.ctid = ANY(ARRAY(SELECT ctid FROM newest UNION ALL SELECT ctid FROM oldest)) AND r.id = o.run_id
RETURNING o.run_id, o.key, o.attempt, o.task, o.queue, o.publishes - 1 AS publishes,
    r.status NOT IN ('running', 'waiting')
        AND o.key <> '{CHILDREN_KEY}'  /* guard: children are seen to though their parent is at rest */
        AS is_at_rest, o.key = '' AND {TURN_IS_LOST} AS turn_is_lost,
    r.process, r.version
"""


def _but_theirs(handoff: str) -> str:
    return f"""
            AND NOT ({handoff}.publish_at > perennial.now() - %(left_to_others_seconds)s * interval '1 second'
                AND (CASE WHEN {handoff}.key <> '' THEN 'stage ' || {handoff}.task ELSE (
                    SELECT 'turn ' || r.process || ' ' || r.version FROM perennial.run r
                        WHERE r.id = {handoff}.run_id) END
                ) = ANY(%(theirs)s::text[]))"""


_DUE = Statement("take_due_handoffs", _take_due())
_DUE_BUT_THEIRS = Statement(
    "take_due_handoffs",
    _take_due(
        columns=", o.publish_at, o.run_id, o.key, o.task",
        newest_but_theirs=_but_theirs("n"),
        oldest_but_theirs=_but_theirs("d"),
    ),
)

_FOUND = RowSet("found", "run_id uuid, key text, attempt int, publishes int")

# Only those that nobody else has taken since; whoever holds a row now knows better.
_AS_FOUND = f"""
WITH found AS (
    SELECT o.run_id, o.key, f.publishes FROM perennial.outbox o
    JOIN {_FOUND.called("f")}
        ON o.run_id = f.run_id AND o.key = f.key AND o.attempt = f.attempt AND o.publishes = f.publishes + 1
    FOR NO KEY UPDATE OF o SKIP LOCKED
)"""

_PUT_BACK = Statement(
    "put_back_handoffs",
    f"""{_AS_FOUND}
UPDATE perennial.outbox o SET publishes = found.publishes,
    publish_at = least(o.publish_at, perennial.now() + %(relay_after)s * interval '1 second')
FROM found WHERE o.run_id = found.run_id AND o.key = found.key
""",
)

# As they were, and others are told.
_LEAVE = Statement(
    "leave_handoffs",
    f"""{_AS_FOUND}, left_to_others AS (
    UPDATE perennial.outbox o SET publishes = found.publishes, publish_at = perennial.now()
    FROM found WHERE o.run_id = found.run_id AND o.key = found.key
)
SELECT {WAKE_RELAYS}
""",
)

# Maintenance is notified: whoever empties an index of timers has timers to move, and no time to relay. A row that is
# locked is left out: whoever has locked it sends it anew or leaves it to a relay, and may be a producer who takes time.
_ALL_DUE = Statement(
    "make_all_handoffs_due",
    f"""
WITH due AS (
    UPDATE perennial.outbox SET publish_at = perennial.now(), publishes = 0 WHERE ctid = ANY(ARRAY(
        SELECT o.ctid FROM perennial.outbox o FOR NO KEY UPDATE
            SKIP LOCKED  /* guard: a rebuild waits for nobody */
    ))
)
SELECT {WAKE_RELAYS}
""",
)

_ASK_FOR_TURN = Statement(
    "ask_for_turn",
    f"""
{hand_off_turn("r.id", "r.queue", SENT_AT_ONCE)}
FROM perennial.run r WHERE r.id = %(run_id)s AND r.closed_at IS NULL
{SOONEST_WINS}
RETURNING o.queue
""",
)

_HAND_OFF = Statement(
    "hand_off",
    f"""
{HAND_OFF}
VALUES (%(run_id)s, %(key)s, %(attempt)s, %(task)s, %(queue)s, {SENT_AT_ONCE})
{REPLACES}
""",
)

_FORGET_STALE = Statement(
    "forget_stale_handoff",
    """
DELETE FROM perennial.outbox o WHERE o.run_id = %(run_id)s AND o.key = %(key)s AND o.attempt = %(attempt)s
    AND NOT EXISTS (SELECT FROM perennial.activity a WHERE a.run_id = o.run_id AND a.key = o.key
        AND a.attempt = o.attempt AND a.state = 'pending')  /* guard: only what is stale is forgotten */
""",
)

_FORGET = Statement(
    "forget_advance",
    """
DELETE FROM perennial.outbox o WHERE o.run_id = %(run_id)s AND o.key = ''
    AND NOT EXISTS (SELECT FROM perennial.run r WHERE r.id = o.run_id
        AND r.closed_at IS NULL)  /* guard: the turn of a run that goes on again is not forgotten */
""",
)


@dataclass(frozen=True, slots=True)
class Handoff:
    """The message that moves a run: task `task` on `queue` (None: the app's default).

    As a relay finds it: `publishes`, how often it was sent before; `is_at_rest`, its run doesn't move;
    `turn_is_lost`, the turn it asks for is held by a worker that has been silent for long.
    """

    run_id: UUID
    key: str
    attempt: int
    task: str
    queue: str | None
    publishes: int = 0
    is_at_rest: bool = False
    turn_is_lost: bool = False
    process: str = ""
    version: int = 0

    @property
    def kind(self) -> str:
        """What a program must know to do it, as a relay finds it."""
        return stage_of(self.task) if self.task != ADVANCE else turn_of(self.process, self.version)

    @classmethod
    def advance(cls, run_id: UUID, queue: str | None) -> Handoff:
        """The message that asks for a turn."""
        return cls(run_id, "", 1, ADVANCE, queue)

    def as_row(self) -> dict[str, Any]:
        """For a row set."""
        return {"key": self.key, "attempt": self.attempt, "task": self.task, "queue": self.queue}


def take_due_handoffs(
    connection: AnyConnection,
    *,
    relay_after: float,
    dead_after: float,
    limit: int,
    theirs: Sequence[str] = (),
) -> Sequence[Handoff]:
    """A share of the handoffs that are due; each is due again later unless it is claimed.

    Two relays share them. Those of runs at rest are among them, and not to be published. Those whose `kind` is in
    `theirs` are left to others for a while.
    """
    share: dict[str, Any] = {
        "relay_after": relay_after,
        "dead_after": dead_after,
        "longest_seconds": RESEND_SECONDS_MAX,
        "limit": limit,
        "looked_at": limit * LOOKED_AT_SHARES,
    }
    if theirs:
        share |= {"theirs": list(theirs), "left_to_others_seconds": LEFT_TO_OTHERS_SECONDS}
    rows = (_DUE_BUT_THEIRS if theirs else _DUE).rows(connection, **share)
    return [
        Handoff(
            row.run_id,
            row.key,
            row.attempt,
            row.task,
            row.queue,
            row.publishes,
            row.is_at_rest,
            row.turn_is_lost,
            row.process,
            row.version,
        )
        for row in rows
    ]


def put_back_handoffs(
    connection: AnyConnection, unsent: Sequence[Handoff], *, relay_after: float
) -> None:
    """Handoffs that were taken, and could not be sent: they don't count as sent, and are due again soon."""
    _PUT_BACK.rows(connection, **_as_found(unsent), relay_after=relay_after)


def leave_handoffs(connection: AnyConnection, theirs: Sequence[Handoff]) -> None:
    """Handoffs that were taken, and are others' to send: they are due as before, and every relay is told."""
    _LEAVE.rows(connection, **_as_found(theirs))


def _as_found(handoffs: Sequence[Handoff]) -> dict[str, str]:
    return _FOUND.of(
        {
            "run_id": handoff.run_id,
            "key": handoff.key,
            "attempt": handoff.attempt,
            "publishes": handoff.publishes,
        }
        for handoff in handoffs
    )


def make_all_handoffs_due(connection: AnyConnection) -> None:
    """Redis was emptied: every unclaimed handoff is to be sent again, but for those that are being written now."""
    _ALL_DUE.rows(connection)


def ask_for_turn(connection: AnyConnection, run_id: UUID, *, relay_after: float) -> Handoff | None:
    """Leave an advance for the run, or make the one that is there due as soon. None: the run has ended."""
    row = _ASK_FOR_TURN.row(connection, run_id=run_id, relay_after=relay_after)
    return None if row is None else Handoff.advance(run_id, row.queue)


def hand_off(connection: AnyConnection, handoff: Handoff, *, relay_after: float) -> None:
    """Leave a stage's handoff; it replaces that of an earlier attempt."""
    _HAND_OFF.rows(
        connection,
        run_id=handoff.run_id,
        key=handoff.key,
        attempt=handoff.attempt,
        task=handoff.task,
        queue=handoff.queue,
        relay_after=relay_after,
    )


def forget_advance(connection: AnyConnection, run_id: UUID) -> None:
    """A run that has ended needs no turn. An operator may have let it go on since that was seen: then it does."""
    _FORGET.rows(connection, run_id=run_id)


def forget_handoff_if_stale(
    connection: AnyConnection, run_id: UUID, key: str, attempt: int
) -> None:
    """An attempt that is claimed or over needs no message."""
    _FORGET_STALE.rows(connection, run_id=run_id, key=key, attempt=attempt)
