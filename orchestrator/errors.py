"""The errors that users of Perennial meet. A message says what, where, and the next thing to do.

Those of one part alone stand with it: `cli`, `demo`, `embedded`.
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


class PerennialError(Exception):
    """Base of every error raised by Perennial. Each can be pickled and copied, with all it tells."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args), self.__dict__ or None


def _again(kind: type[PerennialError], args: tuple[Any, ...]) -> PerennialError:
    """An error as it was, without its `__init__`, which may take other arguments than `args`."""
    error = kind.__new__(kind)
    error.args = args
    return error


class SettingsError(PerennialError):
    """A setting is missing or makes no sense."""


class BadDatabaseURL(SettingsError):
    """A database's address can't be read, or is of no Postgres. It isn't repeated: it may hold a password."""


class BadBrokerURL(SettingsError):
    """A broker's address can't be read. It isn't repeated: it may hold a password."""


# -- definitions ---------------------------------------------------------------------------------


class DefinitionError(PerennialError):
    """A process, stage or approval is defined wrongly.

    `where` names the place (`access.yaml:4` or `tasks.access.process:access_request`) and
    `remedy` the next thing to do.
    """

    def __init__(self, problem: str, *, where: str = "", remedy: str = "") -> None:
        self.problem, self.where, self.remedy = problem, where, remedy
        super().__init__(
            ": ".join(filter(None, (where, problem))) + (f". {remedy}" if remedy else "")
        )


class UnknownProcess(PerennialError):
    """No such process (or version) is deployed. Deploy it with `perennial deploy`."""


class CodeDiffers(UnknownProcess):
    """This worker's code of the version is not what its run stands on. One that has that code moves the run."""


class UnknownStage(PerennialError):
    """This worker has no stage of that name. Another one may: the run is left for it."""


class VersionRefused(PerennialError):
    """A version can't be set as current, or retired, so; the message says why, and what to do."""


class ProcessChanged(DefinitionError):
    """This name and version is deployed already, with other content. Raise the version."""


class SchemaNotReady(PerennialError):
    """The database lacks Perennial's tables, or has older ones. `perennial db upgrade` makes them."""


class PoolerBetween(PerennialError):
    """A pooler stands between us and Postgres and lends no session for long enough. The message says what to do."""


class UnusableConnection(PerennialError, TypeError):
    """What was given as `connection=` can't carry a statement of ours. The message says what can."""


# -- payloads ------------------------------------------------------------------------------------


class PayloadError(PerennialError):
    """A value can't be written to, or read from, the record as its declared type."""


class PayloadMismatch(PayloadError):
    """What the record holds was written by other code, and doesn't fit the type that this code declares.

    Nothing is wrong with the run: it is parked, and goes on with code that can read it.
    """


class InvalidInput(PayloadError):
    """The input of a run doesn't fit the process's input type; holds pydantic's own message."""


class InvalidArguments(PayloadError):
    """A flow gave a stage arguments that it doesn't take; raised at the call, the same on every replay.

    Where arguments come from data, catch it there; one that nobody catches parks the run.
    """


# -- what a flow or stage may meet ---------------------------------------------------------------


class Fail(PerennialError):
    """Raise it in a flow to end the run as `failed`; in a stage, to fail it without a retry."""


class ActivityFailed(PerennialError):
    """An awaited activity ended in failure; raised at its `await` in the flow.

    `key` is its journal key, `error_type` the class name of the last error, `attempts` how many
    were made. `is_a` compares with a class. `attributes` are those of the error that its stage or step has named
    (`error_attributes=`), as plain JSON, and `traceback` the end of its traceback, if that was named. `why` no other
    attempt was made, where its Retry has more to say than a number. All are the same at each replay.
    """

    def __init__(
        self,
        key: str,
        *,
        error_type: str,
        message: str,
        attempts: int,
        types: tuple[str, ...] = (),
        attributes: dict[str, Any] | None = None,
        traceback: str = "",
        why: str = "",
    ) -> None:
        self.key, self.error_type, self.message, self.attempts = key, error_type, message, attempts
        self.types, self.attributes = types, attributes or {}
        self.traceback, self.why = traceback, why
        super().__init__(f"{key} failed after {attempts} attempt(s): {error_type}: {message}")

    def is_a(self, kind: str | type[BaseException]) -> bool:
        """Whether what was raised is of that class, or of a subclass, as it was where it was raised.

        `kind`: a class, its full name (`"app.errors.NotFound"`), or its name alone.
        """
        wanted = kind if isinstance(kind, str) else name_of_class(kind)
        names = self.types or _names_of_builtin(self.error_type) or (self.error_type,)
        return any(wanted in (name, name.rpartition(".")[2]) for name in names)


