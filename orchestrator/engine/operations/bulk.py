"""One verb over many runs: an exact set, previewed, confirmed by its digest, and done run by run.

    preview    selects the runs, keeps the set, and says what would be done; touches no run
    apply      does it to the set that has the digest
    go_on      does what is left of an operation: after a pause, or after its command has died
    set_down   pauses or stops an operation that another command is at

Each run is one transaction: the line of the set is taken, the verb acts, and the line says what came of it. A command
may die anywhere: what is committed is done and said, and the rest is to do. One command at a time is at an operation,
for as long as it says so; a run that has changed since the preview is left alone.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from uuid_utils.compat import uuid7

from orchestrator.core import codec
from orchestrator.core.bulk import (
    PER_SECOND_MAX,
    PER_SECOND_MIN,
    LineState,
    OperationState,
    OperationView,
    Preview,
    why_skipped,
)
from orchestrator.core.checks import check_words, composed
from orchestrator.core.selection import SELECTED_MAX, RunFilter, finds_by_index
from orchestrator.engine.context import EngineContext
from orchestrator.engine.operations.bulk_verb import BulkVerb, VerbCall
from orchestrator.engine.operations.bulk_verbs import statuses_meant, verb_of
from orchestrator.errors import PerennialError
from orchestrator.store.reads import operations as reads
from orchestrator.store.reads.selecting import select_runs
from orchestrator.store.transitions import operations

log = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
"""So long after its last word a command that is at an operation counts as gone."""

CATCH_UP_SECONDS = 1.0
"""What a slow run has held up is made up for: so much of it, and no burst."""

LOOKS_MAX = 20
"""Of so many groups a preview looks at one run more closely."""

Progress = Callable[[int, int, Mapping[str, int]], None]
"""Is told how many runs are done, of how many, and what became of them."""


def preview(
    context: EngineContext,
    verb_name: str,
    asked: RunFilter,
    *,
    by: str,
    reason: str = "",
    arguments: Mapping[str, Any] | None = None,
) -> Preview:
    """What the verb would do, and to which runs; the set is kept, so that it can be applied by its digest.

    Raises PerennialError for a filter that means all runs, that no index serves, or that means too many.
    """
    verb = verb_of(verb_name)
    given = verb.checked(arguments or {})
    if asked.is_empty:  # guard: no verb acts on all runs by accident
        raise PerennialError(
            f"{verb.name} of which runs? Say at least one of process, status, cause, stage, key or times: "
            "a filter that says nothing means every run there is"
        )
    statuses = statuses_meant(verb, frozenset(asked.statuses), of_errors=asked.names_an_error)
    finds_by_index(asked, statuses)
    with context.reading() as connection:
        found = select_runs(connection, asked, statuses, limit=SELECTED_MAX + 1)
    if len(found) > SELECTED_MAX:
        raise PerennialError(
            f"more than {SELECTED_MAX:,} runs are meant, and an operation has so many at most: narrow the filter, by "
            "times for example, and do it in parts"
        )
    refusals = tuple((run, why) for run in found if (why := verb.refusal(run)))
    runs = tuple(run for run in found if not verb.refusal(run))
    shown = Preview(verb.name, verb.what, given, asked, runs, refusals, uuid7())
    shown = replace(shown, looks=tuple(_looks(context, verb, shown, by=by, reason=reason)))
    if runs:
        with context.transaction() as connection:
            operations.keep_preview(
                connection,
                shown.operation_id or uuid7(),
                verb=verb.name,
                arguments=given,
                filter_=asked.as_json(),
                digest=shown.digest,
                by=_operator(by),
                reason=codec.readable(reason),
                runs=[(run.id, run.revision) for run in runs],
            )
    return shown


def _looks(
    context: EngineContext, verb: BulkVerb, shown: Preview, *, by: str, reason: str
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What the verb says of one run of each group."""
    if verb.look is None or shown.operation_id is None:
        return
    asked = VerbCall(_operator(by), reason, shown.arguments, shown.operation_id)
    with context.connection() as connection:
        for run in shown.samples[:LOOKS_MAX]:
            try:
                yield run.name, verb.look(context, connection, run.id, asked)
            except PerennialError as refusal:
                yield run.name, (f"refused: {refusal}",)


