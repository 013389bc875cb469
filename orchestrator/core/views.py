"""What the record shows to people and programs: frozen, and free of SQL."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.core.journal import ActivityKind
from orchestrator.core.run import RunStatus
from orchestrator.core.voting import Vote


@dataclass(frozen=True, slots=True)
class Started:
    """The answer to `Client.start`. `created` is False when the business key's run was there already.

    `status` is how that run stands: it may have ended, and then nothing runs under the key.
    """

    run_id: UUID
    process: str
    version: int
    created: bool
    status: RunStatus = RunStatus.RUNNING

    def __str__(self) -> str:
        return str(self.run_id)


@dataclass(frozen=True, slots=True)
class Upcoming:
    """Something that happens by itself: `what` (`escalates to director`) and when (`at`)."""

    what: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing a run waits for: what, who can act, since when, what happens next and when.

    `who` names people for an approval, `whoever sends signal x` for a signal, the worker or queue
    for a stage. `next` is in order of time; empty when nothing happens by itself.
    """

    kind: ActivityKind
    key: str
    name: str
    who: tuple[str, ...]
    since: datetime
    next: tuple[Upcoming, ...] = ()
    attempt: int = 1
    detail: str = ""
    edition: int = 0
    """Of an approval: how often what people see of it was changed while it was open."""
    changed: str = ""
    """Of an approval: what was changed last, in words."""
    heartbeat: Any = None
    """Of a stage: the details that its own code has given last (`heartbeat`), as plain JSON, and when."""
    heartbeat_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run as `ps` lists it. `waiting_for` is readable (`approval manager`). `is_unserved`, `status_text`: as of a
    `RunView`.
    """

    id: UUID
    process: str
    version: int
    business_key: str | None
    status: RunStatus
    stage: str | None
    waiting_for: str | None
    created_at: datetime
    last_progress_at: datetime
    closed_at: datetime | None
    next_timer_at: datetime | None
    is_unserved: bool = False
    status_text: str = ""


@dataclass(frozen=True, slots=True)
class DeployedRevision:
    """A content of a version: how many open runs stand on it, and how many living workers can run it (`workers`
    names some of them).
    """

    code_revision: int
    open_runs: int
    served_by: int
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeployedVersion:
    """A version as `processes` lists it. `is_current`: new runs take it; `set_by`: who has set it so, if anybody has.

    `revisions`: the deployed one (`code_revision`), and those before on which runs still stand, the newest first.
    """

    name: str
    version: int
    kind: str
    code_revision: int
    deployed_at: datetime
    deployed_by: str
    is_current: bool
    set_by: str | None
    retired_at: datetime | None
    retired_by: str
    revisions: tuple[DeployedRevision, ...]

    def with_revision(self, revision: DeployedRevision) -> DeployedVersion:
        """The same with one more."""
        return replace(self, revisions=(*self.revisions, revision))

    @property
    def open_runs(self) -> int:
        """Of all of its revisions."""
        return sum(each.open_runs for each in self.revisions)

    @property
    def unserved(self) -> tuple[int, ...]:
        """The revisions on which open runs stand that no living worker can run."""
        return tuple(
            each.code_revision for each in self.revisions if each.open_runs and not each.served_by
        )


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """A line of a process' history: `deployed`, `amended` (to `code_revision`), `current`, `retired`, `unretired`.

    `version` of `current`: which new runs take from then on, and `former_version` the one before; None: the newest
    that is served.
    """

    at: datetime
    by: str
    event: str
    version: int | None
    former_version: int | None = None
    code_revision: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FailedActivity:
    """What an activity's last failed attempt has raised: `type`, `message`, its bounded `traceback`, and `at`,
    the author's file and line. `why` there was no other attempt, or there was one all the same, where its Retry has
    more to say than a number.
    """

    key: str
    attempt: int
    type: str
    message: str
    traceback: str
    at: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class FamilyMember:
    """A run among its parents and children. `on_parent_end`: what its parent's end does to it, if it has a parent."""

    id: UUID
    process: str
    version: int
    business_key: str | None
    status: RunStatus
    waiting_for: str | None
    parent_id: UUID | None = None
    parent_key: str | None = None
    """Its line in its parent's journal. None: it is not awaited."""
    on_parent_end: str | None = None


