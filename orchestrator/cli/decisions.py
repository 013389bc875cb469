"""Commands for the people a process asks: the inbox, and yes or no."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.output import Printer, text
from orchestrator.cli.session import By, Json, Run, examples, os_user, session_of

if TYPE_CHECKING:
    from orchestrator.core.approvals import Decision

commands = typer.Typer()

_PEOPLE = "People"
_DECISION_SHAPE = '{"approval", "outcome", "by", "reason", "at", "escalated"}'

INBOX_LIMIT = 100
INBOX_LIMIT_MAX = 1000

ApprovalName = Annotated[
    str | None,
    typer.Argument(
        metavar="[APPROVAL]",
        help="Its key, as `approvals` shows it. Needed where you were asked more than once.",
        show_default=False,
    ),
]
Edition = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="As it was seen, of an approval that was changed or asked anew; `approvals` shows it.",
        show_default=False,
    ),
]
Comment = Annotated[str, typer.Option(help="Why; the requester may get to read it.")]


@commands.command(
    rich_help_panel=_PEOPLE,
    epilog=examples(
        "perennial approvals --for alice",
        json_shape='{"approvals": [{"run_id", "key", "name", "process", "business_key", "state", '
        '"assignees", "escalated", "opened_at", "escalates_at", "deadline", "decided_by", '
        '"decided_at", "comment", "input", "follows", "edition", "changed", "votes", "progress", "why"}]}',
    ),
)
def approvals(
    context: typer.Context,
    *,
    person: Annotated[
        str | None,
        typer.Option("--for", metavar="PERSON", help="Only what this person or group may decide."),
    ] = None,
    process: Annotated[str | None, typer.Option(help="Only of this process.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=INBOX_LIMIT_MAX, help="At most so many.")
    ] = INBOX_LIMIT,
    _json: Json = False,
) -> None:
    """What waits for people, oldest first."""
    from orchestrator.cli.listings import inbox

    session = session_of(context)
    with session.client() as client:
        found = client.approvals(assignee=person, process=process, limit=limit)
    printer = Printer(session)
    printer.emit(
        {"approvals": found},
        lambda: inbox(found, printer.clock, person=person, width=printer.width),
    )


@commands.command(
    rich_help_panel=_PEOPLE,
    epilog=examples(
        "perennial approve permit-17 --by alice --comment 'budget is there'",
        "perennial approve permit-17 security --by bob",
        json_shape=_DECISION_SHAPE,
    ),
)
def approve(
    context: typer.Context,
    *,
    run: Run,
    approval: ApprovalName = None,
    by: By = "",
    comment: Comment = "",
    edition: Edition = None,
    _json: Json = False,
) -> None:
    """Say yes. Refused, with who and when, if it is too early, too late, decided or not yours."""
    session = session_of(context)
    with session.client() as client:
        decision = client.approve(
            run, approval, by=by or os_user(), comment=comment, edition=edition
        )
    _print_decision(context, run, decision)


@commands.command(
    rich_help_panel=_PEOPLE,
    epilog=examples(
        "perennial reject permit-17 --by alice --comment 'no budget left'",
        json_shape=_DECISION_SHAPE,
    ),
)
def reject(
    context: typer.Context,
    *,
    run: Run,
    approval: ApprovalName = None,
    by: By = "",
    comment: Comment = "",
    edition: Edition = None,
    _json: Json = False,
) -> None:
    """Say no. Refused as `approve` is."""
    session = session_of(context)
    with session.client() as client:
        decision = client.reject(
            run, approval, by=by or os_user(), comment=comment, edition=edition
        )
    _print_decision(context, run, decision)


def _print_decision(context: typer.Context, run: str, decision: Decision) -> None:
    if decision.outcome == "open":  # a vote among several
        Printer(session_of(context)).emit(
            decision,
            lambda: (
                text(f"{decision.approval} of {run}: ")
                + text("vote recorded", "green")
                + text(f" by {decision.by}. {decision.reason}")
            ),
        )
        return
    style = "green" if decision.approved else "yellow"
    Printer(session_of(context)).emit(
        decision,
        lambda: (
            text(f"{decision.approval} of {run}: ")
            + text(decision.outcome, style)
            + text(f" by {decision.by}")
        ),
    )
