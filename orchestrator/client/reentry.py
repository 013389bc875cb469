"""Verbs that let one run go another way: the part of `client.operations` that has a preview.

Each takes, beside what it is about:

    dry_run      True: nothing is written; the answer has the preview of what would be
    digest       of the preview that was seen: where another thing would happen by now, StalePreview is raised
    operation    an id under which this is done to the run once, however often it is called
    by, reason   who and why, for the history
    connection   the caller's, whose transaction this is a part of

and raises RunNotFound, and OperationRefused with the sentence that says what to do instead. docs/re-entry.md says
which verb is for which trouble.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeVar

from orchestrator.client.door import Door, RunReference
from orchestrator.core import codec
from orchestrator.core.on_exhausted import FAILED_BY_HAND
from orchestrator.core.reentry.fork import Forking
from orchestrator.core.reentry.retry import Retrying
from orchestrator.core.reentry.rewind import Rewinding
from orchestrator.core.reentry.settle import ByHand, Editing
from orchestrator.engine.operations.fork import FORK
from orchestrator.engine.operations.re_enter import Result, Verb
from orchestrator.engine.operations.retry import RETRY
from orchestrator.engine.operations.rewind import REWIND
from orchestrator.engine.operations.settle import COMPLETE, EDIT, FAIL, SKIP
from orchestrator.store.callers import CallersConnection

A = TypeVar("A")


class ReEntry:
    """The verbs, each for one run."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def retry(
        self,
        run: RunReference,
        *,
        input: Any = None,  # noqa: A002 - as a start's
        arguments: Mapping[str, Any] | None = None,
        version: int | None = None,
        expires_in: timedelta | None = None,
        by: str = "",
        reason: str = "",
        dry_run: bool = False,
        digest: str | None = None,
        operation: str | None = None,
        connection: CallersConnection | None = None,
    ) -> Result:
        """Let a run that has failed, or an incident, go on from where it stopped: the same run, the same journal.

        What is done stays done. What failed is asked for anew, with all the attempts that its retries allow; of an
        incident that is the attempt which was handed back. `input` replaces the run's (None: as it is), `arguments`
        those of the one stage that failed. `version`: it goes on as that version, whose code must be at hand. A run
        whose time is over needs `expires_in`. Raises InvalidInput, too.
        """
        asked = Retrying(
            None if input is None else codec.encode(input, what="input"),
            None if arguments is None else codec.encode(dict(arguments), what="arguments"),
            version,
            expires_in,
        )
        return self._do(
            RETRY,
            run,
            asked,
            by=by,
            reason=reason,
            dry_run=dry_run,
            digest=digest,
            operation=operation,
            connection=connection,
        )

    def skip(
        self,
        run: RunReference,
        key: str,
        *,
        result: Any = None,
        expires_in: timedelta | None = None,
        by: str = "",
        reason: str = "",
        dry_run: bool = False,
        digest: str | None = None,
        operation: str | None = None,
        connection: CallersConnection | None = None,
    ) -> Result:
        """Leave an activity out: `result` stands in for its own, and the flow goes on.

        It waits, rests until a retry, is parked, or has failed and with it the run, which goes on then. Nobody may be
        at work on it. `result` is held against what the flow takes, where its code is at hand. Give a `reason`.
        """
        asked = ByHand(key, codec.encode(result, what=f"result of {key}"), expires_in=expires_in)
        return self._do(
            SKIP,
            run,
            asked,
            by=by,
            reason=reason,
            dry_run=dry_run,
            digest=digest,
            operation=operation,
            connection=connection,
        )

    def complete(
        self,
        run: RunReference,
        key: str,
        *,
        result: Any = None,
        expires_in: timedelta | None = None,
        by: str = "",
        reason: str = "",
        dry_run: bool = False,
        digest: str | None = None,
        operation: str | None = None,
        connection: CallersConnection | None = None,
    ) -> Result:
        """Say that an activity was done elsewhere, with `result`. As `skip` in all else.

        A wait for a signal is answered by it, and a sleep ended (it has no result).
        """
        asked = ByHand(key, codec.encode(result, what=f"result of {key}"), expires_in=expires_in)
        return self._do(
            COMPLETE,
            run,
            asked,
            by=by,
            reason=reason,
            dry_run=dry_run,
            digest=digest,
            operation=operation,
            connection=connection,
        )

    def fail(
        self,
        run: RunReference,
        key: str,
        *,
        error: str,
        error_type: str = FAILED_BY_HAND,
        by: str = "",
        reason: str = "",
        dry_run: bool = False,
        digest: str | None = None,
        operation: str | None = None,
        connection: CallersConnection | None = None,
    ) -> Result:
        """Say that an activity will not be done: its flow meets ActivityFailed at the await, with that error."""
        asked = ByHand(key, error={"type": error_type, "message": codec.readable(error)})
        return self._do(
            FAIL,
            run,
            asked,
            by=by,
            reason=reason,
            dry_run=dry_run,
            digest=digest,
            operation=operation,
            connection=connection,
        )

    def edit(
        self,
        run: RunReference,
        key: str,
        *,
        arguments: Mapping[str, Any],
        by: str = "",
        reason: str = "",
        dry_run: bool = False,
        digest: str | None = None,
        operation: str | None = None,
        connection: CallersConnection | None = None,
    ) -> Result:
        """Give a stage that waits, rests until a retry or is parked other arguments; those that are not named stay.

        The flow asked for others, and replay accepts that an operator has replaced them. History keeps both.
        """
        asked = Editing(key, codec.encode(dict(arguments), what="arguments"))
        return self._do(
            EDIT,
            run,
            asked,
            by=by,
            reason=reason,
            dry_run=dry_run,
            digest=digest,
            operation=operation,
            connection=connection,
        )

    def rewind(
        self,
        run: RunReference,
        to: str,
        *,
        even_if_completed: bool = False,
        expires_in: timedelta | None = None,
        by: str = "",
        reason: str = "",
        dry_run: bool = False,
        digest: str | None = None,
        operation: str | None = None,
        connection: CallersConnection | None = None,
    ) -> Result:
        """Let a run go back to where the activity `to` was asked for, and on from there.

        It leaves the journal, and with it all that the flow has asked for since because of it; history keeps what each
        came to. The preview lists the work that is repeated and the decisions that count no more. Signals are taken
        again. A run that has completed goes back only with `even_if_completed`.
        """
        return self._do(
            REWIND,
            run,
            Rewinding(to, even_if_completed, expires_in),
            by=by,
            reason=reason,
            dry_run=dry_run,
            digest=digest,
            operation=operation,
            connection=connection,
        )

    def fork(
        self,
        run: RunReference,
        *,
        at: str | None = None,
        key: str | None = None,
        by: str = "",
        reason: str = "",
        dry_run: bool = False,
        digest: str | None = None,
        operation: str | None = None,
        connection: CallersConnection | None = None,
    ) -> Result:
        """Make a copy of the run for a try: a run of its own (`new_run_id`), which goes on by itself.

        It has what was settled before the activity `at` was asked for, or all (None), and the signals that no wait
        has taken. What is open in the run is asked for anew in the copy, whose stages are done in earnest. `key`: its
        business key; by default it has none. The run itself stays as it is.
        """
        return self._do(
            FORK,
            run,
            Forking(at, key),
            by=by,
            reason=reason,
            dry_run=dry_run,
            digest=digest,
            operation=operation,
            connection=connection,
        )

    def _do(
        self,
        verb: Verb[A],
        run: RunReference,
        asked: A,
        *,
        by: str,
        reason: str,
        dry_run: bool,
        digest: str | None,
        operation: str | None,
        connection: CallersConnection | None,
    ) -> Result:
        context = self._door.context
        if dry_run:
            with self._door.on(connection) as own:
                run_id = self._door.id_of(own, run)
                preview = verb.preview(context, own, run_id, asked)
                return Result(run_id, verb.name, is_applied=False, preview=preview)
        with self._door.in_transaction(connection) as own:
            return verb.apply(
                context,
                own,
                self._door.id_of(own, run),
                asked,
                by=by,
                reason=reason,
                operation=operation,
                digest=digest,
            )
