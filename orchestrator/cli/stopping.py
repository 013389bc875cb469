"""Commands that stop runs, and let them go on: cancel, pause, resume."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.bulk import BULK_SHAPE, Digest, Rate, Reason, check_which, over_many
from orchestrator.cli.output import Printer, text
from orchestrator.cli.query import queried
from orchestrator.cli.session import By, Json, RunOrQuery, examples, os_user, session_of
from orchestrator.core.selection import RunFilter

commands = typer.Typer()

_OPERATE = "Operate"


@commands.command(
    rich_help_panel=_OPERATE,
    epilog=examples(
        "perennial cancel permit-17 --reason 'entered twice'",
        "perennial cancel --process access-request --key-prefix test- --reason 'a test'",
        json_shape=f'{{"run", "action": "cancel"}}; {BULK_SHAPE}',
    ),
)
@queried
def cancel(
    context: typer.Context,
    *,
    query: RunFilter,
    run: RunOrQuery = None,
    reason: Annotated[str, typer.Option(help="Why; stays in the history.")] = "",
    compensate: Annotated[
        bool, typer.Option("--compensate", help="Undo what it has done, as its flow says.")
    ] = False,
    now: Annotated[
        bool, typer.Option("--now", help="At once, also where it cleans up, or would.")
    ] = False,
    digest: Digest = None,
    rate: Rate = None,
    by: By = "",
    _json: Json = False,
) -> None:
    """End a run for good; or, with a query, many. They are shown first."""
    check_which(run, query, digest)
    if compensate and now:
        raise typer.BadParameter(
            "--now ends a run at once, and --compensate undoes what it did first: give one"
        )
    if run is None and (compensate or now):
        raise typer.BadParameter("--compensate and --now are for one run: name it")
    if run is None:
        over_many(context, "cancel", query, digest=digest, rate=rate, reason=reason, by=by)
        return
    session = session_of(context)
    with session.client() as client:
        client.cancel(run, by=by or os_user(), reason=reason, compensate=compensate, now=now)
        is_ended = client.get(run).status.is_closed
    _acknowledge(
        context, run, "cancel", "Cancelled" if is_ended else "It cleans up, and is cancelled then:"
    )


@commands.command(
    rich_help_panel=_OPERATE,
    epilog=examples(
        "perennial pause permit-17",
        "perennial pause --process access-request --waiting-for 'stage provision'",
        json_shape=f'{{"run", "action": "pause"}}; {BULK_SHAPE}',
    ),
)
@queried
def pause(
    context: typer.Context,
    *,
    query: RunFilter,
    run: RunOrQuery = None,
    digest: Digest = None,
    rate: Rate = None,
    reason: Reason = "",
    by: By = "",
    _json: Json = False,
) -> None:
    """Hold a run, or with a query many: facts are still recorded, nothing moves until `resume`."""
    check_which(run, query, digest)
    if run is None:
        over_many(context, "pause", query, digest=digest, rate=rate, reason=reason, by=by)
        return
    session = session_of(context)
    with session.client() as client:
        client.operations.pause(run, by=by or os_user())
    _acknowledge(context, run, "pause", "Paused")


@commands.command(
    rich_help_panel=_OPERATE,
    epilog=examples(
        "perennial resume permit-17",
        "perennial resume --cause 3f2a91c04b7d --rate 50/s",
        json_shape=f'{{"run", "action": "resume"}}; {BULK_SHAPE}',
    ),
)
@queried
def resume(
    context: typer.Context,
    *,
    query: RunFilter,
    run: RunOrQuery = None,
    digest: Digest = None,
    rate: Rate = None,
    reason: Reason = "",
    by: By = "",
    _json: Json = False,
) -> None:
    """Let a paused run, or one parked as an incident, go on; with a query, many. Nothing is done twice."""
    check_which(run, query, digest)
    if run is None:
        over_many(context, "resume", query, digest=digest, rate=rate, reason=reason, by=by)
        return
    session = session_of(context)
    with session.client() as client:
        client.operations.resume(run, by=by or os_user())
    _acknowledge(context, run, "resume", "Resumed")


def _acknowledge(context: typer.Context, run: str, action: str, told: str) -> None:
    Printer(session_of(context)).emit({"run": run, "action": action}, lambda: text(f"{told} {run}"))
