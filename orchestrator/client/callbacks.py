"""The verbs of a partner: whoever holds a callback's token may answer it, and nobody else."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from orchestrator.client.door import Door
from orchestrator.engine import callbacks
from orchestrator.store.callers import CallersConnection


class Callbacks:
    """A `Client`'s verbs by token. Each answers the id of the run that goes on."""

    _door: Door

    def complete(
        self,
        token: str,
        result: Any = None,
        *,
        by: str = "",
        connection: CallersConnection | None = None,
    ) -> UUID:
        """Answer a callback with its result; before its flow awaits it too. A token counts once.

        Raises CallbackRefused; PayloadError, where the result is none that the flow takes.
        """
        with self._door.on(connection) as own:
            return callbacks.complete(own, token, result, by=by)

    def fail_callback(
        self,
        token: str,
        message: str,
        *,
        error_type: str = "CallbackFailed",
        by: str = "",
        connection: CallersConnection | None = None,
    ) -> UUID:
        """Answer a callback with a failure: its flow meets CallbackFailed. A token counts once.

        Raises CallbackRefused.
        """
        with self._door.on(connection) as own:
            return callbacks.fail(own, token, message, kind=error_type, by=by)

    def heartbeat(self, token: str, *, connection: CallersConnection | None = None) -> UUID:
        """Say that a callback's work goes on: its `heartbeat=` begins anew. Raises CallbackRefused."""
        with self._door.on(connection) as own:
            return callbacks.heartbeat(own, token)
