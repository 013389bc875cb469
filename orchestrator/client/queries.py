"""Asking a run: answered from what it has recorded, and never by running its flow."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from orchestrator.client.door import Door, RunReference
from orchestrator.core import codec
from orchestrator.core.attributes import checked_name
from orchestrator.errors import RunNotFound, UnknownAttribute
from orchestrator.store.callers import CallersConnection
from orchestrator.store.reads.answers import attribute_of


class Queries:
    """A `Client`'s verb for who asks a run."""

    _door: Door

    def query(
        self,
        run: RunReference,
        name: str,
        *,
        type: Any = Any,  # noqa: A002 - the natural word
        connection: CallersConnection | None = None,
    ) -> Any:
        """What the run has recorded under that name: an attribute that its flow has set, or its start has given.

        `type`: what the answer is read as, `Decimal`, `datetime` or an enum, say; else plain JSON. A run that is
        waiting, paused or long over answers as well, and no worker is needed. Raises UnknownAttribute where there is
        none of that name (yet); RunNotFound, PayloadError.
        """
        name = checked_name(name)
        with self._door.on(connection) as own:
            found = attribute_of(own, self._door.id_of(own, run), name)
        if found is None:
            raise RunNotFound(f"there is no run {run}")
        if found.text is None:
            known = f"it has {', '.join(found.names)}" if found.names else "it has none"
            raise UnknownAttribute(
                f"run {run} has no attribute {name!r}: {known}. A flow sets one by `flow.attributes({name}=…)`"
            )
        plain: Any = codec.parse(found.text)
        if type is Decimal and isinstance(plain, int | float):
            return Decimal(found.text)
        return codec.decode(plain, type, what=f"attribute {name!r} of run {run}")
