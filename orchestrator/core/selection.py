"""Which runs are meant: the one filter of lists and of verbs over many runs.

    RunFilter        what may be asked for: process, status, cause, key, times, attributes, ...
    in_words         as a sentence shows it
    as_json          as an operation keeps it
    finds_by_index   raises for what no index finds: verbs over many runs ask that first

A filter of which nothing is given means every run there is: a list may ask for that, a verb over many runs may not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from orchestrator.core import codec
from orchestrator.core.attributes import Condition
from orchestrator.core.checks import check_sought
from orchestrator.core.run import CLOSED, RunStatus
from orchestrator.errors import PerennialError

OPEN = frozenset(RunStatus) - CLOSED
WITHOUT_RESULT = frozenset({RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.EXPIRED})
"""Ended with an error: what the index `run_error` holds."""

SELECTED_MAX = 100_000
"""So many runs are one operation, at most."""


@dataclass(frozen=True, slots=True)
class Between:
    """From `after` on, and before `before`; None: no bound."""

    after: datetime | None = None
    before: datetime | None = None

    def __bool__(self) -> bool:
        return self.after is not None or self.before is not None


_TEXTS = ("process", "cause", "error_type", "stage", "waiting_for", "key", "key_prefix")


@dataclass(frozen=True, slots=True)
class RunFilter:
    """What a run must be for the filter to mean it; what is None or empty doesn't matter.

    `code_revision`: the revision of its version that it stands on.
    `stage`: where the run stands, or where its error came up. `waiting_for`: as `ps` shows it, or how that begins.
    `key`: the business key, one that was given up included; `key_prefix`: how it begins. `progressed`: when the run
    last moved; of one that has ended that is when it did. `attributes`: these are among the run's. `where`: what else
    they must be (`core.attributes.conditions`).
    """

    process: str | None = None
    version: int | None = None
    code_revision: int | None = None
    statuses: tuple[RunStatus, ...] = ()
    cause: str | None = None
    error_type: str | None = None
    stage: str | None = None
    waiting_for: str | None = None
    key: str | None = None
    key_prefix: str | None = None
    created: Between = field(default_factory=Between)
    closed: Between = field(default_factory=Between)
    progressed: Between = field(default_factory=Between)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    where: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        """Raises PayloadError: no run can hold what is asked for."""
        for each in _TEXTS:
            check_sought(getattr(self, each), what=f"{each} of a filter")
        if self.attributes:
            codec.encode(dict(self.attributes), what="attributes of a filter")

    @property
    def is_empty(self) -> bool:
        """Nothing is asked for: it means all runs."""
        return not any(getattr(self, each.name) for each in fields(self))

    @property
    def names_an_error(self) -> bool:
        """It means runs whose error is recorded alone."""
        return self.cause is not None or self.error_type is not None

    def as_json(self) -> dict[str, Any]:
        """What is asked for, and nothing else."""
        told: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Between):
                value = {
                    name: moment.isoformat()
                    for name, moment in (("after", value.after), ("before", value.before))
                    if moment is not None
                }
            if value:
                told[each.name] = list(map(str, value)) if isinstance(value, tuple) else value
        return told

    def in_words(self) -> str:
        """`of trip is failed by the cause 3f2a91c04b7d`."""
        words = [
            f"of {self.process}" if self.process else "",
            f"of version {self.version}" if self.version else "",
            f"of revision {self.code_revision}" if self.code_revision else "",
            f"at {self.stage}" if self.stage else "",
            f"with the key {self.key!r}" if self.key else "",
            f"with a key that begins with {self.key_prefix!r}" if self.key_prefix else "",
            f"that waits for {self.waiting_for}" if self.waiting_for else "",
            _span("that was started", self.created),
            _span("that ended", self.closed),
            _span("that last moved", self.progressed),
            f"with the attributes {dict(self.attributes)}" if self.attributes else "",
            f"where {' and '.join(map(str, self.where))}" if self.where else "",
            f"by the cause {self.cause}" if self.cause else "",
            f"with {self.error_type}" if self.error_type else "",
            f"is {' or '.join(self.statuses)}" if self.statuses else "",
        ]
        return " ".join(filter(None, words))


@dataclass(frozen=True, slots=True)
class Selected:
    """A run that a filter means, as it stood: `revision` counts its facts."""

    id: UUID
    revision: int
    process: str
    version: int
    status: RunStatus
    business_key: str | None
    cause: str | None

    @property
    def name(self) -> str:
        """By which people know it."""
        return self.business_key or str(self.id)


def _span(what: str, between: Between) -> str:
    if not between:
        return ""
    after = f" since {_stamp(between.after)}" if between.after else ""
    before = f" before {_stamp(between.before)}" if between.before else ""
    return f"{what}{after}{before}"


def _stamp(moment: datetime) -> str:
    return (
        f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        if moment.tzinfo
        else f"{moment:%Y-%m-%d %H:%M}"
    )


def finds_by_index(asked: RunFilter, statuses: frozenset[RunStatus]) -> None:
    """Raise PerennialError for a filter that would read the table of runs from end to end.

    Open runs are found by their index, those that ended without a result by theirs; and any run by its key.
    """
    if RunStatus.COMPLETED in statuses and asked.key is None:
        raise PerennialError(
            "completed runs are found by their business key alone: no index holds them otherwise. "
            "Give `key`, or leave that status out"
        )
