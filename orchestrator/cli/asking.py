"""The command that asks a run."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.output import Printer
from orchestrator.cli.session import Json, Run, examples, session_of

commands = typer.Typer()


@commands.command(
    rich_help_panel="Runs",
    epilog=examples(
        "perennial query permit-17 reviewer",
        json_shape='{"run", "name", "value"}',
    ),
)
def query(
    context: typer.Context,
    *,
    run: Run,
    name: Annotated[
        str, typer.Argument(help="Of an attribute that its flow has set.", show_default=False)
    ],
    _json: Json = False,
) -> None:
    """What a run has recorded under a name, as JSON. `show` lists all of it."""
    session = session_of(context)
    with session.client() as client:
        value = client.query(run, name)
    printer = Printer(session)
    printer.document({"run": run, "name": name, "value": value} if printer.as_json else value)
