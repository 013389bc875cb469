"""`Client`: the verbs of producers and of people; operators have theirs in `client.operations`.

    client = Client("postgresql://…")
    run = client.start("access-request", {"user": "ann", ...}, key="REQ-1")
    client.approve(run, by="bob")
    client.get(run).waits

Every verb is one transaction of its own, or, with `connection=`, part of the caller's. Flow code never
runs here: a verb records a fact, and Postgres tells the fleet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from typing import Any, Self
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import URL, Engine

from orchestrator.client.callbacks import Callbacks
from orchestrator.client.cancelling import Cancels
from orchestrator.client.door import Door, RunReference
from orchestrator.client.operations import Operations
from orchestrator.client.processes import Processes
from orchestrator.client.queries import Queries
from orchestrator.core import codec
from orchestrator.core.approvals import Decision, Outcome
from orchestrator.core.attributes import Searched, conditions
from orchestrator.core.definition import Process, Registry, default_registry
from orchestrator.core.durations import Duration, days, seconds_of
from orchestrator.core.no_result import why_failed, why_not_closed
from orchestrator.core.run import RunStatus
from orchestrator.core.seen import ApprovalReference, asking_meant
from orchestrator.core.selection import RunFilter
from orchestrator.core.views import (
    ApprovalView,
    HistoryEntry,
    RunSummary,
    RunView,
    Started,
    Wait,
)
from orchestrator.engine import decisions, deliver
from orchestrator.engine.context import EngineContext, connect, connect_for_reads, settings_of
from orchestrator.engine.signal_forms import SignalForms
from orchestrator.engine.start import IfClosed, Starts, ask
from orchestrator.errors import RunFailed, RunNotClosed, RunNotFound, UnknownProcess
from orchestrator.settings import Settings
from orchestrator.store.callers import CallersConnection, usable
from orchestrator.store.reads import views
from orchestrator.store.reads.approvals import list_approvals

SIGNAL_KEPT = days(7)
"""How long a signal by correlation key is kept for its run."""

_FIRST_LOOK_SECONDS = 0.02
_SLOWEST_LOOK_SECONDS = 1.0


class Client(Callbacks, Cancels, Queries):
    """A thread-safe door to the record. Close it, or use it as a context manager."""

    def __init__(
        self,
        database: str | SecretStr | URL | Engine | Settings | None = None,
        *,
        registry: Registry = default_registry,
        schema: str | None = None,
    ) -> None:
        """`database`: a Postgres URL as text or SQLAlchemy's, an SQLAlchemy engine on psycopg (which stays
        yours), Settings, or None for the environment's `PERENNIAL_DATABASE_URL`. `schema`: the one of Postgres
        that the record is in, if it isn't `PERENNIAL_SCHEMA`'s. Connects on first use.

        Raises SettingsError where no Postgres is named, or one that can't be read, or a schema that no record
        may be in; TypeError for anything else than these.
        """
        settings = settings_of(database, schema)
        self._owns_engine = not isinstance(database, Engine)
        if isinstance(database, Engine):
            engine, for_reads = database, None
        else:
            engine, for_reads = connect(settings), connect_for_reads(settings)
        self._registry, self._schema = registry, settings.database_schema
        self._stand_on(
            EngineContext(engine, registry, settings, reads=for_reads, looks_before_use=True)
        )

    def _stand_on(self, context: EngineContext) -> None:
        self._context = context
        self._starts, self._forms = self._starts_on(context), SignalForms()
        self._door = Door(context, self._schema)
        self.processes = Processes(context, self._starts)
        """What may be started: `client.processes.deploy`."""
        self.operations = Operations(self._door, self._starts)
        """An operator's verbs: `client.operations.resume`."""

    def _starts_on(self, context: EngineContext) -> Starts:
        """Each in a statement of its own; or several threads' in one, where speed is there."""
        if find_spec("orchestrator.engine.eager") is None:
            return Starts(context)
        from orchestrator.engine.eager.starts import GroupedStarts

        return GroupedStarts(context)

    def _pause(self, seconds: float) -> None:
        """The caller has asked to wait: this thread is theirs, and no worker's."""
        time.sleep(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        if self._owns_engine:
            self._context.dispose()

    # -- producers ---------------------------------------------------------------------------

    def start(
        self,
        process: str | Process,
        input: Any = None,  # noqa: A002 - the natural word
        *,
        key: str | None = None,
        version: int | None = None,
        attributes: Mapping[str, Any] | None = None,
        expires_in: Duration | None = None,
        by: str = "",
        if_closed: IfClosed = "existing",
        connection: CallersConnection | None = None,
    ) -> Started:
        """Start a run of the version that new runs take (`client.processes.list`), or of `version`.

        `key`: a business key, unique among the process's runs: a second start returns the first run, and how it
        stands. `if_closed`: what to do when that run has ended. `"existing"` returns it all the same; `"again"`
        starts a new run if it failed, expired or was cancelled; `"always"` even if it completed. The run that
        ended gives its key up then. `connection`: your own SQLAlchemy, psycopg or Django connection; the run
        starts when you commit. Raises UnknownProcess, InvalidInput, PayloadError, UnusableConnection.
        """
        asked = ask(
            process,
            [input],
            keys=[key],
            version=version,
            attributes=attributes,
            expires_in=expires_in,
            if_closed=if_closed,
            by=by,
        )
        if connection is None:
            return self._starts.start(asked)
        with usable(connection, self._schema) as callers:
            (started,) = self._starts.start_all(asked, callers)
        return started

    def start_many(
        self,
        process: str | Process,
        inputs: Sequence[Any],
        *,
        keys: Sequence[str | None] | None = None,
        version: int | None = None,
        by: str = "",
        if_closed: IfClosed = "existing",
        connection: CallersConnection | None = None,
    ) -> list[Started]:
        """Start a run for each input (at most 10,000) in one statement; answers in their order."""
        asked = ask(
            process,
            inputs,
            keys=keys if keys is not None else [None] * len(inputs),
            version=version,
            attributes=None,
            expires_in=None,
            if_closed=if_closed,
            by=by,
        )
        if connection is None:
            return self._starts.start_all(asked)
        with usable(connection, self._schema) as callers:
            return self._starts.start_all(asked, callers)

    def signal(
        self,
        run: RunReference | None = None,
        name: str = "",
        payload: Any = None,
        *,
        correlation: str | None = None,
        signal_id: str | None = None,
        expires_in: Duration = SIGNAL_KEPT,
        by: str = "",
        connection: CallersConnection | None = None,
    ) -> bool:
        """Send a signal; it waits for its wait. False: this `signal_id` came before.

        `correlation`, in place of `run`: to whichever run awaits that name by that key, also one that has not begun
        (`flow.signal(correlation=…)`). Where none does, it is kept for `expires_in`, 7 days.

        Raises RunNotFound, RunClosed, PayloadError, TooManySignals.
        """
        if (run is None) is (correlation is None) or not name:
            raise TypeError("client.signal is given a name, and one of a run and a correlation=")
        with self._door.on(connection) as own:
            if correlation is not None:
                return deliver.signal_by_correlation(
                    own,
                    name,
                    payload,
                    correlation=correlation,
                    signal_id=signal_id,
                    keep_seconds=seconds_of(expires_in, what="expires_in"),
                    by=by,
                    forms=self._forms,
                )
            assert run is not None  # noqa: S101 - looked at above
            return deliver.signal(
                own,
                self._door.id_of(own, run),
                name,
                payload,
                signal_id=signal_id,
                by=by,
                forms=self._forms,
            )

    def answer(
        self,
        run: RunReference,
        wait: Wait | str,
        value: Any = None,
        *,
        by: str,
        connection: CallersConnection | None = None,
    ) -> bool:
        """Answer a wait of a kind that takes answers from outside (`Flow.ask`). False: it is over, or takes none.

        `wait`: as the run's view showed it, or its key. Raises RunNotFound, RunClosed, PayloadError.
        """
        key = wait.key if isinstance(wait, Wait) else wait
        with self._door.on(connection) as own:
            return deliver.answer(own, self._door.id_of(own, run), key, value, by=by)

    # -- people ------------------------------------------------------------------------------

    def decide(
        self,
        run: RunReference,
        approval: ApprovalReference | None,
        outcome: Outcome | str,
        *,
        by: str,
        comment: str = "",
        edition: int | None = None,
        connection: CallersConnection | None = None,
    ) -> Decision:
        """Take a decision on one asking, and on no later one.

        `approval`: the ApprovalView (or Wait) that the person saw, or its key. A name, or None for the one
        that is open, is taken where only one asking can be meant: where `run` is a RunView, one that was
        open when it was read; else one that this person was asked only once (None: and nothing before it).
        After a restart a business key is taken from whoever its former run had not asked; others give the id.

        A view says as what the approval was seen. Who gives a key, or less, says so by `edition`, where the approval
        has been changed or asked anew while its run was open: a key alone is taken for what was first asked.

        Raises DecisionTooEarly, DecisionTooLate, AlreadyDecided, NotAssigned, RunNotFound; and ApprovalChanged where
        what was seen was changed since, by a migration of its run or by re-entry, or nobody says what was seen.
        """
        with self._door.on(connection) as own:
            run_id, follows = self._door.id_and_former_of(own, run)
            meant = asking_meant(run, approval, run_id, by=by, edition=edition)
            # guard: a business key after a restart
            if follows is not None and not isinstance(approval, ApprovalView):
                decisions.refuse_if_asked_before(own, str(run), run_id, follows, by=by)
            given: dict[str, Any] = {
                "run_id": run_id,
                "approval": meant.asking,
                "outcome": Outcome(outcome),
                "by": by,
                "comment": comment,
                "edition": meant.edition,
            }
            decision = decisions.decide(own, was_open=meant.was_open, **given)
        if decision is not None:
            return decision
        with self._door.in_transaction(connection) as own:
            return decisions.vote(own, **given)

    def approve(
        self,
        run: RunReference,
        approval: ApprovalReference | None = None,
        *,
        by: str,
        comment: str = "",
        edition: int | None = None,
        connection: CallersConnection | None = None,
    ) -> Decision:
        """Say yes."""
        return self.decide(
            run,
            approval,
            Outcome.APPROVED,
            by=by,
            comment=comment,
            edition=edition,
            connection=connection,
        )

    def reject(
        self,
        run: RunReference,
        approval: ApprovalReference | None = None,
        *,
        by: str,
        comment: str = "",
        edition: int | None = None,
        connection: CallersConnection | None = None,
    ) -> Decision:
        """Say no; `comment` is the reason its flow reads."""
        return self.decide(
            run,
            approval,
            Outcome.REJECTED,
            by=by,
            comment=comment,
            edition=edition,
            connection=connection,
        )

    def approvals(
        self,
        *,
        assignee: str | None = None,
        process: str | None = None,
        state: str | None = "open",
        run: RunReference | None = None,
        opened_after: datetime | None = None,
        limit: int = 100,
    ) -> list[ApprovalView]:
        """Approvals, oldest first; with `assignee`, that person's inbox. `state` None: all."""
        with self._context.reading() as connection:
            return list_approvals(
                connection,
                assignee=assignee,
                process=process,
                state=state,
                run_id=self._door.id_of(connection, run) if run is not None else None,
                opened_after=opened_after,
                limit=limit,
            )

    # -- runs --------------------------------------------------------------------------------

    def get(self, run: RunReference) -> RunView:
        """The run, and what it waits for: who can act, since when, what happens next and when."""
        with self._context.connection() as connection:
            found = views.get_run(connection, self._door.id_of(connection, run))
        if found is None:
            raise RunNotFound(f"there is no run {run}")
        return found

    def list(
        self,
        *,
        process: str | None = None,
        status: RunStatus | Sequence[RunStatus] | None = None,
        key: str | None = None,
        where: Mapping[str, Searched] | None = None,
        matching: RunFilter | None = None,
        limit: int = 50,
        after: UUID | None = None,
    ) -> list[RunSummary]:
        """Runs, newest first; `after`: the last id of the page before. `matching`: whatever else is asked for.

        `where`: by their attributes, `{"customer": "C-17", "amount": (">=", 100)}`; all of it must be so. Compared by
        `=`, `in` and `contains` they are found by an index, by the others among those that the rest finds.

        Of errors that an older release has recorded without a cause, a filter by cause or class finds none.
        """
        asked = matching or RunFilter()
        if process is not None:
            asked = replace(asked, process=process)
        if status is not None:
            statuses = [status] if isinstance(status, RunStatus) else status
            asked = replace(asked, statuses=tuple(statuses))
        if key is not None:
            asked = replace(asked, key=key)
        if where:
            asked = replace(asked, where=(*asked.where, *conditions(where)))
        with self._context.reading() as connection:
            return views.list_runs(connection, asked, limit=limit, after=after)

    def history(self, run: RunReference) -> Sequence[HistoryEntry]:
        """Every fact of the run, in order."""
        with self._context.connection() as connection:
            return views.run_history(connection, self._door.id_of(connection, run))

    def result(self, run: RunReference, *, timeout_seconds: Duration = 0.0) -> Any:
        """The result of a run that completed, as its process's type where this program has it.

        `timeout_seconds`: how long to look for its end, at growing intervals of up to a second.
        Raises RunNotClosed, RunFailed, RunNotFound.
        """
        give_up_at = time.monotonic() + seconds_of(timeout_seconds, what="timeout_seconds")
        pause_seconds = _FIRST_LOOK_SECONDS
        found = self.get(run)
        while not found.status.is_closed:
            left = give_up_at - time.monotonic()
            if left <= 0:
                raise RunNotClosed(why_not_closed(found))
            self._pause(min(pause_seconds, left))
            pause_seconds = min(pause_seconds * 1.5, _SLOWEST_LOOK_SECONDS)
            found = self.get(found.id)
        if found.status is not RunStatus.COMPLETED:
            raise RunFailed(found.id, status=found.status, message=why_failed(found))
        return codec.decode(
            found.output, self._result_type(found), what=f"result of run {found.id}"
        )

    def _result_type(self, run: RunView) -> Any:
        try:
            return self._registry.process(run.process, run.version).result_type
        except UnknownProcess:
            return Any
