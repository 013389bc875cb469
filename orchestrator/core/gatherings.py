"""What `core.branches` keeps of the coroutines of a turn: who they are, what each awaits, and who is given the answer.

Branch      a coroutine
Gathering   a combination that is awaited, with a Seat for each branch that was started
Block       a part of a coroutine under a deadline
Wait        somebody waits for the answer of one request
Answers     what the turn says of the journal
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.core.combinators import Combination
from orchestrator.core.kinds.base import Answer, Request
from orchestrator.core.pending import FlowCoroutine
from orchestrator.core.tallies import Tally
from orchestrator.errors import BranchCancelled


class Answers(Protocol):
    """What the turn knows of the journal."""

    def look(self, request: Request, scope: str, is_alone: bool) -> Answer | None:  # noqa: FBT001 - on the main path
        """The answer of a request, as it is awaited in that scope. None: it has none yet. `is_alone`: nobody else is
        ready.
        """

    def cancel(self, request: Request, why: str) -> bool:
        """Whoever awaits it from here on is raised ActivityCancelled. False: it has its answer."""

    def cancel_within(self, scopes: set[str], why: str) -> list[Request]:
        """Cancel all that was asked for in those scopes, and has no answer. Returns what was cancelled."""

    def cancel_since(self, request: Request, why: str) -> list[Request]:
        """And all that was asked for after this, in its scope or within."""

    def is_recorded(self, request: Request) -> bool:
        """The record has its answer, whether the flow has come past it or not."""

    def record(self, request: Request, value: Any) -> None:
        """Record that answer in this turn; the next one gives it."""

    def cancel_all(self, why: str) -> list[Request]:
        """Cancel all that has no answer and is awaited by nobody. Returns what was cancelled."""

    def follow_up(self, ended: Answer) -> FlowCoroutine | None:
        """What goes on in the flow's place, now that its own code has ended so. None: nothing."""


@dataclass(slots=True, eq=False)
class Branch:
    """A coroutine; `seat` is where its answer goes, None for the run's own flow."""

    flow: FlowCoroutine
    scope: str
    seat: Seat | None
    wait: Wait | None = None
    """What it awaits, if that is one thing."""
    awaits: Gathering | None = None
    """What it awaits, if those are several together."""
    blocks: list[Block] = field(default_factory=list)
    """Those that it is in, the outermost first."""
    instead: Answer | None = None
    """What it is given in place of the answer that it is ready for."""
    is_cancelled: bool = False
    is_undoing: bool = False
    """It undoes what it has done, and nothing interrupts it."""
    is_last_undoing: bool = False
    """And that is all that its flow does any more."""
    deferred: BaseException | None = None
    """What would have interrupted it, and is raised when that is done."""
    is_over: bool = False


@dataclass(slots=True, eq=False)
class Gathering:
    """A combination that is awaited, and how its branches stand."""

    combination: Combination[Any]
    scope: str
    waiter: Waiter
    tally: Tally
    seats: list[Seat] = field(default_factory=list)
    """Of the branches that were started."""
    running: int = 0
    is_busy: bool = False
    """Its branches are being started, or cancelled: that it is done with is looked at once afterwards."""
    is_decided: bool = False
    broken_off: Answer | None = None
    """What its waiter is given in place of its verdict."""
    outcome: Answer | None = None
    is_new: bool = True
    """Whoever has just awaited it is given its outcome there and then."""
    is_over: bool = False

    @property
    def is_of_answers(self) -> bool:
        """No code of the flow's own runs in it before all are there."""
        return (
            self.combination.waits_for_all
            and len(self.seats) == len(self.combination.branches)
            and all(
                seat.branch is None and (seat.awaits is None or seat.awaits.is_of_answers)
                for seat in self.seats
            )
        )


@dataclass(slots=True, eq=False)
class Seat:
    """A place among the branches of a gathering, and what sits there."""

    gathering: Gathering
    index: int
    branch: Branch | None = None
    wait: Wait | None = None
    awaits: Gathering | None = None
    has_ended: bool = False

    @property
    def is_over(self) -> bool:
        return self.has_ended or self.gathering.is_over


@dataclass(slots=True, eq=False)
class Block:
    """A part of a coroutine under a deadline (`Flow.timeout`); `request` is the deadline's."""

    request: Request
    branch: Branch
    is_left: bool = False
    cancelled: BranchCancelled | None = None
    """What was raised inside it when it was not done in time."""
    wait: Wait | None = None
    awaits: Gathering | None = None

    @property
    def is_over(self) -> bool:
        return self.is_left or self.branch.is_over


Waiter = Branch | Seat | Block


@dataclass(slots=True, eq=False)
class Wait:
    """Somebody waits for the answer of one request."""

    request: Request
    waiter: Waiter
    scope: str
    is_dropped: bool = False

    @property
    def is_over(self) -> bool:
        return self.is_dropped or self.waiter.is_over
