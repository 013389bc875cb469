"""What this worker can't run goes to one that can; where none lives, it waits in sight until one comes.

Lack.of(loaded, raised)   what is lacking for the run's turn
send_on, leave            to a living worker; or noted, for the next one that comes
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Self

from orchestrator.core import codec
from orchestrator.core.requests import StageIsMissing
from orchestrator.engine.context import EngineContext
from orchestrator.errors import CodeDiffers
from orchestrator.store.reads.loading import LoadedRun
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import capabilities
from orchestrator.store.transitions.outbox import Handoff

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lack:
    """What this worker lacks for a run's turn: what another must be able to run, and why this one can't."""

    needs: tuple[str, ...]
    why: str
    revision: str = ""
    """Said of the version, where that alone would not say what is lacking."""

    @classmethod
    def of(cls, loaded: LoadedRun, raised: BaseException) -> Self:
        """By what was raised for it."""
        run = loaded.context
        needs = [capabilities.turn_of(run.process, run.version, run.code_revision)]
        if isinstance(raised, StageIsMissing):
            needs.append(capabilities.stage_of(raised.stage))
        revision = f" revision {run.code_revision}" if isinstance(raised, CodeDiffers) else ""
        return cls(tuple(needs), str(raised), revision)


def leave(context: EngineContext, connection: AnyConnection, loaded: LoadedRun, lack: Lack) -> None:
    """Rule 8: what this worker can't run goes to one that can. Where none lives it parks, in sight, until one comes."""
    run = loaded.context
    asks = Handoff.advance(run.id, loaded.queue)
    if send_on(context, connection, asks, lack):  # guard: a miss is sent on
        return
    log.warning(
        "run %s is left for another worker: %s",
        run.id,
        lack.why,
        extra={"action": "leave", "run_id": str(run.id)},
    )
    capabilities.note_needs_of_turn(
        connection,
        run.id,
        loaded.revision,
        lack.needs,
        waiting_for=f"a worker that can run {run.process} version {run.version}{lack.revision}",
        why=codec.readable(lack.why),
        actor=context.identity.name,
    )
    # guard: who comes while it is noted is seen
    send_on(context, connection, asks, lack)


def send_on(context: EngineContext, connection: AnyConnection, asks: Handoff, lack: Lack) -> bool:
    """Hand it to a living worker that can run it. False: there is none."""
    elsewhere = context.elsewhere
    return elsewhere is not None and elsewhere.send_on(connection, asks, lack.needs)
