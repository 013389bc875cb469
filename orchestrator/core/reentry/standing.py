"""A run as an operator's verb finds it, and what the code at hand makes of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.core.branches import TurnAbandoned
from orchestrator.core.definition import Process, Registry
from orchestrator.core.journal import Activity, ActivityState, BufferedSignal
from orchestrator.core.kinds.base import Request
from orchestrator.core.kinds.origin import ORIGIN_KEY
from orchestrator.core.kinds.stage import ENDS, UNDOES
from orchestrator.core.outcome import RunContext, TurnOutcome
from orchestrator.core.replay import take_turn
from orchestrator.core.run import RunStatus
from orchestrator.errors import OperationRefused

NOT_AT_HAND = "code is not at hand"
"""In a note on what nobody could look at beforehand."""

KEYS_NAMED_MAX = 20
"""So many keys are named in a sentence."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One activity of the run, with what replay has no need of."""

    activity: Activity
    opened_at: datetime
    input: Any = None
    claimed_at: datetime | None = None
    worker: str | None = None
    policy: Mapping[str, Any] | None = None
    edition: int = 0
    """Of an approval, as people were asked."""

    @property
    def key(self) -> str:
        """Of the activity."""
        return self.activity.key

    @property
    def undoes(self) -> str | None:
        """The key of what it undoes, if it is a compensation; "" where that is no activity."""
        found = (self.policy or {}).get(UNDOES)
        return found if isinstance(found, str) else None

    @property
    def is_last_undoing(self) -> bool:
        """It is a compensation of a flow that has failed, and which has gone on with nothing else."""
        return self.undoes is not None and bool((self.policy or {}).get(ENDS))

    @property
    def is_worked_on(self) -> bool:
        """A worker holds an attempt of it."""
        return self.activity.state is ActivityState.CLAIMED


@dataclass(frozen=True, slots=True)
class Standing:
    """The run as one look has found it. `now`: the database's clock."""

    run: RunContext
    status: RunStatus
    revision: int
    now: datetime
    entries: tuple[Entry, ...]
    signals: tuple[BufferedSignal, ...]
    error: Mapping[str, Any] | None = None
    expires_at: datetime | None = None
    closed_at: datetime | None = None
    former_key: str | None = None
    followed_by: UUID | None = None
    attempts_before: Mapping[str, int] = field(default_factory=dict)
    turn_worker: str | None = None
    """Who is in a turn of it that is held: its flow calls a step."""
    turn_since: datetime | None = None
    current_revision: int = 1
    """Of its version's content; the run may stand on an earlier one."""
    is_done: bool = False
    """The operation that is asked for has been applied to it before."""

    @property
    def name(self) -> str:
        """As people call it."""
        return self.run.business_key or str(self.run.id)

    @property
    def journal(self) -> tuple[Activity, ...]:
        """What replay reads: no steps within stages."""
        return tuple(entry.activity for entry in self.entries if entry.activity.parent_key is None)

    def own(self) -> tuple[Entry, ...]:
        """The flow's own activities, in the order in which they were asked for."""
        found = [entry for entry in self.entries if entry.activity.parent_key is None]
        return tuple(sorted(found, key=lambda each: (each.opened_at, each.activity.ordinal)))

    def steps_of(self, keys: Iterable[str]) -> tuple[Entry, ...]:
        """What those stages have remembered of steps of theirs."""
        parents = set(keys)
        return tuple(each for each in self.entries if each.activity.parent_key in parents)

    def entry(self, key: str) -> Entry:
        """The flow's activity of that key. Raises OperationRefused, with the key that may have been meant."""
        own = {entry.key: entry for entry in self.own()}
        if key == ORIGIN_KEY and key in own:
            raise OperationRefused(
                f"{key!r} of run {self.name} is the mark of a copy, which nobody goes back to: name an activity"
            )
        if key in own:
            return own[key]
        inner = next((each for each in self.entries if each.key == key), None)
        if inner is not None:
            raise OperationRefused(
                f"{key!r} of run {self.name} is a step within {inner.activity.parent_key}: name that stage"
            )
        near = difflib.get_close_matches(key, own, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        known = f" It has {listed(own)}." if own and not near else ""
        of_chapter = (
            f" It is of chapter {self.run.chapter} alone: what was before is gone"
            if self.run.chapter > 1
            else ""
        )
        raise OperationRefused(
            f"run {self.name} has no activity {key!r} in its journal.{meant}{known}{of_chapter}"
        )

    def without(self, keys: Iterable[str]) -> tuple[Activity, ...]:
        """The journal, but for those."""
        gone = set(keys)
        return tuple(each for each in self.journal if each.key not in gone)

    def with_end(self, key: str, **changes: Any) -> tuple[Activity, ...]:
        """The journal with another end of one activity, recorded as the next fact."""
        end = {"settled_at": self.now, "settled_revision": self.revision + 1, **changes}
        return tuple(replace(each, **end) if each.key == key else each for each in self.journal)


@dataclass(frozen=True, slots=True)
class Look:
    """What the code made of a journal: `asked` is all that the flow asked for, by key. `lack`: it could not."""

    outcome: TurnOutcome | None
    asked: Mapping[str, Request]
    lack: str = ""

    @property
    def is_parked(self) -> bool:
        """The run would be an incident."""
        return self.outcome is not None and self.outcome.status is RunStatus.INCIDENT

    @property
    def type(self) -> str:
        """Of the error that the run would end or be parked by."""
        error = (self.outcome.error if self.outcome is not None else None) or {}
        return str(error.get("type", ""))

    @property
    def why(self) -> str:
        """What the run would end or be parked by."""
        error = (self.outcome.error if self.outcome is not None else None) or {}
        return f"{error.get('type', '')}: {error.get('message', '')}"


@dataclass(frozen=True, slots=True)
class Code:
    """The definition that this program has of the run's process, and what it needs."""

    process: Process
    registry: Registry

    def look(
        self, run: RunContext, journal: Sequence[Activity], signals: Sequence[BufferedSignal]
    ) -> Look:
        """Replay that journal; no step is called, and nothing is written."""
        asked: dict[str, Request] = {}
        try:
            outcome = take_turn(
                self.process,
                run,
                journal,
                signals,
                registry=self.registry,
                perform_step=_perform_nothing,
                may_perform=False,
                asked=asked,
            )
        except TurnAbandoned as lack:
            return Look(None, asked, str(lack))
        return Look(outcome, asked)


def _perform_nothing(request: Request, _entry: Activity | None) -> Activity:
    raise TurnAbandoned(f"step {request.key} is not performed by a look")


def listed(keys: Iterable[str]) -> str:
    """Keys in a sentence: `a, b and 3 more`."""
    all_of = list(keys)
    shown, rest = all_of[:KEYS_NAMED_MAX], len(all_of) - KEYS_NAMED_MAX
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
