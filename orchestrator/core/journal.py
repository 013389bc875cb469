"""The journal of a run: its activities, as the record holds them and as replay reads them.

A key is a readable path, unique in a run: `provision-access`, `reviews/security`, `remind#3`.
`scope` is the path's head (a branch of a gather, or "" for the flow itself); `ordinal` counts the
flow's requests in that scope, so replay notices a changed order. A step inside a stage has the
stage's key as `parent_key`, and replay never looks at it.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

_KINDS: dict[str, ActivityKind] = {}
"""Each that was named, by its name."""


class ActivityKind(str):
    """What a flow can await: the kinds that come with Perennial, and any other that is named.

    An open set, where an enumeration would be a closed one: `ActivityKind("countdown")` is a kind too, and the same
    object each time. What it means says its module (`core.kinds`), where that is registered.
    """

    __slots__ = ()

    STAGE: ClassVar[ActivityKind]
    STEP: ClassVar[ActivityKind]
    APPROVAL: ClassVar[ActivityKind]
    SIGNAL: ClassVar[ActivityKind]
    SLEEP: ClassVar[ActivityKind]

    def __new__(cls, name: str) -> ActivityKind:  # noqa: PYI034 - the same object each time
        """The kind of that name."""
        return _KINDS.setdefault(name, super().__new__(cls, name))


ActivityKind.STAGE = ActivityKind("stage")
ActivityKind.STEP = ActivityKind("step")
ActivityKind.APPROVAL = ActivityKind("approval")
ActivityKind.SIGNAL = ActivityKind("signal")
ActivityKind.SLEEP = ActivityKind("sleep")
SCOPE = ActivityKind("scope")
"""A scope that has ended: what stands in it is not asked for any more."""


class ActivityState(StrEnum):
    """Where an activity stands. PENDING waits to be claimed or for the world; RETRYING for its timer."""

    PENDING = "pending"
    CLAIMED = "claimed"
    RETRYING = "retrying"
    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


AHEAD = 0
"""The ordinal of what a migration has left to be asked for later: it is found by its key, wherever that is."""

SETTLED = frozenset({ActivityState.DONE, ActivityState.FAILED, ActivityState.TIMED_OUT})


Place = tuple[float, datetime, int, str]
"""Where a fact stands in its run's order: what one commit has recorded goes by time, and then by ordinal and key."""

EARLIEST, LATEST = float("-inf"), float("inf")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Activity:
    """One line of the journal. `result`, `input` and `error` are plain JSON."""

    key: str
    scope: str
    ordinal: int
    kind: ActivityKind
    name: str
    state: ActivityState
    attempt: int = 1
    parent_key: str | None = None
    input: Any = None
    result: Any = None
    error: dict[str, Any] | None = None
    settled_at: datetime | None = None
    settled_revision: int | None = None
    """The run's revision that recorded its end. None: it is open, or was settled by a release that kept none."""
    asked: str | None = None
    """A digest of its arguments. None: it was recorded by a release that kept none."""

    @property
    def is_settled(self) -> bool:
        """True when its await has an answer."""
        return self.state in SETTLED

    @property
    def is_open(self) -> bool:
        """True when somebody or something is to answer it."""
        return self.state not in SETTLED and self.state is not ActivityState.CANCELLED

    @property
    def place(self) -> Place:
        """Of its end among the facts of its run."""
        revision = self.settled_revision  # guard: order of facts
        at = self.settled_at or _LONG_AGO  # guard: order of facts that have no place
        return (EARLIEST if revision is None else revision, at, self.ordinal, self.key)

    def describe(self) -> str:
        """One readable line, for diffs."""
        return describe(self.kind, self.name, self.key)


def describe(kind: ActivityKind, name: str, key: str) -> str:
    """`stage provision-access (key iam/provision-access)`, the key only where it differs."""
    return f"{kind} {name}" + (f" (key {key})" if key != name else "")


def is_within(scope: str, scopes: AbstractSet[str]) -> bool:
    """Whether it is one of them, or stands in one: `a/0/b` in `a/0`."""
    while scope:
        if scope in scopes:
            return True
        scope = scope.rpartition("/")[0]
    return False


@dataclass(frozen=True, slots=True)
class BufferedSignal:
    """A signal that arrived and no wait has consumed yet."""

    id: UUID
    name: str
    payload: Any
    received_at: datetime
    received_revision: int | None = None
    """The run's revision that recorded it. None: it was sent by a release that kept none."""

    @property
    def place(self) -> Place:
        """Of its coming among the facts of its run."""
        revision = LATEST if self.received_revision is None else self.received_revision
        return (revision, self.received_at, 0, str(self.id))
