"""Fork: a copy of a run, from a point, for a try (core.reentry.fork)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from orchestrator.core.checks import check_words, composed
from orchestrator.core.reentry.change import Preview
from orchestrator.core.reentry.fork import Forking, preview_fork
from orchestrator.core.reentry.standing import Standing
from orchestrator.engine.context import EngineContext
from orchestrator.engine.operations.re_enter import Verb
from orchestrator.errors import OperationRefused, PerennialError
from orchestrator.store.reads import finding
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions.fork import fork_if_unchanged


def _checked(
    _context: EngineContext, connection: AnyConnection, standing: Standing, asked: Forking
) -> Forking:
    if asked.key is None:
        return asked
    key = composed(asked.key)
    check_words(key, what="a business key", where="fork")
    taken = [
        each for each in finding.find_runs(connection, key) if each.process == standing.run.process
    ]
    if taken:
        raise OperationRefused(
            f"run {taken[0].id} of {standing.run.process} has the key {key!r}: give the copy another, or none"
        )
    return replace(asked, key=key)


def _write(
    connection: AnyConnection,
    standing: Standing,
    preview: Preview,
    actor: str,
    detail: dict[str, Any],
) -> UUID:
    assert preview.copy is not None  # noqa: S101 - of this verb
    forked = fork_if_unchanged(connection, standing, preview.copy, actor=actor, detail=detail)
    if forked is None:
        raise PerennialError(
            f"run {standing.name} could not be copied: its key was taken while it was. Try again"
        )
    return forked


FORK: Verb[Forking] = Verb("fork", preview_fork, check=_checked, moves_on=False, write=_write)
