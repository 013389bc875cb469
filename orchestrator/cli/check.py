"""`perennial check`: what the code at hand would make of the runs that are open, before it is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.definitions import read_processes
from orchestrator.cli.failures import CommandRefused
from orchestrator.cli.output import Printer
from orchestrator.cli.session import App, Json, examples, session_of

if TYPE_CHECKING:
    from orchestrator.core.definition import Process
    from orchestrator.engine.check import Checked

commands = typer.Typer()


@commands.command(
    rich_help_panel="Processes",
    epilog=examples(
        "perennial check",
        "perennial check access-request.yaml --process access-request",
        "perennial check --histories histories.jsonl",
        json_shape='{"runs", "is_safe", "groups": [{"process", "version", "found", "reason", "remedy", "runs", '
        '"samples"}], "patches": [{"process", "version", "name", "runs", "without"}], '
        '"edits": [{"process", "version", "edit", "unseen"}]}',
    ),
)
def check(
    context: typer.Context,
    *,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Processes in YAML, to check in place of those that are deployed.",
            show_default=False,
        ),
    ] = None,
    process: Annotated[
        str | None, typer.Option(help="Only runs of this process.", show_default=False)
    ] = None,
    histories: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Check what `perennial export` has written, without a database.",
            show_default=False,
        ),
    ] = None,
    _app: App = None,
    _json: Json = False,
) -> None:
    """Replay all open runs against this code, and say which go on, which differ, and which would be stranded.

    Run it before a deploy, with the new code. It only reads: nothing is written, and no stage or step is called.
    Ends with 1 if a run could not go on.
    """
    from orchestrator.cli.apps import load_app
    from orchestrator.cli.listings import checked_page

    session = session_of(context)
    load_app(session)
    candidates = read_processes(files or [])
    printer = Printer(session)
    if histories is not None:
        checked = _check_file(histories, candidates)
        printer.emit(_document(checked), lambda: checked_page(checked))
        if not checked.is_safe:
            raise typer.Exit(1)
        return
    with session.client() as client, printer.err.status("checking") as status:
        checked = client.processes.check(
            *candidates,
            process=process,
            progress=lambda count: status.update(f"{count} run(s) checked"),
        )
    printer.emit(_document(checked), lambda: checked_page(checked))
    if not checked.is_safe:
        raise typer.Exit(1)


def _check_file(file: Path, candidates: list[Process]) -> Checked:
    from orchestrator.core.definition import default_registry
    from orchestrator.engine.histories import check_histories

    try:
        with file.open(encoding="utf-8") as lines:
            return check_histories(
                lines, registry=default_registry, candidates=candidates, source=str(file)
            )
    except OSError as error:
        raise CommandRefused(f"can't read {file}: {error.strerror}") from None


def _document(checked: Checked) -> dict[str, object]:
    return {
        "runs": checked.runs,
        "is_safe": checked.is_safe,
        "groups": [
            {
                "process": group.process,
                "version": group.version,
                "found": str(group.found),
                "reason": group.reason,
                "remedy": group.remedy,
                "runs": group.runs,
                "samples": group.samples,
            }
            for group in checked.groups
        ],
        "patches": checked.patches,
        "edits": checked.edits,
    }
