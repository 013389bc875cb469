"""What verbs that let a run go another way have in common: preview it, and apply exactly that.

    verb.preview(context, connection, run_id, arguments)            what it would do; nothing is written
    verb.apply(context, connection, run_id, arguments, by=…)        under the run's lock, in the caller's transaction

Both raise OperationRefused where the verb has no sense, and RunNotFound. To apply is to decide once more on what the
lock holds still, so nothing can come between; a worker's turn, claim or settlement waits, and finds the run changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from uuid import UUID

from orchestrator.core import codec
from orchestrator.core.checks import check_words, composed
from orchestrator.core.reentry.change import Preview
from orchestrator.core.reentry.standing import Code, Standing
from orchestrator.engine.context import EngineContext
from orchestrator.errors import (
    DefinitionError,
    OperationRefused,
    PerennialError,
    RunNotFound,
    StalePreview,
    UnknownProcess,
    UnknownStage,
)
from orchestrator.store.reads.standing import read_standing
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import processes
from orchestrator.store.transitions.fork import fork_of_operation
from orchestrator.store.transitions.reenter import lock_standing, re_enter_if_unchanged

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a verb on one run. `is_applied` False: that operation was applied to it before."""

    run_id: UUID
    verb: str
    is_applied: bool
    preview: Preview | None = None
    new_run_id: UUID | None = None
    """Of a copy."""


def _any_arguments(
    _context: EngineContext, _connection: AnyConnection, _standing: Standing, arguments: A
) -> A:
    return arguments


def _re_enter(
    connection: AnyConnection,
    standing: Standing,
    preview: Preview,
    actor: str,
    detail: dict[str, Any],
) -> UUID | None:
    assert preview.change is not None  # noqa: S101 - of all verbs but a copy's
    written = re_enter_if_unchanged(
        connection, standing, preview.change, actor=actor, detail=detail
    )
    if written is None:
        raise PerennialError(
            f"run {standing.name} changed while {preview.verb} was applied; nothing was written. Try again"
        )
    return None


@dataclass(frozen=True, slots=True)
class Verb(Generic[A]):
    """One verb. `decide` is pure; `check` looks at arguments that the record knows more of, and may write them anew."""

    name: str
    decide: Callable[[Standing, A, Code | None], Preview]
    check: Callable[[EngineContext, AnyConnection, Standing, A], A] = _any_arguments
    version_of: Callable[[A], int | None] = lambda _arguments: None
    """Which version's code decides; None: the run's."""
    moves_on: bool = True
    """Whether the run goes on with the current content of its version, if that can."""
    write: Callable[[AnyConnection, Standing, Preview, str, dict[str, Any]], UUID | None] = (
        _re_enter
    )
    """Writes what was decided, by whom and why; the id of the run that it makes, if it makes one."""

    def preview(
        self, context: EngineContext, connection: AnyConnection, run_id: UUID, arguments: A
    ) -> Preview:
        """What it would do to the run as it stands. Writes nothing. Raises RunNotFound, OperationRefused."""
        standing = read_standing(connection, run_id)
        if standing is None:
            raise _no_run(run_id)
        return self._decide(context, connection, standing, arguments)

    def apply(
        self,
        context: EngineContext,
        connection: AnyConnection,
        run_id: UUID,
        arguments: A,
        *,
        by: str,
        reason: str = "",
        operation: str | None = None,
        digest: str | None = None,
    ) -> Result:
        """Do it, in the transaction of `connection`.

        `operation`: an id under which it is done to this run once, however often it is called. `digest`: of the
        preview that was seen. Raises RunNotFound, OperationRefused, and StalePreview where another thing would happen.
        """
        standing = lock_standing(connection, run_id, operation=operation)
        if standing is None:
            raise _no_run(run_id)
        if standing.is_done:  # guard: an operation is applied to a run once
            copy = fork_of_operation(connection, run_id, operation or "")
            return Result(run_id, self.name, is_applied=False, new_run_id=copy)
        preview = self._decide(context, connection, standing, arguments)
        # guard: what was previewed is what is done
        if digest is not None and digest != preview.digest:
            raise StalePreview(
                f"run {standing.name} has changed since {self.name} was previewed: its preview is"
                f" {preview.digest} now, not {digest}. Look at it again",
                digest=preview.digest,
            )
        detail = {
            **({"reason": codec.readable(reason)} if reason else {}),
            **({"operation": operation} if operation is not None else {}),
        }
        new_run_id = self.write(connection, standing, preview, actor(by), detail)
        return Result(run_id, self.name, is_applied=True, preview=preview, new_run_id=new_run_id)

    def _decide(
        self,
        context: EngineContext,
        connection: AnyConnection,
        standing: Standing,
        arguments: A,
    ) -> Preview:
        checked = self.check(context, connection, standing, arguments)
        version = self.version_of(checked)
        refused: OperationRefused | None = None
        for revision in self._revisions(connection, standing, version):
            code = code_of(context, connection, standing, version, revision)
            is_own = version is None and revision == standing.run.code_revision
            if code is None and version is None and not is_own:
                continue
            try:
                preview = self.decide(standing, checked, code)
            except OperationRefused as error:
                refused = error
                continue
            return preview if is_own else _on_revision(preview, revision, version)
        assert refused is not None  # noqa: S101 - the run's own revision is among them
        raise refused

    def _revisions(
        self, connection: AnyConnection, standing: Standing, version: int | None
    ) -> list[int]:
        """Those by whose content it may be: of another version the current one; else the current one, or its own."""
        if version is not None:
            known = processes.read_revisions(connection, standing.run.process, version)
            return [each.code_revision for each in known if each.is_current] or [1]
        own = standing.run.code_revision
        if self.moves_on and standing.current_revision != own:
            return [standing.current_revision, own]
        return [own]


def _on_revision(preview: Preview, revision: int, version: int | None) -> Preview:
    change = preview.change
    if change is None:
        return preview
    note = () if version is not None else (f"it goes on with revision {revision} of its version",)
    return replace(
        preview,
        notes=(*preview.notes, *note),
        change=replace(change, code_revision=revision),
    )


def code_of(
    context: EngineContext,
    connection: AnyConnection,
    standing: Standing,
    version: int | None,
    revision: int,
) -> Code | None:
    """That revision of a version (None: the run's) of its process, if this program has it."""
    run = standing.run
    try:
        process = context.definitions.find(
            connection, run.process, version or run.version, revision
        )
    except (UnknownProcess, UnknownStage, DefinitionError):
        return None
    return Code(process, context.registry)


def actor(by: str) -> str:
    """Who acts, as history names them."""
    if by:
        check_words(by, what="an operator", where="by")
    return composed(by) or "operator"


def _no_run(run_id: UUID) -> RunNotFound:
    return RunNotFound(f"there is no run {run_id}")
