"""`perennial services`: timers and recovery in a process of their own."""

from __future__ import annotations

from threading import Event
from typing import Any

import typer

from orchestrator.cli.apps import load_app
from orchestrator.cli.failures import CommandRefused
from orchestrator.cli.output import Printer, text
from orchestrator.cli.session import App, Json, examples, session_of
from orchestrator.cli.supervisor import stop_signals

commands = typer.Typer()

STOP_SECONDS_MAX = 5.0


@commands.command(
    rich_help_panel="Operate",
    epilog=examples(
        "perennial --app workers.app services",
        json_shape='{"services": [name]}, once they run',
    ),
)
def services(context: typer.Context, _app: App = None, _json: Json = False) -> None:
    """Move timers and recover what was left undone, without taking any task.

    Every worker does so already; run this where workers come and go, or are too busy to be punctual.
    It ends with Ctrl-C or SIGTERM.
    """
    from orchestrator.fleet.services import services_of

    session = session_of(context)
    running = services_of(_member(load_app(session), session.app))
    asked_to_stop = Event()
    with stop_signals(asked_to_stop.set):
        for service in running:
            service.start()
        names = [service.name for service in running]
        Printer(session).emit({"services": names}, lambda: text(f"{' and '.join(names)} at work"))
        asked_to_stop.wait()
    for service in running:
        service.stop()
    for service in running:
        service.join(STOP_SECONDS_MAX)


def _member(app: Any, name: str) -> Any:
    member = getattr(app, "perennial", None)
    if member is None:
        raise CommandRefused(
            f"the app {name!r} is no member of a fleet. Call `orchestrator.install(app)` in its module."
        )
    return member
