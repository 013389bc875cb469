"""What each living Celery worker can run, and the handoffs that wait for one that can.

register, beat, leave          a worker says what it can run, that it still does, and that it stops
queues_of_those_who_can        where a message goes that this worker can't run
names_of_those_who_can         whom people are told of
give_back_attempt_if_claimed   it was claimed by a worker that can't read it
note_needs_of_turn, _of_stage  no living worker can run it: it waits, in sight
make_due_what_can_be_run       a worker has come that can

A capability is a word: `turn NAME VERSION`, `turn NAME VERSION rREVISION`, or `stage NAME`. A worker is alive while its
session holds its lock, which Postgres lets go of when its process ends, however it ends; and while it is heard of
now and then, since a machine that vanishes ends no session. (docs/adr/0046)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from orchestrator.store.parts import (
    APPEND_HISTORY,
    HAND_OFF,
    REPLACES,
    SENT_AT_ONCE,
    WAKE_RELAYS,
)
from orchestrator.store.statement import AnyConnection, Statement

LOCK_CLASS = 0x7065726F
"""Of Postgres' two-part advisory locks: those of workers."""

SILENT_SECONDS = 30
"""A worker that isn't heard of for so long is dead, whatever holds its lock."""

QUEUES_MAX = 20
"""So many queues are answered: as many codes as run side by side."""

NAMES_MAX = 1_000
"""So many workers are named."""

CAPABILITIES_MAX = 5_000
"""So many a worker registers."""


def is_alive(worker: str) -> str:
    """Whether the Celery worker in that row of `worker` lives."""
    return f"""({worker}.can IS NOT NULL
        AND {worker}.heartbeat_at > perennial.now() - interval '{SILENT_SECONDS} seconds'
        AND {worker}.lock = ANY(ARRAY(SELECT l.objid::bigint FROM pg_catalog.pg_locks l
            WHERE l.locktype = 'advisory' AND l.classid = {LOCK_CLASS} AND l.objsubid = 2 AND l.granted
                AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                    WHERE d.datname = current_database()))))"""


_REGISTER = Statement(
    "register_worker",
    """
INSERT INTO perennial.worker AS w (id, name, pid, can, queues, queue, lock)
VALUES (%(id)s, %(name)s, %(pid)s, %(can)s::text[], %(queues)s::text[], %(queue)s, %(lock)s)
ON CONFLICT (id) DO UPDATE SET heartbeat_at = perennial.now(), can = excluded.can, queues = excluded.queues
""",
)

_BEAT = Statement(
    "beat_of_worker",
    f"""
UPDATE perennial.worker w SET heartbeat_at = perennial.now()
FROM (SELECT o.id, o.heartbeat_at FROM perennial.worker o WHERE o.id = %(id)s) before
WHERE w.id = before.id
RETURNING before.heartbeat_at > perennial.now() - interval '{SILENT_SECONDS} seconds' AS was_heard
""",
)

_LEAVE = Statement(
    "worker_leaves",
    """
UPDATE perennial.worker w SET can = '{}', heartbeat_at = perennial.now() - interval '1 minute' WHERE w.id = %(id)s
""",
)

_WHO_CAN = Statement(
    "queues_of_those_who_can",
    f"""
SELECT DISTINCT w.queue FROM perennial.worker w
WHERE w.can @> %(needs)s::text[] AND %(queue)s = ANY(w.queues)
    AND w.queue IS DISTINCT FROM %(but)s  /* guard: nothing is sent to those who just said that they can't */
    AND {is_alive("w")}  /* guard: nothing is sent to the dead */
LIMIT {QUEUES_MAX}
""",
)

_NAMES = Statement(
    "names_of_those_who_can",
    f"""
SELECT w.name FROM perennial.worker w WHERE w.can @> %(needs)s::text[] AND {is_alive("w")}
ORDER BY w.name LIMIT {NAMES_MAX}
""",
)

# Told once, not at every delivery. What needs stand in the outbox is for the one who comes that can.
_NOTE_TURN = Statement(
    "note_left",
    f"""
WITH noted AS (
    UPDATE perennial.run r SET waiting_for = %(waiting_for)s
    WHERE r.id = %(run_id)s AND r.revision = %(revision)s AND r.waiting_for IS DISTINCT FROM %(waiting_for)s
    RETURNING r.id, r.status
), needing AS (
    UPDATE perennial.outbox o SET needs = %(needs)s::text[]
    WHERE o.run_id = %(run_id)s AND o.key = '' AND o.needs IS DISTINCT FROM %(needs)s::text[]
        AND (SELECT count(*) FROM noted) >= 0
)
{APPEND_HISTORY}
SELECT noted.id, %(actor)s, 'left for another worker', NULL, NULL, noted.status, noted.status,
    jsonb_build_object('why', %(why)s::text)
FROM noted
""",
)

_NOTE_STAGE = Statement(
    "note_stage_left",
    f"""
WITH needing AS (
    UPDATE perennial.outbox o SET needs = %(needs)s::text[]
    WHERE o.run_id = %(run_id)s AND o.key = %(key)s AND o.attempt = %(attempt)s AND o.needs IS NULL
    RETURNING o.run_id
)
{APPEND_HISTORY}
SELECT r.id, %(actor)s, 'left for another worker', %(key)s, %(attempt)s, r.status, r.status,
    jsonb_build_object('why', %(why)s::text)
FROM needing JOIN perennial.run r ON r.id = needing.run_id
""",
)

