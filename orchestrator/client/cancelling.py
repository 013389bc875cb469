"""`Client.cancel`: a run is ended, at once or when it has cleaned up."""

from __future__ import annotations

from orchestrator.client.door import Door, RunReference
from orchestrator.core.durations import Duration
from orchestrator.engine.operations.cancel import Cancelling, cancel
from orchestrator.store.callers import CallersConnection


class Cancels:
    """The part of `Client` that cancels."""

    _door: Door

    def cancel(
        self,
        run: RunReference,
        *,
        by: str = "",
        reason: str = "",
        compensate: bool = False,
        now: bool = False,
        clean_up_within: Duration | None = None,
        connection: CallersConnection | None = None,
    ) -> None:
        """End a run at once; or after its clean-up, for at most `clean_up_within`, if not as its process says.

        `compensate` undoes what it did; `now`: whatever cleans up. Raises RunNotFound, RunClosed, RunCancelling.
        """
        how = Cancelling(by, reason, compensate, now, clean_up_within)
        with self._door.on(connection) as own:
            cancel(own, self._door.id_of(own, run), how)
