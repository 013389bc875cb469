"""Commands for whoever holds a callback's token."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.output import Printer, text
from orchestrator.cli.session import By, Json, examples, os_user, read_json, session_of

commands = typer.Typer()

_PARTNERS = "Partners"
_SHAPE = '{"run", "callback": "completed" | "failed" | "alive"}'

Token = Annotated[
    str,
    typer.Argument(help="What the partner was given; `-` reads it from standard input."),
]


def _read(token: str) -> str:
    from_stdin = token == "-"  # noqa: S105 - no token, but where one is read
    return typer.get_text_stream("stdin").readline().strip() if from_stdin else token


@commands.command(
    "complete-callback",
    rich_help_panel=_PARTNERS,
    epilog=examples("""perennial complete-callback TOKEN '{"paid": true}'""", json_shape=_SHAPE),
)
def complete_callback(
    context: typer.Context,
    *,
    token: Token,
    result: Annotated[
        str | None,
        typer.Argument(metavar="[JSON|@FILE]", help="What the flow gets.", show_default=False),
    ] = None,
    by: By = "",
    _json: Json = False,
) -> None:
    """Answer a callback with its result. A token counts once."""
    session = session_of(context)
    value = read_json(result, what="RESULT") if result is not None else None
    with session.client() as client:
        run = client.complete(_read(token), value, by=by or os_user())
    Printer(session).emit(
        {"run": str(run), "callback": "completed"}, lambda: text(f"Completed: run {run} goes on")
    )


@commands.command(
    "fail-callback",
    rich_help_panel=_PARTNERS,
    epilog=examples("perennial fail-callback TOKEN 'the card was refused'", json_shape=_SHAPE),
)
def fail_callback(
    context: typer.Context,
    *,
    token: Token,
    message: Annotated[str, typer.Argument(help="What went wrong, for the flow and for people.")],
    error_type: Annotated[
        str, typer.Option("--type", help="A name by which the flow tells failures apart.")
    ] = "CallbackFailed",
    by: By = "",
    _json: Json = False,
) -> None:
    """Answer a callback with a failure. A token counts once."""
    session = session_of(context)
    with session.client() as client:
        run = client.fail_callback(_read(token), message, error_type=error_type, by=by or os_user())
    Printer(session).emit(
        {"run": str(run), "callback": "failed"}, lambda: text(f"Failed: run {run} goes on")
    )


@commands.command(
    rich_help_panel=_PARTNERS,
    epilog=examples("perennial heartbeat TOKEN", json_shape=_SHAPE),
)
def heartbeat(context: typer.Context, *, token: Token, _json: Json = False) -> None:
    """Say that a callback's work goes on: the time that it may be silent begins anew."""
    session = session_of(context)
    with session.client() as client:
        run = client.heartbeat(_read(token))
    Printer(session).emit(
        {"run": str(run), "callback": "alive"}, lambda: text(f"Heard: run {run} waits on")
    )
