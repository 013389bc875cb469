"""`perennial export`: histories of runs as lines of JSON, for `perennial check --histories` in a team's CI."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.session import Json, examples, session_of

commands = typer.Typer()


@commands.command(
    rich_help_panel="Processes",
    epilog=examples(
        "perennial export --process access-request > histories.jsonl",
        "perennial export permit-17 --values > permit-17.jsonl",
        json_shape="the same: one JSON document a line",
    ),
)
def export(
    context: typer.Context,
    *,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Their ids or business keys; without any, all open runs.",
            show_default=False,
        ),
    ] = None,
    process: Annotated[
        str | None, typer.Option(help="Only open runs of this process.", show_default=False)
    ] = None,
    values: Annotated[
        bool, typer.Option("--values", help="With inputs, results, payloads and business keys.")
    ] = False,
    _json: Json = False,
) -> None:
    """Print histories, one a line: keys, kinds, states and types; no values, unless asked for.

    `perennial check --histories FILE` replays them against new code, where there is no database.
    """
    session = session_of(context)
    with session.client() as client:
        for line in client.operations.export(runs or (), process=process, values=values):
            print(line, flush=True)
