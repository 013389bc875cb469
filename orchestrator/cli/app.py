"""The root: global options, and the one place where errors become exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from orchestrator.cli import (
    asking,
    callbacks,
    check,
    database,
    deadlines,
    decisions,
    definitions,
    export,
    incidents,
    lint,
    migrate,
    operations,
    reentry,
    reload,
    runs,
    servers,
    services,
    stopping,
    tree,
    versions,
)
from orchestrator.cli.failures import explain
from orchestrator.cli.output import Printer, text
from orchestrator.cli.session import (
    DEFAULT_APP,
    DEFAULT_DATA_DIR,
    Json,
    examples,
    session_of,
)


class ExplainingGroup(TyperGroup):
    """Runs a command; an error we know ends in one line and its exit code, not in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Errors that are nobody's refusal pass through: they are bugs."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            failure = explain(error, run=session_of(ctx).run)
            if failure is None:
                raise
            Printer(session_of(ctx)).failure(failure)
            raise typer.Exit(failure.exit_code) from None


app = typer.Typer(
    cls=ExplainingGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # its boxes show local variables, and so payloads and URLs
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog=examples(
        "perennial up",
        "perennial start access-request --key permit-17 --input @request.json",
        "perennial show permit-17",
        "perennial approve permit-17 --by alice",
    )
    + "\n\n[bold]Exit codes[/bold]  0 done, 1 refused or failed, 2 usage, 3 no such run or "
    "process, 130 interrupted."
    "\n\nWith --json, stdout holds one JSON document or nothing, and a refusal is"
    ' {"error": {"type", "message"}} on stderr.',
)


def _tell_version(context: typer.Context, value: bool) -> None:
    if value:
        _tell_versions(context)
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    *,
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="PERENNIAL_DATABASE_URL",
            metavar="URL",
            help="Postgres; else a running `up` is used.",
        ),
    ] = None,
    broker_url: Annotated[
        str | None,
        typer.Option(envvar="PERENNIAL_BROKER_URL", metavar="URL", help="Redis or Valkey."),
    ] = None,
    app: Annotated[
        str | None,
        typer.Option(
            "--app",
            "-A",
            envvar="PERENNIAL_APP",
            metavar="MODULE:APP",
            help="The Celery app that has the stages.",
            show_default=DEFAULT_APP,
        ),
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(envvar="PERENNIAL_DATA_DIR", help="Where `perennial up` keeps its data.")
    ] = DEFAULT_DATA_DIR,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", help="The versions, and exit.", callback=_tell_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Perennial runs long business processes on the Celery fleet you already have."""
    session = session_of(context)
    session.database_url, session.broker_url = database_url, broker_url
    session.data_dir = data_dir
    if app:
        session.app, session.names_app = app, True


app.add_typer(servers.commands)
app.add_typer(reload.commands)
app.add_typer(definitions.commands)
app.add_typer(check.commands)
app.add_typer(lint.commands)
app.add_typer(export.commands)
app.add_typer(versions.commands, name="processes", rich_help_panel="Processes")
app.add_typer(migrate.commands, name="migrate", rich_help_panel="Processes")
app.add_typer(runs.commands)
app.add_typer(tree.commands)
app.add_typer(asking.commands)
app.add_typer(stopping.commands)
app.add_typer(reentry.commands)
app.add_typer(decisions.commands)
app.add_typer(deadlines.commands)
app.add_typer(callbacks.commands)
app.add_typer(incidents.commands, name="incidents", rich_help_panel="Operate")
app.add_typer(operations.commands, name="operations", rich_help_panel="Operate")
app.add_typer(database.commands, name="db", rich_help_panel="Operate")


about = typer.Typer()


@about.command(
    rich_help_panel="Operate",
    epilog=examples(
        "perennial version",
        json_shape='{"perennial", "python", "platform", "celery", "sqlalchemy"}',
    ),
)
def version(context: typer.Context, _json: Json = False) -> None:
    """The versions to put into a bug report."""
    _tell_versions(context)


def _tell_versions(context: typer.Context) -> None:
    import platform
    from importlib import metadata

    def installed(distribution: str) -> str:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return "not installed"

    facts = {
        "perennial": installed("celery-perennial"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "celery": installed("celery"),
        "sqlalchemy": installed("sqlalchemy"),
    }
    Printer(session_of(context)).emit(
        facts, lambda: text("\n".join(f"{name} {value}" for name, value in facts.items()))
    )


app.add_typer(services.commands)
app.add_typer(about)
