"""What failed, by cause; and what operators say of a cause: a note, that it is muted, that it is mended.

A cause is named by its digest, as `incidents` shows it. What is said is kept beside the cause, with who and when; the
runs are not touched.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection

from orchestrator.core import codec
from orchestrator.core.causes import CauseSummary
from orchestrator.core.checks import check_words, composed
from orchestrator.errors import PerennialError
from orchestrator.store.reads.incidents import read_causes
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions.causes import mend_cause, mute_cause, note_cause

FAILED_SINCE = timedelta(days=7)
"""So far back lists look for what failed, if nothing else is said. What is parked is there however old it is."""

NOTE_CHARACTERS_MAX = 2_000


def find_cause(reads: Connection, digest: str) -> CauseSummary:
    """The runs of that cause, of all times. Raises PerennialError: no run failed by it, or is parked."""
    found = read_causes(reads, digest=digest)
    if not found:
        raise PerennialError(
            f"no run has failed or is parked by a cause {digest!r}. `perennial incidents` lists them, and the first "
            "column of each is what it goes by"
        )
    return found[0]


def note(reads: Connection, connection: AnyConnection, digest: str, text: str, *, by: str) -> None:
    """Keep a note beside the cause, in place of the one before; an empty one takes it away."""
    if len(text) > NOTE_CHARACTERS_MAX:
        raise PerennialError(
            f"a note has {NOTE_CHARACTERS_MAX} characters at most, and this one {len(text)}: link to the rest"
        )
    cause = find_cause(reads, digest).cause
    note_cause(connection, cause, note=codec.readable(text), by=_operator(by))


def mute(reads: Connection, connection: AnyConnection, digest: str, *, by: str, undo: bool) -> None:
    """Leave the cause out of lists; `undo`: no more."""
    cause = find_cause(reads, digest).cause
    mute_cause(connection, cause, by=None if undo else _operator(by))


def mend(reads: Connection, connection: AnyConnection, digest: str, *, by: str, undo: bool) -> None:
    """Say that it is mended: what fails by it from now on says that it has returned. `undo`: it isn't."""
    cause = find_cause(reads, digest).cause
    mend_cause(connection, cause, by=None if undo else _operator(by))


def _operator(by: str) -> str:
    if by:
        check_words(by, what="an operator", where="by")
    return composed(by) or "operator"
