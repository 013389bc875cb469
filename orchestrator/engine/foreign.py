"""Handoffs of another app on the same database: this program could only send them where its own are awaited.

A relay learns from the record what they are, as it meets them, gives them back at once, and takes none of the kind
again: whoever knows them is told. After `LEFT_TO_OTHERS_SECONDS` they are sent all the same, by any relay, so that
what nobody knows comes to light where it is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.definition import Registry
from orchestrator.engine.definitions import Definitions
from orchestrator.errors import PerennialError
from orchestrator.store.parts import ADVANCE
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions.outbox import Handoff

KINDS_MAX = 1_000
"""So many are remembered; then they are learnt again."""


class Foreign:
    """What this program has met of other apps' work. An app that has no work of its own, as a service, sends all."""

    def __init__(self, registry: Registry, definitions: Definitions) -> None:
        self._registry, self._definitions = registry, definitions
        self._kinds: dict[str, None] = {}

    @property
    def kinds(self) -> list[str]:
        """`Handoff.kind` of each kind that was met."""
        return list(self._kinds)

    def among(self, connection: AnyConnection, handoffs: Sequence[Handoff]) -> list[Handoff]:
        """Those of kinds that are met here for the first time, and are remembered from now on."""
        if not self._registry.stages and not self._registry.processes:
            return []
        known = set(self._kinds)
        found = [
            handoff
            for handoff in handoffs
            if handoff.kind not in known and not self._is_ours(connection, handoff)
        ]
        if len(self._kinds) > KINDS_MAX:
            self._kinds.clear()
        self._kinds |= dict.fromkeys(handoff.kind for handoff in found)
        return found

    def _is_ours(self, connection: AnyConnection, handoff: Handoff) -> bool:
        if handoff.task != ADVANCE:
            return handoff.task in self._registry.stages
        if handoff.kind in self._kinds:
            return False
        try:
            self._definitions.find(connection, handoff.process, handoff.version)
        except PerennialError:  # no such process here, or no such stage
            return False
        return True
