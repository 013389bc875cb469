"""Which asking a decision means, by what its caller looked at: a view of the approval, or of its run."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from orchestrator.core.journal import ActivityKind
from orchestrator.core.views import ApprovalView, RunView, Wait
from orchestrator.errors import DecisionRefused

ApprovalReference = str | ApprovalView | Wait
"""An approval: its key, its name, or the view of it that the person saw."""


class Meant(NamedTuple):
    """What a decision is on. `asking`: its key or name, None for whichever is open.

    `edition`: as it was seen, None where nobody says.
    """

    asking: str | None
    was_open: bool = True
    edition: int | None = None


def asking_meant(
    run: object,
    approval: ApprovalReference | None,
    run_id: UUID,
    *,
    by: str,
    edition: int | None = None,
) -> Meant:
    """The asking that the decision is on, and how it was when it was seen. `edition`: as whoever names a key says.

    Raises DecisionRefused: the view is of another run, or several approvals of the run that was seen could be meant.
    """
    if isinstance(approval, ApprovalView):
        if approval.run_id != run_id:
            raise DecisionRefused(
                f"approval {approval.key!r} was seen in run {approval.run_id}, not in {run_id}"
            )
        return Meant(approval.key, edition=approval.edition)
    if isinstance(approval, Wait):
        return Meant(approval.key, edition=approval.edition)
    if not isinstance(run, RunView):
        return Meant(approval, edition=edition)
    seen = _seen_in(run, approval, by=by)
    return (
        Meant(approval, was_open=False) if seen is None else Meant(seen.key, edition=seen.edition)
    )


def _seen_in(run: RunView, approval: str | None, *, by: str) -> Wait | None:
    """The asking that `approval` meant when the run was looked at. None: it wasn't open then.

    Raises DecisionRefused where several could be meant.
    """
    found = [
        wait
        for wait in run.waits
        if wait.kind is ActivityKind.APPROVAL and approval in (None, wait.key, wait.name)
    ]
    exact = [wait for wait in found if wait.key == approval]
    found = exact or found
    if len(found) > 1 and approval is not None:
        found = [wait for wait in found if by in wait.who] or found
    if len(found) > 1:
        keys = ", ".join(wait.key for wait in found)
        raise DecisionRefused(f"several approvals are open: say which of {keys}")
    return found[0] if found else None