def kept_preview(
    context: EngineContext, digest: str, *, verb: str | None = None, asked: RunFilter | None = None
) -> OperationView | None:
    """The set that was previewed with that digest. None: there is none, of that verb and filter."""
    with context.reading() as connection:
        found = reads.find_preview(connection, digest)
    if found is None or verb not in (None, found.verb):
        return None
    if asked is not None and not asked.is_empty and asked.as_json() != found.filter:
        return None
    return found


def stale(digest: str, verb: str) -> PerennialError:
    """The refusal of a digest that no preview has."""
    return PerennialError(
        f"no preview of {verb} has the digest {digest!r}: it was applied already, is older than "
        f"{operations.PREVIEW_HOURS} hours, or was made with another filter. Preview again, and apply what that shows"
    )


class _DoneByAnother(Exception):
    """Another has taken the operation up since, was at this line too, and was first."""


@dataclass(slots=True)
class Applying:
    """A command that is at an operation: `pause` is how it lets time pass, for a rate."""

    context: EngineContext
    operation_id: UUID
    name: str
    pause: Callable[[float], None]
    progress: Progress = lambda _done, _of, _counts: None
    holder: UUID = field(default_factory=uuid7)
    _said_at: float = 0.0

    def go_on(
        self, *, by: str, reason: str = "", rate_per_second: float | None = None
    ) -> OperationView:
        """Do what is left, until its end or until another pauses or stops it. Raises PerennialError: it can't be."""
        _check_rate(rate_per_second)
        with self.context.connection() as connection:
            held = operations.hold_operation_if_free(
                connection,
                self.operation_id,
                holder=self.holder,
                name=self.name,
                lease_seconds=LEASE_SECONDS,
                by=_operator(by),
                reason=codec.readable(reason),
                rate_per_second=rate_per_second,
            )
        if held is None:
            raise self._why_not()
        self._said_at = self.context.monotonic()
        asked = VerbCall(held.by, held.reason, held.arguments, self.operation_id)
        try:
            self._do_all(verb_of(held.verb), asked, held.rate_per_second, held.runs)
        except (
            BaseException
        ):  # Ctrl-C, or the record is away: whoever resumes need not wait for the lease
            self._set_down_if_reachable()
            raise
        return operation_of(self.context, self.operation_id)

    def _do_all(self, verb: BulkVerb, asked: VerbCall, rate: float | None, runs: int) -> None:
        counts = Counter(operation_of(self.context, self.operation_id).counts)
        after, due_at = 0, self.context.monotonic()
        while True:
            if rate is not None:
                self._wait_until(due_at)
                behind = max(due_at, self.context.monotonic() - CATCH_UP_SECONDS)
                due_at = behind + 1 / rate
            line = self._do_one(verb, asked, after)
            if line is None:
                break
            after, state = line
            counts[LineState.TO_DO] -= 1
            counts[state] += 1
            self.progress(runs - counts[LineState.TO_DO], runs, counts)
            self._say_so_now_and_then()
        if counts[LineState.TO_DO] <= 0:
            self._end(OperationState.FINISHED)

    def _do_one(self, verb: BulkVerb, asked: VerbCall, after: int) -> tuple[int, LineState] | None:
        """Take the next line, act, and say what came of it: all in one transaction. None: nothing is left for us."""
        line: Any = None
        try:
            with self.context.transaction() as connection:
                line = operations.take_line(
                    connection, self.operation_id, holder=self.holder, after=after
                )
                if line is None:
                    return None
                state = self._act(verb, asked, connection, line)
        except _DoneByAnother:
            state = LineState.DONE
        except DBAPIError as error:
            if error.connection_invalidated or line is None:
                raise
            log.warning("%s of run %s failed: %s", verb.name, line.run_id, error.orig)
            state = self._record_failure(line.ordinal, codec.readable(str(error.orig)))
        return line.ordinal, state

    def _act(self, verb: BulkVerb, asked: VerbCall, connection: Connection, line: Any) -> LineState:
        state, result = LineState.SKIPPED, why_skipped(line.revision, line.stands_at, line.status)
        if not result:  # guard: a run that has changed since the preview is left alone
            state, result = self._perform(verb, asked, connection, line.run_id)
        if not operations.settle_line(
            connection, self.operation_id, line.ordinal, state=state, result=result
        ):
            raise _DoneByAnother  # and what the verb has done here is undone
        return state

    def _perform(
        self, verb: BulkVerb, asked: VerbCall, connection: Connection, run_id: UUID
    ) -> tuple[LineState, str]:
        try:
            return LineState.DONE, verb.perform(self.context, connection, run_id, asked)
        except PerennialError as refusal:
            return LineState.REFUSED, codec.readable(str(refusal))

    def _record_failure(self, ordinal: int, why: str) -> LineState:
        """What Postgres has refused took its transaction with it; the line says so in another."""
        with self.context.transaction() as connection:
            line = operations.take_line(
                connection, self.operation_id, holder=self.holder, after=ordinal - 1
            )
            if line is not None and line.ordinal == ordinal:
                operations.settle_line(
                    connection, self.operation_id, ordinal, state=LineState.FAILED, result=why
                )
        return LineState.FAILED

    def _wait_until(self, due_at: float) -> None:
        while (rest := due_at - self.context.monotonic()) > 0:
            self.pause(min(rest, LEASE_SECONDS / 3))
            self._say_so_now_and_then()

    def _say_so_now_and_then(self) -> None:
        if self.context.monotonic() - self._said_at < LEASE_SECONDS / 3:
            return
        with self.context.connection() as connection:
            operations.renew(
                connection, self.operation_id, holder=self.holder, lease_seconds=LEASE_SECONDS
            )
        self._said_at = self.context.monotonic()

    def _end(self, state: OperationState) -> None:
        with self.context.connection() as connection:
            operations.end_operation(connection, self.operation_id, state=state, holder=self.holder)

    def _set_down_if_reachable(self) -> None:
        try:
            self._end(OperationState.PAUSED)
        except Exception:  # noqa: BLE001 - the lease ends by itself, and what is raised already says more
            log.warning(
                "operation %s could not be set down; its lease ends by itself", self.operation_id
            )

    def _why_not(self) -> PerennialError:
        found = operation_of(self.context, self.operation_id)
        if found.is_held and found.held_until is not None:
            return PerennialError(
                f"{found.held_by} is at operation {found.id}, and said so in the last {LEASE_SECONDS:g} s. "
                "`perennial operations pause ID` takes it from there"
            )
        if found.state is OperationState.PREVIEWED:
            return PerennialError(
                f"the preview is older than {operations.PREVIEW_HOURS} hours: make another"
            )
        return PerennialError(f"operation {found.id} is {found.state}: nothing of it is left to do")


