"""Retry: a run that has failed, or is an incident, goes on from where it stopped (core.reentry.retry)."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core import codec
from orchestrator.core.reentry.retry import Retrying, preview_retry
from orchestrator.core.reentry.standing import Standing
from orchestrator.engine.context import EngineContext
from orchestrator.engine.inputs import Contract
from orchestrator.engine.operations.re_enter import Verb
from orchestrator.errors import OperationRefused
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import processes


def _checked(
    context: EngineContext, connection: AnyConnection, standing: Standing, asked: Retrying
) -> Retrying:
    """Another input is what the deployed version takes. Raises InvalidInput."""
    if asked.input is None and asked.version is None:
        return asked
    name, version = standing.run.process, asked.version or standing.run.version
    takes = processes.read_input(connection, name, version)
    if takes is None:
        raise OperationRefused(
            f"{name} version {version} is not deployed, so run {standing.name} can't go on with it."
            " `perennial processes` lists what is"
        )
    if asked.input is None:
        return asked
    definition = context.registry.processes.get((name, version))
    written = Contract(name, takes).written(codec.parse(asked.input), definition)
    return replace(asked, input=written)


RETRY: Verb[Retrying] = Verb(
    "retry", preview_retry, check=_checked, version_of=lambda asked: asked.version
)