def name_of_class(kind: type) -> str:
    """`package.module.Name`."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _names_of_builtin(name: str) -> tuple[str, ...]:
    """Of Python's own error of that name, and of its bases; of any other the record has them."""
    own = getattr(builtins, name, None)
    if not (isinstance(own, type) and issubclass(own, BaseException)):
        return ()
    return tuple(name_of_class(each) for each in own.__mro__ if each is not object)


class WorkerLost(ActivityFailed):
    """The worker of a stage's last attempt died or fell silent: its work may be done, in part or not at all.

    Raised at the await of a stage with `Retry(on_lost="raise")`; by default its run becomes an incident.
    """


class StepInterrupted(WorkerLost):
    """The worker of a step with `at_most_once=True` died in it, or its end could not be recorded.

    It may be done, in part or not at all, and is not called again. Raised at its `await`.
    """


def activity_failed(key: str, error: dict[str, Any], *, attempts: int) -> ActivityFailed:
    """What a flow meets at the await of a failed activity, of its recorded error."""
    kind = error.get("type", "Error")
    # An author's error of that name has the line that raised it.
    attributes = dict(error.get("attributes") or {})
    ours = {"WorkerLost": WorkerLost, "StepInterrupted": StepInterrupted}
    raised = ours.get(kind, ActivityFailed) if "at" not in error else ActivityFailed
    return raised(
        key,
        error_type=kind,
        message=error.get("message", ""),
        attempts=attempts,
        types=tuple(error.get("types") or ()),
        traceback=attributes.pop("__traceback__", ""),
        attributes=attributes,
        why=error.get("why", ""),
    )


class WaitTimedOut(PerennialError, TimeoutError):
    """What a flow waited for did not come in time; raised at its `await`."""

    what = "what was awaited as {!r} did not come in time"

    def __init__(self, key: str, *, name: str) -> None:
        self.key, self.name = key, name
        super().__init__(f"{self.what.format(name)} (activity {key})")


class SignalTimedOut(WaitTimedOut):
    """The signal a flow waited for did not arrive in time; raised at its `await`."""

    what = "no signal {!r} arrived in time"


class CorrelationTaken(PerennialError):
    """Another run awaits a signal of that name and correlation key already; raised at the `await` in the flow."""

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(f"{message} (activity {key})")


class CallbackTimedOut(WaitTimedOut):
    """Nobody answered a callback in time; raised at its `await`."""

    what = "callback {!r} was not answered in time"


class HeartbeatTimedOut(WaitTimedOut):
    """Whoever holds a callback's token gave no sign of life for too long; raised at its `await`."""

    what = "no heartbeat of callback {!r} came in time"


class PollTimedOut(WaitTimedOut):
    """A poll came to no end in its time or its attempts: `checks` were made, and `last` is what the last one found."""

    def __init__(self, name: str, *, checks: int, last: Any = None) -> None:
        super().__init__(name, name=name)
        self.checks, self.last = checks, last
        self.args = (f"poll {name!r} came to no end in {checks} check(s)",)


class CallbackFailed(ActivityFailed):
    """A partner answered a callback with a failure: `error_type` and `message` as it was told."""


class ChildFailed(ActivityFailed):
    """A child ended without a result; raised at its `await` in the flow.

    `run_id` and `process` say which run, `status` whether it failed, was cancelled or has expired; `error_type` and
    `message` are what it ended with.
    """

    def __init__(
        self,
        key: str,
        *,
        run_id: UUID,
        process: str,
        status: str,
        error_type: str,
        message: str,
    ) -> None:
        super().__init__(key, error_type=error_type, message=message, attempts=1)
        self.run_id, self.process, self.status = run_id, process, status
        why = ": ".join(filter(None, (error_type, message)))
        self.args = (f"{key}: child {process} {run_id} {status}" + (f": {why}" if why else ""),)


class ChildKeyTaken(PerennialError):
    """The business key of a child is another run's, `run_id`; raised at the `await`. Nothing was started."""

    def __init__(self, key: str, message: str, *, run_id: UUID | None, business_key: str) -> None:
        self.key, self.run_id, self.business_key = key, run_id, business_key
        super().__init__(f"{message} (activity {key})")


class ChildRefused(PerennialError):
    """A child can't be started: no such process, an input that it doesn't take, or too deep. Its parent is parked."""


class CallbackRefused(PerennialError):
    """A callback's token counts no more, or is none; the message says why. Nothing was recorded."""


