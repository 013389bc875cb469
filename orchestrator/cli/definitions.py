"""`perennial deploy`: put processes into the record, or say what is wrong with them, and where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.amendments import OTHERS, SHAPE
from orchestrator.cli.amendments import amend as amend_processes
from orchestrator.cli.failures import CommandRefused, Refusals
from orchestrator.cli.output import Printer
from orchestrator.cli.session import App, By, Json, examples, os_user, session_of
from orchestrator.errors import DefinitionError

if TYPE_CHECKING:
    from orchestrator.core.definition import Process

commands = typer.Typer()


@commands.command(
    rich_help_panel="Processes",
    epilog=examples(
        "perennial deploy access-request.yaml",
        "perennial deploy --app workers.app",
        "perennial deploy --amend access-request.yaml --reason 'the review comes first'",
        json_shape='{"deployed": [{"name", "version", "fingerprint", "created", "replaced", "unchecked"}]}; '
        "not created if it was there, replaced if no run had used that. With --amend "
        f"{SHAPE}",
    ),
)
def deploy(
    context: typer.Context,
    *,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Processes in YAML.", show_default=False),
    ] = None,
    app: App = None,
    by: By = "",
    amend: Annotated[
        bool,
        typer.Option("--amend", help="Also versions that runs have used: shown first, then asked."),
    ] = False,
    others: Annotated[
        str,
        typer.Option(
            metavar="stay|park",
            help="With --amend: what becomes of runs that can't go on with the new content.",
        ),
    ] = "stay",
    reason: Annotated[
        str, typer.Option(help="With --amend: why, for the history.", show_default=False)
    ] = "",
    yes: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST", help="With --amend: do what has this digest.", show_default=False
        ),
    ] = None,
    _json: Json = False,
) -> None:
    """Deploy processes: YAML files, or all that an app registers (also without a FILE).

    The app is imported in either case: the names in a YAML file bind to its stages and approvals.
    All of them are deployed, or none. A version that runs have used keeps its content, unless it is amended: the new
    content is tried on each open run, what would become of them is shown, and nothing is done before you confirm it.
    """
    from orchestrator.cli.apps import load_app, registered_processes
    from orchestrator.cli.listings import deployed_table

    session = session_of(context)
    load_app(session)
    processes = read_processes(files or [])
    if app or not files:
        processes += registered_processes()
    if not processes:
        raise CommandRefused(
            f"the app {session.app!r} registers no process. Give a YAML file, or another --app."
        )
    printer = Printer(session)
    if others not in OTHERS:
        raise CommandRefused(f"--others is {' or '.join(OTHERS)}, not {others!r}")
    if (yes or reason) and not amend:
        raise CommandRefused("--yes and --reason are of an amendment: add --amend")
    with session.client() as client:
        if amend:
            amend_processes(
                client,
                printer,
                processes,
                others=others,
                confirmed=yes,
                by=by or os_user(),
                reason=reason,
            )
            return
        deployed = client.processes.deploy(*processes, by=by or os_user())
    printer.emit({"deployed": deployed}, lambda: deployed_table(deployed, width=printer.width))


def read_processes(files: Sequence[Path]) -> list[Process]:
    """Read every file, so that one call shows all that is wrong. Raises DefinitionError or Refusals."""
    from orchestrator.core.declarative import load_process
    from orchestrator.core.definition import default_registry

    processes, refusals = [], []
    for file in files:
        try:
            text = _text_of(file)
            processes.append(load_process(text, source=str(file), registry=default_registry))
        except DefinitionError as refusal:
            refusals.append(refusal)
    if refusals:
        raise refusals[0] if len(refusals) == 1 else Refusals(refusals)
    return processes


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise DefinitionError(f"can't be read: {error.strerror}", where=str(file)) from None
    except UnicodeDecodeError as error:
        raise DefinitionError(f"is not UTF-8 text: {error}", where=str(file)) from None