def set_down(context: EngineContext, operation_id: UUID, state: OperationState) -> OperationView:
    """Pause or stop an operation, whoever is at it: the run that is being done is done, and no more.

    Raises PerennialError: it is over already, or was never applied.
    """
    with context.connection() as connection:
        done = operations.end_operation(connection, operation_id, state=state)
    found = operation_of(context, operation_id)
    if not done:
        raise PerennialError(f"operation {found.id} is {found.state}; it can't be {state}")
    return found


def operation_of(context: EngineContext, reference: UUID | str) -> OperationView:
    """The operation of that id, or whose id begins so. Raises PerennialError."""
    with context.reading() as connection:
        found = reads.find_operations(connection, str(reference))
    if len(found) == 1:
        return found[0]
    if found:
        raise PerennialError(f"several operations begin with {reference!r}: give more of its id")
    raise PerennialError(
        f"there is no operation {str(reference)!r}. `perennial operations` lists them"
    )


def _check_rate(rate_per_second: float | None) -> None:
    if rate_per_second is None:
        return
    if (
        not math.isfinite(rate_per_second)
        or not PER_SECOND_MIN <= rate_per_second <= PER_SECOND_MAX
    ):
        raise PerennialError(
            f"a rate is between one run an hour and {PER_SECOND_MAX:g} a second, not {rate_per_second:g} a second"
        )


def _operator(by: str) -> str:
    if by:
        check_words(by, what="an operator", where="by")
    return composed(by) or "operator"