@dataclass(frozen=True, slots=True)
class RunTree:
    """A run with its children, theirs, and so on. `is_cut`: it has more than were read."""

    run: FamilyMember
    children: tuple[RunTree, ...] = ()
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as `show` shows it. `input`, `output`, `error` and `attributes` are plain JSON.

    `error`, where there is one, has `type`, `message` and mostly `traceback`; `failures` are those of the run's
    activities that count: those that failed for good, and those that are tried again.
    `waiting_for` sums up `waits`, or names what no worker of the fleet has. `untaken_turn` is not empty when
    its next turn was asked for again and again, on `queue` (None: the default), and no worker took it.
    A run that was started anew gave its business key up: it is the `former_key` then, and `followed_by` the run
    that `follows` it. A child has a `parent_id`, and its line there, `parent_key`, if it is awaited; `children` are
    some of the `children_started`, those that are open first. `is_unserved`: no living worker can run its version, as
    far as workers have said. `status_text`: what its flow has said last to people (`flow.status`).
    """

    id: UUID
    process: str
    version: int
    business_key: str | None
    status: RunStatus
    stage: str | None
    previous_stage: str | None
    revision: int
    input: Any
    output: Any
    error: dict[str, Any] | None
    attributes: dict[str, Any]
    created_at: datetime
    started_at: datetime | None
    last_progress_at: datetime
    expires_at: datetime | None
    closed_at: datetime | None
    next_timer_at: datetime | None
    waiting_for: str | None
    active_milliseconds: int
    waits: tuple[Wait, ...]
    queue: str | None = None
    untaken_turn: str = ""
    failures: tuple[FailedActivity, ...] = ()
    former_key: str | None = None
    follows: UUID | None = None
    followed_by: UUID | None = None
    code_revision: int = 1
    is_unserved: bool = False
    status_text: str = ""
    chapter: int = 1
    """How often its flow has continued as new, and one."""
    chapter_at: datetime | None = None
    parent_id: UUID | None = None
    parent_key: str | None = None
    on_parent_end: str | None = None
    children_started: int = 0
    children: tuple[FamilyMember, ...] = ()


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """An approval as its people see it. `state`: open, approved, rejected, timed_out or cancelled."""

    run_id: UUID
    key: str
    name: str
    process: str
    business_key: str | None
    state: str
    assignees: tuple[str, ...]
    escalated: bool
    opened_at: datetime
    escalates_at: datetime | None
    deadline: datetime | None
    decided_by: str | None
    decided_at: datetime | None
    comment: str
    input: Any
    follows: UUID | None = None
    """The run that had the business key before, where its run was started anew."""
    edition: int = 0
    """How often what people see of it was changed while it was open. A decision on a view is on that edition."""
    changed: str = ""
    """What was changed last, in words; empty if nothing was."""
    votes: tuple[Vote, ...] = ()
    """Of an approval that several decide, in their order."""
    progress: str = ""
    """How far they have come: `1 of 2 approved; bob may still decide`. Empty where the first decides."""
    why: str = ""
    """Why they are asked, in words, where its name doesn't say: what a stage has failed by that may be tried again."""

    @property
    def to_decide(self) -> tuple[str, ...]:
        """Of the assignees those who have not voted."""
        voted = {vote.person for vote in self.votes}
        return tuple(person for person in self.assignees if person not in voted)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One fact of a run's history: who, what, when, from which status to which."""

    at: datetime
    actor: str
    event: str
    key: str | None
    attempt: int | None
    from_status: str | None
    to_status: str | None
    detail: dict[str, Any]