class BlockTimedOut(WaitTimedOut):
    """A block under `flow.timeout` was not done in time, and is left with this. What it awaited is cancelled."""

    what = "what stands under {!r} was not done in time"


class ActivityCancelled(PerennialError):
    """An activity that is awaited was cancelled: the race or the block that it was a part of is over."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"{key} was cancelled: the race or the block that it belonged to is over")


class TooFewSucceeded(PerennialError):
    """So many branches of a `flow.first` failed that it can't be won. `branches`: the BranchOutcome of each."""

    def __init__(self, key: str, *, count: int, branches: tuple[Any, ...], message: str) -> None:
        self.key, self.count, self.branches = key, count, branches
        super().__init__(f"{key} needed {count} of {len(branches)} branches to succeed: {message}")


class BranchCancelled(BaseException):
    """Raised at the await of a branch that is cancelled, or of a block that is not done in time.

    So their `finally` blocks run, awaits in them too. Let it go on: a branch that catches it is waited for, and what it
    returns counts for nothing. As asyncio's CancelledError it is no Exception.
    """


class RunCancelled(BranchCancelled):
    """Raised at the flow's await where its run is cancelled, or has expired, and may clean up first.

    `is_expired`: it is its time that is over. Its `finally` blocks run, awaits in them too, and then the run has ended,
    whatever the flow returns or raises.
    """

    def __init__(self, why: str = "", *, is_expired: bool = False) -> None:
        self.is_expired = is_expired
        super().__init__(why)


# -- runs ----------------------------------------------------------------------------------------


class RunNotFound(PerennialError, LookupError):
    """There is no run of that id or business key."""


class UnknownAttribute(PerennialError, LookupError):
    """The run has no attribute of that name: its flow hasn't set it, or not yet."""


class RunClosed(PerennialError):
    """The run has ended; nothing can be done to it any more."""


class RunCancelling(PerennialError):
    """The run is being cancelled already, and cleans up. `perennial cancel RUN --now` ends it at once."""


class TooManySignals(PerennialError):
    """A run, or a correlation key, holds as many signals that nobody has taken as it may. Nothing was recorded."""


class RunNotClosed(PerennialError):
    """The run has not ended yet, so it has no result."""


class RunCompleted(PerennialError):
    """The run has completed: it is started once more only by who says so."""


class OperationRefused(PerennialError):
    """An operator's verb has no sense where the run stands, or would do harm; the message says what to do instead."""


class StalePreview(OperationRefused):
    """What was previewed is not what would happen now: look again. `digest` is that of the present preview."""

    def __init__(self, message: str, *, digest: str) -> None:
        self.digest = digest
        super().__init__(message)


class RunFailed(PerennialError):
    """The run ended without a result: failed, cancelled or expired. `status` says which."""

    def __init__(self, run_id: UUID, *, status: str, message: str) -> None:
        self.run_id, self.status, self.message = run_id, status, message
        super().__init__(
            f"run {run_id} {status}: {message}" if message else f"run {run_id} {status}"
        )


# -- decisions -----------------------------------------------------------------------------------


class DecisionRefused(PerennialError):
    """A decision was not taken. The subclass says why; nothing was written."""


class DecisionTooEarly(DecisionRefused):
    """The run has not come to this approval yet."""


class DecisionTooLate(DecisionRefused):
    """The approval's deadline has passed, or its run has ended."""

    def __init__(self, message: str, *, deadline: datetime | None = None) -> None:
        self.deadline = deadline
        super().__init__(message)


class AlreadyDecided(DecisionRefused):
    """Someone has decided already: `by` whom, `outcome` and when (`at`)."""

    def __init__(self, message: str, *, by: str, outcome: str, at: datetime | None) -> None:
        self.by, self.outcome, self.at = by, outcome, at
        super().__init__(message)


class AlreadyVoted(AlreadyDecided):
    """This person has voted; the approval is open still, for the others."""


class ApprovalChanged(DecisionRefused):
    """What this person was shown was changed since: `changed` says what. Look at it again, then decide.

    So is a decision refused that doesn't say what was shown, of an approval that was changed, or asked anew, while it
    was open. `edition`: as it is now.
    """

    def __init__(self, message: str, *, changed: str = "", edition: int = 0) -> None:
        self.changed, self.edition = changed, edition
        super().__init__(message)


class Excluded(DecisionRefused):
    """This person may not decide it, whoever asks: the approval leaves them out (`exclude=`)."""


class NotAssigned(DecisionRefused):
    """This person is not asked; `assignees` are."""

    def __init__(self, message: str, *, assignees: tuple[str, ...]) -> None:
        self.assignees = assignees
        super().__init__(message)
