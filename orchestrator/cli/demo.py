"""`perennial demo`: the demonstration of `orchestrator.demo`, as a command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.failures import ExitCode
from orchestrator.cli.session import Json, examples, session_of

commands = typer.Typer()

WORKERS_MAX = 64


class Fault(StrEnum):
    """What the demonstration can break on its way."""

    KILL_WORKER = "kill-worker"
    FLUSH_REDIS = "flush-redis"


@commands.command(
    rich_help_panel="Try it",
    epilog=examples(
        "perennial demo",
        "perennial demo --log bpic2020_travel_permits.xes.gz",
        "perennial demo --fault kill-worker --fault flush-redis",
        json_shape='{"agrees", ...}: the counts, how late timers were, what differs',
    ),
)
def demo(
    context: typer.Context,
    *,
    log: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="An XES log (.xes or .xes.gz).",
            show_default="a bundled sample",
        ),
    ] = None,
    hour_seconds: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="How many seconds an hour of the log takes.",
            show_default="0.25 for the sample, else 0.5",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=WORKERS_MAX, help="Celery worker processes.")
    ] = 2,
    fault: Annotated[
        list[Fault] | None, typer.Option(help="Break this on the way; repeatable, done in order.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it all up at the end, with Flower, until Ctrl-C.")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="It works in <data-dir>/demo.", show_default=".perennial", file_okay=False
        ),
    ] = None,
    _json: Json = False,
) -> None:
    """Replay real approval histories, with people and deadlines, and check every run's outcome.

    Exits 1 if a run ended otherwise than the recorded delays say it must. It starts servers of its
    own; --database-url and --broker-url, given together, name an empty database and its broker.
    """
    from orchestrator.demo import DemoOptions, run_demo

    session = session_of(context)
    options = DemoOptions(
        log=log,
        hour_seconds=hour_seconds,
        workers=workers,
        database_url=session.database_url,
        broker_url=session.broker_url,
        faults=tuple(each.value for each in fault or ()),
        keep=keep,
        json=session.as_json,
        data_dir=data_dir or session.data_dir,
    )
    raise typer.Exit(ExitCode.DONE if run_demo(options) == 0 else ExitCode.REFUSED)
