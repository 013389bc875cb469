"""What operators say of a cause. Nobody else writes this table: a failing run costs nothing more.

note_cause, mute_cause, mend_cause   each makes the row, if nothing was said of the cause yet
"""

from __future__ import annotations

from orchestrator.core.causes import Cause
from orchestrator.store.statement import AnyConnection, Statement

_NOTE = Statement(
    "note_cause",
    """
INSERT INTO perennial.cause (digest, type, place, text, note, noted_by, noted_at)
VALUES (%(digest)s, %(type)s, %(place)s, %(text)s, %(note)s, %(by)s, perennial.now())
ON CONFLICT (digest) DO UPDATE SET note = excluded.note, noted_by = excluded.noted_by, noted_at = excluded.noted_at
""",
)

_MUTE = Statement(
    "mute_cause",
    """
INSERT INTO perennial.cause (digest, type, place, text, muted_by, muted_at)
VALUES (%(digest)s, %(type)s, %(place)s, %(text)s, %(by)s,
    CASE WHEN %(by)s::text IS NOT NULL THEN perennial.now() END)
ON CONFLICT (digest) DO UPDATE SET muted_by = excluded.muted_by, muted_at = excluded.muted_at
""",
)

_MEND = Statement(
    "mend_cause",
    """
INSERT INTO perennial.cause (digest, type, place, text, mended_by, mended_at)
VALUES (%(digest)s, %(type)s, %(place)s, %(text)s, %(by)s,
    CASE WHEN %(by)s::text IS NOT NULL THEN perennial.now() END)
ON CONFLICT (digest) DO UPDATE SET mended_by = excluded.mended_by, mended_at = excluded.mended_at
""",
)


def note_cause(connection: AnyConnection, cause: Cause, *, note: str, by: str) -> None:
    """Keep a note beside the cause, in place of the one before."""
    _NOTE.rows(connection, **_named(cause), note=note, by=by)


def mute_cause(connection: AnyConnection, cause: Cause, *, by: str | None) -> None:
    """Leave it out of lists. `by` None: no more."""
    _MUTE.rows(connection, **_named(cause), by=by)


def mend_cause(connection: AnyConnection, cause: Cause, *, by: str | None) -> None:
    """From now on it is said to be mended: what fails by it later says that it has returned. `by` None: no more."""
    _MEND.rows(connection, **_named(cause), by=by)


def _named(cause: Cause) -> dict[str, str]:
    return {
        "digest": cause.digest,
        "type": cause.type,
        "place": cause.place,
        "text": cause.text,
    }
