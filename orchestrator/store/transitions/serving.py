"""Which version new runs take: the one that a team has set, or the newest that is served; and which are retired.

mark_served                            which versions living workers can run, for starts and for people to read
set_current, unset_current             a team's word
retire, unretire                       no new runs; those that are there go on

Each of a team's words adds a line to `process_history`, in the same statement.

Whether a version is served stands in its row, so that a start asks for nothing more. Workers keep it: as they come
and go, and while they live. A version whose last worker has gone stays served for `GRACE_SECONDS`, since workers are
started again; and for as long as no other version of its process is served, since then nothing is gained.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from orchestrator.store.statement import AnyConnection, Statement
from orchestrator.store.transitions.capabilities import is_alive

GRACE_SECONDS = 30

TAKES_ITS_TURNS = "'turn ' || p.name || ' ' || p.version || ' r' || p.code_revision"
"""The capability that its new runs need, as `capabilities.turn_of` has it."""

# Workers do this side by side: none waits for another, and what one leaves out it finds at its next beat.
_MARK = Statement(
    "mark_served",
    f"""
WITH living AS MATERIALIZED (
    SELECT w.can, w.queues FROM perennial.worker w WHERE {is_alive("w")}
), capability AS MATERIALIZED (
    SELECT DISTINCT c.can FROM living l, unnest(l.can) AS c(can)
), found AS MATERIALIZED (
    SELECT p.name, p.version, EXISTS (SELECT FROM capability c WHERE c.can = {TAKES_ITS_TURNS})
        AND (p.queue IS NULL OR EXISTS (SELECT FROM living l WHERE {TAKES_ITS_TURNS} = ANY(l.can)
            AND p.queue = ANY(l.queues))) AS is_served
    FROM perennial.process p
), marks AS (
    SELECT f.name, f.version, f.is_served,
        NOT f.is_served AND EXISTS (SELECT FROM found o WHERE o.name = f.name
            AND o.is_served  /* guard: a fleet that is all down changes nothing */
            ) AS another_is
    FROM found f
), held AS (
    SELECT p.name, p.version, m.is_served, m.another_is AND coalesce(
        p.unserved_since <= perennial.now() - interval '{GRACE_SECONDS} seconds', false) AS is_given_up
    FROM perennial.process p JOIN marks m ON m.name = p.name AND m.version = p.version
    WHERE m.is_served AND NOT (p.served AND p.unserved_since IS NULL)
        OR NOT m.is_served AND (p.unserved_since IS NULL OR p.served AND m.another_is
            AND p.unserved_since <= perennial.now() - interval '{GRACE_SECONDS} seconds')
    FOR NO KEY UPDATE OF p SKIP LOCKED
)
UPDATE perennial.process p SET
    served = h.is_served OR p.served AND NOT h.is_given_up,
    unserved_since = CASE WHEN NOT h.is_served THEN coalesce(p.unserved_since, perennial.now()) END
FROM held h WHERE p.name = h.name AND p.version = h.version
""",
)

# All of its versions are locked, in their order, before one is changed: so what was before is what history says, and
# of two that retire the last two at once, one is refused. An aggregate, since a row that the statement itself has
# changed by then would be left out.
_BEFORE = """locked AS MATERIALIZED (
    SELECT o.version, o.retired_at, o.current_since FROM perennial.process o WHERE o.name = %(name)s
    ORDER BY o.version FOR NO KEY UPDATE
), before AS MATERIALIZED (
    SELECT max(l.version) FILTER (WHERE l.current_since IS NOT NULL) AS set_version, array_agg(l.version) AS versions,
        array_agg(l.version) FILTER (WHERE l.retired_at IS NULL) AS not_retired
    FROM locked l
)"""

_WAS_SET = "(SELECT b.set_version FROM before b)"

_NOTE = (
    "INSERT INTO perennial.process_history (process, by, event, version, former_version, reason)"
)

_SET = Statement(
    "set_current_version",
    f"""
