"""What the world does in a test: it starts runs, decides, signals, answers callbacks, and operates.

Each verb is the client's, and then all that follows from it is done. With `connection=`, it is part of your own
transaction, and what follows is done after its commit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from orchestrator.client import Client, RunReference
from orchestrator.core.definition import Process
from orchestrator.core.durations import Duration
from orchestrator.core.seen import ApprovalReference
from orchestrator.core.views import RunView, Wait
from orchestrator.store.callers import CallersConnection


class WorldVerbs(ABC):
    """The part of a tester that acts from outside."""

    client: Client

    @abstractmethod
    def get(self, run: RunReference) -> RunView:
        """The run, once all that is due now is done."""

    def start(
        self,
        process: str | Process,
        input: Any = None,  # noqa: A002 - the natural word
        *,
        key: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> RunView:
        """Start a run, of a process that is deployed now if it wasn't (one from YAML, say).

        `attributes`: what it is found by from its start. Raises what `Client.start` does.
        """
        if isinstance(process, Process):
            self.client.processes.deploy(process)
        return self.get(self.client.start(process, input, key=key, attributes=attributes))

    def approve(
        self,
        run: RunReference,
        approval: ApprovalReference | None = None,
        *,
        by: str,
        comment: str = "",
        connection: CallersConnection | None = None,
    ) -> RunView:
        """Say yes to what the run asks now. Raises what `Client.decide` does."""
        run = self._looked_at(run, connection)
        self.client.approve(run, approval, by=by, comment=comment, connection=connection)
        return self._after(run, connection)

    def reject(
        self,
        run: RunReference,
        approval: ApprovalReference | None = None,
        *,
        by: str,
        comment: str = "",
        connection: CallersConnection | None = None,
    ) -> RunView:
        """Say no to what the run asks now. Raises what `Client.decide` does."""
        run = self._looked_at(run, connection)
        self.client.reject(run, approval, by=by, comment=comment, connection=connection)
        return self._after(run, connection)

    def signal(
        self,
        run: RunReference,
        name: str,
        payload: Any = None,
        *,
        signal_id: str | None = None,
        connection: CallersConnection | None = None,
    ) -> RunView:
        """Send a signal. Raises what `Client.signal` does."""
        self.client.signal(run, name, payload, signal_id=signal_id, connection=connection)
        return self._after(run, connection)

    def complete(
        self, token: str, result: Any = None, *, connection: CallersConnection | None = None
    ) -> RunView:
        """Answer a callback, as its partner. Raises what `Client.complete` does."""
        return self._after(self.client.complete(token, result, connection=connection), connection)

    def fail_callback(
        self,
        token: str,
        message: str,
        *,
        error_type: str = "CallbackFailed",
        connection: CallersConnection | None = None,
    ) -> RunView:
        """Answer a callback with a failure, as its partner. Raises what `Client.fail_callback` does."""
        run = self.client.fail_callback(
            token, message, error_type=error_type, connection=connection
        )
        return self._after(run, connection)

    def heartbeat(self, token: str, *, connection: CallersConnection | None = None) -> RunView:
        """Say that a callback's work goes on, as its partner. Raises what `Client.heartbeat` does."""
        return self._after(self.client.heartbeat(token, connection=connection), connection)

    def answer(
        self,
        run: RunReference,
        wait: Wait | str,
        value: Any = None,
        *,
        by: str,
        connection: CallersConnection | None = None,
    ) -> RunView:
        """Answer a wait of a kind of your own. Raises what `Client.answer` does."""
        run = self._looked_at(run, connection)
        self.client.answer(run, wait, value, by=by, connection=connection)
        return self._after(run, connection)

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
    ) -> RunView:
        """End the run, after its clean-up if it has one. Raises what `Client.cancel` does."""
        self.client.cancel(
            run,
            by=by,
            reason=reason,
            compensate=compensate,
            now=now,
            clean_up_within=clean_up_within,
            connection=connection,
        )
        return self._after(run, connection)

    def pause(
        self, run: RunReference, *, by: str = "", connection: CallersConnection | None = None
    ) -> RunView:
        """Let the run rest."""
        self.client.operations.pause(run, by=by, connection=connection)
        return self._after(run, connection)

    def resume(
        self, run: RunReference, *, by: str = "", connection: CallersConnection | None = None
    ) -> RunView:
        """Move a paused run, or a mended incident, on."""
        self.client.operations.resume(run, by=by, connection=connection)
        return self._after(run, connection)

    def _after(self, run: RunReference, connection: CallersConnection | None) -> RunView:
        """Within a caller's transaction nothing has happened yet, and what follows is done after its commit."""
        return self.get(run) if connection is None else self.client.get(run)

    def _looked_at(self, run: RunReference, connection: CallersConnection | None) -> RunReference:
        """A test looks at its run right before it decides; not at what its own transaction has just started."""
        return self.get(run) if connection is None else run
