"""Children: what a turn starts is looked at before it is committed, and what nobody needs any more is ended.

with_children     the outcome with its children as they are to be started; their inputs are checked
see_to_children   the children of a run that has ended, or needs them no more, are ended one by one
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from uuid import UUID

from uuid_utils.compat import uuid7

from orchestrator.core import codec
from orchestrator.core.kinds.base import ChildStart, NewActivity
from orchestrator.core.kinds.child import ChildHandle
from orchestrator.core.outcome import TurnOutcome
from orchestrator.engine.context import EngineContext
from orchestrator.engine.inputs import Contract
from orchestrator.engine.operations.cancel import Cancelling, cancel
from orchestrator.errors import ChildRefused, PayloadError, RunCancelling, RunClosed
from orchestrator.store.parts import ADVANCE, CHILDREN_KEY
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions.children import (
    ChildTerms,
    NewChild,
    children_to_end,
    forget_children,
    read_child_terms,
)
from orchestrator.store.transitions.outbox import Handoff

ENDED_AT_ONCE = 100
"""So many children a worker ends before it lets others of its messages come; the handoff stays for the rest."""


def with_children(
    context: EngineContext, connection: AnyConnection, run_id: UUID, outcome: TurnOutcome
) -> tuple[TurnOutcome, tuple[NewChild, ...]]:
    """The outcome whose lines name the children that they start, and these.

    Raises ChildRefused: one of them can't be started.
    """
    asked = [opened.child for opened in outcome.opened if opened.child is not None]
    if not asked:
        return outcome, ()
    depth, terms = read_child_terms(connection, run_id, sorted({child.process for child in asked}))
    # guard: a child of itself without bound
    if depth >= context.settings.child_depth_max:
        raise ChildRefused(
            f"a child {asked[0].process} would stand {depth + 1} runs deep, and the bound is"
            f" {context.settings.child_depth_max}: does a process start itself without an end? If it does so on"
            " purpose, raise PERENNIAL_CHILD_DEPTH_MAX for the workers, and resume this run"
        )
    opened, children = [], []
    for line in outcome.opened:
        if line.child is None:
            opened.append(line)
        else:
            child = _to_start(line.request.key, line.child, terms.get(line.child.process))
            opened.append(_line_of(line, child))
            children.append(child)
    return replace(outcome, opened=tuple(opened)), tuple(children)


def _to_start(key: str, asked: ChildStart, terms: ChildTerms | None) -> NewChild:
    if terms is None:
        raise ChildRefused(
            f"child {key} can't be started: no process {asked.process!r} is deployed that new runs may take. Deploy"
            " it with `perennial deploy`, and resume this run"
        )
    try:
        text = Contract(asked.process, terms.takes).written(codec.parse(asked.input), None)
    except PayloadError as error:
        raise ChildRefused(
            f"child {key} can't be started, since the process that is deployed takes something else: {error}. Deploy"
            " the two so that they fit, and resume this run"
        ) from None
    return NewChild(
        id=uuid7(),
        key=key,
        process=asked.process,
        version=terms.takes.version,
        checked_by=terms.takes.digest,
        business_key=asked.business_key,
        input=text,
        expires_in_seconds=asked.expires_in_seconds,
        on_parent_end=asked.on_parent_end,
        is_awaited=asked.is_awaited,
        queue=terms.queue,
    )


def _line_of(line: NewActivity, child: NewChild) -> NewActivity:
    policy = {**(line.policy or {}), "child": str(child.id)}
    if child.is_awaited:
        return replace(line, policy=policy)
    handle = ChildHandle(child.id, child.process, child.business_key)
    return replace(
        line, policy=policy, result=codec.encode(handle, ChildHandle, what="a child's id")
    )


def see_to_children(context: EngineContext, run_id: UUID) -> None:
    """End the children of that run that it needs no more, each in a transaction of its own. Safe at any time.

    One whose process says so cleans up first.
    """
    with context.connection() as connection:
        found = children_to_end(connection, run_id, limit=ENDED_AT_ONCE)
        if found is None:
            return
        why = f"is {found.status}" if found.is_closed else "needs it no more"
        for child_id in found.ids:
            asked = Cancelling(f"run {run_id}", f"its parent, run {run_id}, {why}")
            with suppress(RunClosed, RunCancelling):  # somebody else has
                cancel(connection, child_id, asked)
        if len(found.ids) < ENDED_AT_ONCE:
            forget_children(connection, run_id, found.attempt)
            return
    rest = Handoff(run_id, CHILDREN_KEY, found.attempt, ADVANCE, found.queue)
    context.messenger.hand_off([rest])
