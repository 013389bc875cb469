"""`make demo`, as a command: `python -m demo --help`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from demo.main import DemoOptions, run_demo
from orchestrator.cli.failures import explain
from orchestrator.cli.secrets import hide_arguments, without_secrets
from orchestrator.cli.session import DEFAULT_DATA_DIR, examples

WORKERS_MAX = 64


class Fault(StrEnum):
    """What the demonstration can break on its way."""

    KILL_WORKER = "kill-worker"
    FLUSH_REDIS = "flush-redis"


app = typer.Typer(
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # its boxes show local variables, and so payloads and URLs
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.command(
    epilog=examples(
        "python -m demo",
        "python -m demo --log bpic2020_travel_permits.xes.gz",
        "python -m demo --fault kill-worker --fault flush-redis",
        json_shape='{"agrees", ...}: the counts, how late timers were, what differs',
    ),
)
def demo(
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
        Path, typer.Option(help="It works in <data-dir>/demo.", file_okay=False)
    ] = DEFAULT_DATA_DIR,
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="PERENNIAL_DATABASE_URL",
            metavar="URL",
            help="An empty Postgres database; else it starts its own.",
        ),
    ] = None,
    broker_url: Annotated[
        str | None,
        typer.Option(
            envvar="PERENNIAL_BROKER_URL",
            metavar="URL",
            help="The Redis or Valkey that goes with it.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Replay real approval histories, with people and deadlines, and check every run's outcome.

    Exits 1 if a run ended otherwise than the recorded delays say it must.
    """
    options = DemoOptions(
        log=log,
        hour_seconds=hour_seconds,
        workers=workers,
        database_url=database_url,
        broker_url=broker_url,
        faults=tuple(each.value for each in fault or ()),
        keep=keep,
        json=json,
        data_dir=data_dir,
    )
    try:
        status = run_demo(options)
    except Exception as error:
        failure = explain(error)
        if failure is None:
            raise
        typer.echo(failure.message, err=True)
        raise typer.Exit(failure.exit_code) from None
    raise typer.Exit(status)


def main() -> None:
    """Exit with 0 if every run ended as it must, 1 if not, 2 for a usage that is none."""
    hide_arguments()
    with without_secrets():
        app(prog_name="python -m demo")


if __name__ == "__main__":
    main()
