"""`perennial reload`: what a running `perennial up` serves is the code as it is now.

The code is imported and deployed here, in a process that has never seen the old one; so a mistake in it, or a version
that runs hold, is said before any worker ends. Then `up` is asked, by signal, to start its workers anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.definitions import read_processes
from orchestrator.cli.failures import CommandRefused
from orchestrator.cli.leftovers import began
from orchestrator.cli.output import Printer
from orchestrator.cli.session import (
    By,
    Json,
    RunningUp,
    examples,
    os_user,
    running_up,
    session_of,
)
from orchestrator.cli.supervisor import RELOAD

commands = typer.Typer()


@commands.command(
    rich_help_panel="Try it",
    epilog=examples(
        "perennial reload",
        json_shape='{"deployed": [{"name", "version", "fingerprint", "created", "replaced", "unchecked"}], "pid"}; '
        "pid: the `up` that was asked to start its workers anew",
    ),
)
def reload(
    context: typer.Context,
    *,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="YAML processes to deploy.",
            show_default="those that `up` was given",
        ),
    ] = None,
    by: By = "",
    _json: Json = False,
) -> None:
    """Have a running `perennial up` take the code as it is now: deploy it, then start the workers anew.

    A version that no run has used yet is replaced. One that runs hold is refused, with those runs, and the workers
    go on as they are. A stage that a worker is at work on is finished first; nothing is lost or done twice.
    """
    from orchestrator.cli.apps import consumed_queues, load_app, registered_processes
    from orchestrator.cli.listings import deployed_table

    session = session_of(context)
    running = running_up(session.data_dir)
    if running is None or began(running.pid) != running.began:
        raise CommandRefused(
            f"no `perennial up` runs on {session.data_dir}. Start one, or name its folder: --data-dir."
        )
    if not session.names_app:
        session.app = running.app
    session.database_url, session.broker_url = running.database_url, running.broker_url
    _refuse_another_app(running, session.app)
    app = load_app(session)
    processes = [*read_processes(files or running.files), *registered_processes()]
    _refuse_new_queues(running, consumed_queues(app, processes))
    with session.client() as client:
        deployed = client.processes.deploy(*processes, by=by or os_user())
    os.kill(running.pid, RELOAD)
    printer = Printer(session)
    printer.emit(
        {"deployed": deployed, "pid": running.pid},
        lambda: deployed_table(deployed, width=printer.width),
    )
    printer.note("The workers start anew, each when it has done what it is at.", "dim")


def _refuse_another_app(running: RunningUp, app: str) -> None:
    if app != running.app:
        raise CommandRefused(
            f"the `up` on {running.data_dir} runs the app {running.app!r}. Stop it, and start it with --app {app}."
        )


def _refuse_new_queues(running: RunningUp, queues: Iterable[str] | None) -> None:
    new = sorted(set(queues or ()) - set(running.queues or queues or ()))
    if new:
        raise CommandRefused(
            f"the code has a queue that the workers of this `up` don't consume: {', '.join(new)}. "
            "Stop `perennial up` (Ctrl-C) and start it again."
        )
