"""People's decisions reach a run: the first that counts closes an approval, or it is a vote among several."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from orchestrator.core import codec
from orchestrator.core.approvals import (
    ApprovalState,
    Asking,
    Decision,
    Outcome,
    asked_since,
    check_decision,
    only_asking,
    refuse_if_changed,
    refuse_if_unseen,
    refuse_later,
)
from orchestrator.core.checks import check_words, composed
from orchestrator.core.run import RunStatus
from orchestrator.engine.votes import cast_vote
from orchestrator.errors import DecisionRefused, DecisionTooLate, RunNotFound
from orchestrator.store.reads import askings
from orchestrator.store.statement import AnyConnection
from orchestrator.store.transitions import approvals, votes

CHANGES_MAX = 3
"""How often a decision is tried again that was refused and then is not: this person was asked in between."""


def decide(
    connection: AnyConnection,
    run_id: UUID,
    approval: str | None,
    outcome: Outcome,
    *,
    by: str,
    comment: str,
    was_open: bool = True,
    edition: int | None = None,
) -> Decision | None:
    """Take a person's decision, once. None: nothing was written, since it is a vote among several (`vote`).

    Approval None: the one that is open, if no other can be meant. `was_open` False: nothing of the kind was open when
    the person looked, so that nothing is decided. `edition`: of the approval as it was shown; None where nobody says,
    which is taken for the first.

    Raises RunNotFound and the kinds of DecisionRefused; a refused decision wrote nothing.
    """
    name, by = _meant(connection, run_id, approval, outcome, by=by)
    looks = CHANGES_MAX if was_open else 0  # guard: what was asked after the look
    for _ in range(looks):
        taken = approvals.decide_if_allowed(
            connection,
            run_id,
            name,
            outcome=outcome,
            by=by,
            comment=codec.readable(comment),
            edition=edition,
        )
        if taken is not None:
            decision: Decision = codec.decode(taken, Decision, what="decision")
            return decision
        if _looked_at(connection, run_id, name, by, edition).asking.rule is not None:
            return None
    if not was_open:
        _looked_at(connection, run_id, name, by, edition)
    raise changed_since(run_id, name)


def vote(
    connection: AnyConnection,
    run_id: UUID,
    approval: str | None,
    outcome: Outcome,
    *,
    by: str,
    comment: str,
    edition: int | None = None,
) -> Decision:
    """A decision on an approval that several decide; its outcome is OPEN while others are needed.

    In a transaction. Raises what `decide` does, and AlreadyVoted.
    """
    name, by = _meant(connection, run_id, approval, outcome, by=by)
    votes.hold_run(connection, run_id)  # guard: votes are counted under the run's lock
    look = _looked_at(connection, run_id, name, by, edition)
    return cast_vote(connection, run_id, look.key, look.asking, outcome, by=by, comment=comment)


def refuse_if_asked_before(
    connection: AnyConnection, key: str, run_id: UUID, follows: UUID, *, by: str
) -> None:
    """Whether a business key may mean the run that had it before; returns if not. Raises DecisionRefused."""
    if askings.was_asked_before(connection, follows, by=composed(by)):
        raise DecisionRefused(
            f"{key!r} was started anew as run {run_id}, and its run before that asked {by} too. "
            "Look at the new run, then decide by its id"
        )


def _meant(
    connection: AnyConnection, run_id: UUID, approval: str | None, outcome: Outcome, *, by: str
) -> tuple[str, str]:
    """The approval's key or name, and the person, as they are recorded. Raises DecisionRefused, DefinitionError."""
    if outcome not in (Outcome.APPROVED, Outcome.REJECTED):
        raise DecisionRefused(f"people approve or reject; {outcome!r} is not theirs to say")
    if not by:
        raise DecisionRefused("a decision needs the person who takes it (`by`)")
    check_words(by, what="a person", where="decision")
    if approval is not None:
        check_words(approval, what="an approval's name", where="decision")
    by = composed(by)
    return composed(approval) if approval is not None else _chosen(connection, run_id, by), by


@dataclass(frozen=True, slots=True)
class _Look:
    """What a decision is on, of which nothing speaks against it."""

    key: str
    asking: ApprovalState


def _looked_at(
    connection: AnyConnection, run_id: UUID, name: str, by: str, edition: int | None
) -> _Look:
    """Read what is meant. Raises why it can't be decided so."""
    read = askings.read_approvals(connection, run_id, name, by=by)
    if read is None:
        raise RunNotFound(f"there is no run {run_id}")
    meant = (
        [asking for asking in read.approvals if asking[0] == name]
        or [asking for asking in read.approvals if name in asking[1].former_keys]
        or read.approvals
    )
    key, state = meant[0] if meant else (name, None)
    if RunStatus(read.status).is_closed and (state is None or state.state in ("open", "cancelled")):
        which = f"approval {name!r}" if name else "it"
        raise DecisionTooLate(f"run {run_id} is {read.status}; {which} needs no decision any more")
    refuse_if_changed(state, edition, key=key)
    check_decision(
        state,
        name=name,
        by=by,
        now=read.now,
        waits_for=read.waiting_for or "",
        since=next((asked_since(other) for other, _ in _open_to(by, read) if other != name), ""),
    )
    refuse_if_unseen(state, edition, key=key)
    if len(meant) > 1:
        refuse_later(meant, meant[0], by=by)
    mine = [each for each, _ in _open_to(by, read)]
    if len(mine) > 1 and name not in mine:
        raise DecisionRefused(
            f"{by} is asked {name!r} more than once: say which of {', '.join(mine)}"
        )
    if state is None:
        raise changed_since(run_id, name)
    return _Look(key, state)


def _open_to(by: str, read: askings.ReadApprovals) -> list[Asking]:
    return [
        asking
        for asking in read.approvals
        if asking[1].state == "open" and by in asking[1].assignees
    ]


def _chosen(connection: AnyConnection, run_id: UUID, by: str) -> str:
    return only_asking(askings.latest_approvals_of(connection, run_id, by=by), by=by)


def changed_since(run_id: UUID, name: str) -> DecisionRefused:
    """The refusal where nothing speaks against it any more, and it was not taken all the same."""
    return DecisionRefused(
        f"approval {name!r} of run {run_id} changed since it was looked at; look again and decide"
    )
