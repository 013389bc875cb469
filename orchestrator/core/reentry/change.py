"""What an operator's verb would write, and the preview of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.core.journal import ActivityKind, ActivityState
from orchestrator.core.reentry.standing import NOT_AT_HAND, Entry, Standing
from orchestrator.core.run import RunStatus

DIGEST_CHARACTERS = 12
"""So much of a preview's digest is shown, and is enough to name it."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """An activity that is written anew in its place. `result` and `arguments` are JSON text.

    `arguments` None: as they are. `uncounted`: attempts that its retries count no more; None: as it was.
    """

    key: str
    state: ActivityState
    attempt: int
    result: str | None = None
    error: Mapping[str, Any] | None = None
    arguments: str | None = None
    uncounted: int | None = None
    keeps_timers: bool = False

    @property
    def is_settled(self) -> bool:
        """It has its end."""
        return self.state in (ActivityState.DONE, ActivityState.FAILED)


@dataclass(frozen=True, slots=True)
class Note:
    """A line of history about one activity."""

    event: str
    key: str
    attempt: int | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """All that one verb writes to a run. Lists are of keys."""

    event: str
    status: RunStatus
    """Where the run stands then."""
    removed: tuple[str, ...] = ()
    """They leave the journal; if their flow asks for them anew, a turn opens them."""
    forgets: tuple[str, ...] = ()
    """Stages whose steps leave with them."""
    key: str | None = None
    """The activity that the verb is about, if it is about one."""
    replaced: tuple[Replaced, ...] = ()
    put_back: tuple[str, ...] = ()
    """Waits whose signals are to be waited for again."""
    attempts_before: Mapping[str, int] = field(default_factory=dict)
    input: str | None = None
    version: int | None = None
    code_revision: int | None = None
    expires_at: datetime | None = None
    arms_expiry: bool = False
    notes: tuple[Note, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Copy:
    """What a copy of a run begins with. Lists are of keys."""

    at: str | None
    business_key: str | None
    kept: tuple[str, ...]
    put_back: tuple[str, ...]
    """Waits whose signals the copy has not taken yet."""
    with_steps: tuple[str, ...]
    """Stages of which steps are copied: a claim reads them."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a verb would do to one run. Everything in it is in words, or keys.

    `goes_on`: what is done next, `repeats`: finished work that is done once more, `drops`: decisions and other answers
    that no longer count, `notes`: what else to know.
    """

    verb: str
    run_id: UUID
    run: str
    status: RunStatus
    goes_on: tuple[str, ...] = ()
    repeats: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    change: Change | None = field(default=None, repr=False)
    copy: Copy | None = field(default=None, repr=False)

    @property
    def lacks_code(self) -> bool:
        """Whether some of it was read from the journal alone."""
        return any(NOT_AT_HAND in note for note in self.notes)

    @property
    def digest(self) -> str:
        """The same for the same consequences. Of values that an operator gave, too."""
        change = self.change
        written = {
            "verb": self.verb,
            "run": str(self.run_id),
            "status": self.status,
            "goes_on": self.goes_on,
            "repeats": self.repeats,
            "drops": self.drops,
            "notes": self.notes,
            "given": None
            if change is None
            else [
                change.input,
                change.version,
                [[each.key, each.result, each.error, each.arguments] for each in change.replaced],
            ],
        }
        text = json.dumps(written, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_CHARACTERS]


def kept_in_history(entry: Entry, why: str) -> Note:
    """An activity that leaves the journal, with all that it came to."""
    activity = entry.activity
    detail = {
        "because": why,
        "kind": str(activity.kind),
        "state": str(activity.state),
        "input": entry.input,
        "result": activity.result,
        "error": activity.error,
        "settled_at": None if activity.settled_at is None else activity.settled_at.isoformat(),
    }
    return Note(
        LEFT_JOURNAL,
        entry.key,
        activity.attempt,
        {name: value for name, value in detail.items() if value is not None},
    )


LEFT_JOURNAL = "left the journal"
"""History's word for an activity that counts no more."""


def attempts_made(standing: Standing, keys: set[str]) -> dict[str, int]:
    """Of the stages among those, with what was made before: their next attempts go on from there.

    Of the approvals the edition that follows: a decision on what was asked before is none on what is asked anew.
    """
    made: dict[str, int] = {}
    for entry in standing.own():
        if entry.key in keys and entry.activity.kind == ActivityKind.STAGE:
            made[entry.key] = entry.activity.attempt
        if entry.key in keys and entry.activity.kind == ActivityKind.APPROVAL:
            made[entry.key] = entry.edition + 1
    return made