WITH {_BEFORE}, set_now AS (UPDATE perennial.process p SET
    current_since = CASE WHEN p.version = %(version)s THEN perennial.now() END,
    current_by = CASE WHEN p.version = %(version)s THEN %(by)s ELSE '' END
WHERE p.name = %(name)s AND EXISTS (SELECT FROM before b WHERE %(version)s = ANY(b.versions)
    AND %(version)s = ANY(b.not_retired)  /* guard: what is retired is not set as current */
    )
RETURNING p.version
)
{_NOTE}
SELECT %(name)s, %(by)s, 'current', %(version)s, {_WAS_SET}, %(reason)s WHERE EXISTS (SELECT FROM set_now)
RETURNING version
""",
)

_UNSET = Statement(
    "unset_current_version",
    f"""
WITH {_BEFORE}, unset_now AS (
    UPDATE perennial.process p SET current_since = NULL, current_by = ''
    WHERE p.name = %(name)s AND p.version = {_WAS_SET}
    RETURNING p.version
)
{_NOTE}
SELECT %(name)s, %(by)s, 'current', NULL, u.version, %(reason)s FROM unset_now u
""",
)

_RETIRE = Statement(
    "retire_version",
    f"""
WITH {_BEFORE}, retired AS (
UPDATE perennial.process p SET retired_at = perennial.now(), retired_by = %(by)s, current_since = NULL, current_by = ''
WHERE p.name = %(name)s AND p.version = %(version)s AND p.retired_at IS NULL
    AND (%(even_the_last)s OR (SELECT b.not_retired <> ARRAY[%(version)s::int]
        FROM before b))  /* guard: the last version is not retired unasked */
RETURNING p.version
)
{_NOTE}
SELECT %(name)s, %(by)s, e.event, e.version, e.former_version, %(reason)s FROM retired r, LATERAL (VALUES
    (1, 'current', NULL::int, r.version), (2, 'retired', r.version, NULL)) e(place, event, version, former_version)
WHERE e.event = 'retired' OR r.version = {_WAS_SET} ORDER BY e.place
RETURNING version
""",
)

_UNRETIRE = Statement(
    "unretire_version",
    f"""
WITH unretired AS (
    UPDATE perennial.process p SET retired_at = NULL, retired_by = ''
    WHERE p.name = %(name)s AND p.version = %(version)s AND p.retired_at IS NOT NULL
    RETURNING p.version
)
{_NOTE}
SELECT %(name)s, %(by)s, 'unretired', u.version, NULL, %(reason)s FROM unretired u
RETURNING version
""",
)

_READ = Statement(
    "read_versions",
    """
SELECT p.version, p.retired_at, p.retired_by FROM perennial.process p
WHERE p.name = %(name)s ORDER BY p.version
""",
)


@dataclass(frozen=True, slots=True)
class Said:
    """That a version was retired, and by whom."""

    retired_at: datetime | None
    retired_by: str


def mark_served(connection: AnyConnection) -> None:
    """Note which versions living workers can run. Writes what has changed, and mostly nothing."""
    _MARK.rows(connection)


def set_current(
    connection: AnyConnection, name: str, version: int, *, by: str, reason: str
) -> bool:
    """New runs take that version. False: it isn't deployed, or is retired."""
    return bool(_SET.rows(connection, name=name, version=version, by=by, reason=reason))


def unset_current(connection: AnyConnection, name: str, *, by: str, reason: str) -> None:
    """New runs take the newest version that is served."""
    _UNSET.rows(connection, name=name, by=by, reason=reason)


def retire(
    connection: AnyConnection,
    name: str,
    version: int,
    *,
    by: str,
    reason: str,
    even_the_last: bool,
) -> bool:
    """No new run takes it. False: it isn't deployed, is retired, or is the last one."""
    row = _RETIRE.row(
        connection,
        name=name,
        version=version,
        by=by,
        reason=reason,
        even_the_last=even_the_last,
    )
    return row is not None


def unretire(connection: AnyConnection, name: str, version: int, *, by: str, reason: str) -> bool:
    """New runs may take it again. False: it isn't retired."""
    row = _UNRETIRE.row(connection, name=name, version=version, by=by, reason=reason)
    return row is not None


def read_versions(connection: AnyConnection, name: str) -> dict[int, Said]:
    """What a team has said of each version of a process."""
    return {
        row.version: Said(row.retired_at, row.retired_by)
        for row in _READ.rows(connection, name=name)
    }