# The next attempt: what was claimed once stays so (rule activity_claim_stands).
_GIVE_BACK = Statement(
    "give_back_attempt",
    f"""
WITH given_back AS (
    UPDATE perennial.activity a SET state = 'pending', attempt = a.attempt + 1, worker_id = NULL, claimed_at = NULL
    WHERE a.run_id = %(run_id)s AND a.key = %(key)s
        AND a.attempt = %(attempt)s AND a.state = 'claimed'  /* guard: an attempt that is still ours is given back */
    RETURNING a.run_id, a.key, a.attempt, a.name, a.queue
), handed_off AS (
    {HAND_OFF}
    SELECT g.run_id, g.key, g.attempt, g.name, g.queue, {SENT_AT_ONCE} FROM given_back g
    {REPLACES}
), told AS (
    {APPEND_HISTORY}
    SELECT r.id, %(actor)s, 'left for another worker', g.key, g.attempt - 1, r.status, r.status,
        jsonb_build_object('why', %(why)s::text)
    FROM given_back g JOIN perennial.run r ON r.id = g.run_id
)
SELECT given_back.attempt FROM given_back
""",
)

_MAKE_DUE = Statement(
    "make_due_what_can_be_run",
    f"""
WITH due AS (
    UPDATE perennial.outbox SET publish_at = perennial.now(), publishes = 0, needs = NULL WHERE ctid = ANY(ARRAY(
        SELECT o.ctid FROM perennial.outbox o
        WHERE o.needs IS NOT NULL AND o.needs <@ %(can)s::text[]
        FOR NO KEY UPDATE SKIP LOCKED
    ))
    RETURNING run_id
)
SELECT count(*) AS count, CASE WHEN count(*) > 0 THEN {WAKE_RELAYS} IS NULL END AS notified FROM due
""",
)


def turn_of(process: str, version: int, code_revision: int | None = None) -> str:
    """The capability to take turns of that version; of its runs that stand on that revision."""
    which = "" if code_revision is None else f" r{code_revision}"
    return f"turn {process} {version}{which}"


def stage_of(name: str) -> str:
    """The capability to do that stage."""
    return f"stage {name}"


@dataclass(frozen=True, slots=True)
class Registration:
    """A Celery worker as a whole. `queue`: its code's own; None where its broker gives it none."""

    id: UUID
    name: str
    pid: int
    can: tuple[str, ...]
    queues: tuple[str, ...]
    queue: str | None
    lock: int


def register(connection: AnyConnection, worker: Registration) -> None:
    """It can run this from now on. The caller's session holds the lock."""
    _REGISTER.rows(
        connection,
        id=worker.id,
        name=worker.name,
        pid=worker.pid,
        can=list(worker.can),
        queues=list(worker.queues),
        queue=worker.queue,
        lock=worker.lock,
    )


def beat(connection: AnyConnection, worker_id: UUID) -> bool:
    """It still can. False: it was thought dead, or is forgotten, and must register anew."""
    row = _BEAT.row(connection, id=worker_id)
    return row is not None and row.was_heard


def leave(connection: AnyConnection, worker_id: UUID) -> None:
    """It stops: nothing is sent to it from here on."""
    _LEAVE.rows(connection, id=worker_id)


def queues_of_those_who_can(
    connection: AnyConnection, needs: Sequence[str], *, queue: str, but: str | None
) -> list[str | None]:
    """The own queues of living workers that can run all of this and take from `queue`; `but` is left out.

    None among them: of workers that have no queue of their own.
    """
    rows = _WHO_CAN.rows(connection, needs=list(needs), queue=queue, but=but)
    return [row.queue for row in rows]


def names_of_those_who_can(connection: AnyConnection, needs: Sequence[str]) -> list[str]:
    """The names of living workers that can run all of this, sorted."""
    return [row.name for row in _NAMES.rows(connection, needs=list(needs))]


def note_needs_of_turn(
    connection: AnyConnection,
    run_id: UUID,
    revision: int,
    needs: Sequence[str],
    *,
    waiting_for: str,
    why: str,
    actor: str,
) -> None:
    """Say in the record that nobody alive can take the run's turn; it waits for a worker that can."""
    _NOTE_TURN.rows(
        connection,
        run_id=run_id,
        revision=revision,
        needs=list(needs),
        waiting_for=waiting_for,
        why=why,
        actor=actor,
    )


def note_needs_of_stage(
    connection: AnyConnection,
    run_id: UUID,
    key: str,
    attempt: int,
    needs: Sequence[str],
    *,
    why: str,
    actor: str,
) -> None:
    """The same of a stage's attempt."""
    _NOTE_STAGE.rows(
        connection,
        run_id=run_id,
        key=key,
        attempt=attempt,
        needs=list(needs),
        why=why,
        actor=actor,
    )


def give_back_attempt_if_claimed(
    connection: AnyConnection,
    run_id: UUID,
    key: str,
    attempt: int,
    *,
    why: str,
    actor: str,
    relay_after: float,
) -> int | None:
    """Let go of an attempt that was claimed and not begun: another worker is to make the next, which is answered.

    None: it isn't ours any more.
    """
    row = _GIVE_BACK.row(
        connection,
        run_id=run_id,
        key=key,
        attempt=attempt,
        why=why,
        actor=actor,
        relay_after=relay_after,
    )
    return None if row is None else int(row.attempt)


def make_due_what_can_be_run(connection: AnyConnection, can: Sequence[str]) -> int:
    """What waits for a worker that can run this is sent again at once. Answers how many handoffs that are."""
    row = _MAKE_DUE.row(connection, can=list(can))
    return 0 if row is None else int(row.count)
