"""`perennial migrate`: runs move to another version by a plan: proposed, previewed, applied, and undone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.failures import CommandRefused
from orchestrator.cli.output import Printer, text
from orchestrator.cli.session import App, By, Json, examples, os_user, session_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from orchestrator.core.versions.plans import Plan
    from orchestrator.engine.operations.migrate import (
        AppliedMigration,
        MigrationGroup,
        MigrationPreview,
    )
    from orchestrator.engine.operations.undo_migration import UndoneMigration

commands = typer.Typer(no_args_is_help=True)

_GROUPS = '[{"reason", "says", "remedy", "runs", "samples"}]'

PlanFile = Annotated[
    Path, typer.Argument(metavar="PLAN", help="A plan in YAML or JSON.", show_default=False)
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the history of each run.")]


@commands.command(
    epilog=examples(
        "perennial migrate propose access-request --from 1 --to 2 > plan.yaml",
        json_shape='{"plan", "notes"}; the plan as its file has it',
    ),
)
def propose(
    context: typer.Context,
    *,
    process: Annotated[str, typer.Argument(help="Its name.", show_default=False)],
    from_version: Annotated[int, typer.Option("--from", min=1, help="The version of the runs.")],
    to: Annotated[int, typer.Option("--to", min=1, help="The version they are to come to.")],
    files: Annotated[
        list[Path] | None,
        typer.Option("--file", help="A process in YAML that isn't deployed yet; repeatable."),
    ] = None,
    _app: App = None,
    _json: Json = False,
) -> None:
    """Draw a plan from two versions, and from how the open runs stand: print it as YAML, to be read and edited."""
    from orchestrator.cli.apps import load_app
    from orchestrator.cli.definitions import read_processes

    session = session_of(context)
    load_app(session)
    candidates = read_processes(files or [])
    printer = Printer(session)
    with session.client() as client:
        drawn = client.processes.propose_migration(
            process, *candidates, from_version=from_version, to=to
        )
    plan = drawn.plan.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    printer.emit({"plan": plan, "notes": drawn.notes}, lambda: text(drawn.text.rstrip()))


@commands.command(
    epilog=examples(
        "perennial migrate preview plan.yaml",
        json_shape='{"plan_id", "process", "from_version", "to_version", "runs", "migrated", "goes_on", '
        f'"groups": {_GROUPS}, "digest"}}; no reason: these runs go on',
    ),
)
def preview(
    context: typer.Context, *, plan: PlanFile, _app: App = None, _json: Json = False
) -> None:
    """Say what a plan would do with each open run of its version, grouped by reason. Writes nothing."""
    session = session_of(context)
    read = _read(context, plan)
    printer = Printer(session)
    with session.client() as client, printer.err.status("looking") as status:
        found = client.processes.preview_migration(
            read, progress=lambda count: status.update(f"{count} run(s) looked at")
        )
    printer.emit(_preview_document(found), lambda: _preview_page(found, plan))


@commands.command(
    epilog=examples(
        "perennial migrate apply plan.yaml --reason 'the owner decides now'",
        "perennial migrate apply plan.yaml --yes 3f2a91c04b7d --by ann",
        json_shape=f'{{"plan_id", "migrated", "already", "parked", "refused": {_GROUPS}}}',
    ),
)
def apply(
    context: typer.Context,
    *,
    plan: PlanFile,
    yes: Annotated[
        str,
        typer.Option(
            "--yes", metavar="DIGEST", help="Of the preview that you have seen: don't ask."
        ),
    ] = "",
    by: By = "",
    reason: Reason = "",
    _app: App = None,
    _json: Json = False,
) -> None:
    """Move the runs of a plan: each in a transaction of its own. Stop it at any time, and apply it again to go on."""
    session = session_of(context)
    read = _read(context, plan)
    printer = Printer(session)
    with session.client() as client:
        seen: Any = yes
        if not yes:
            seen = client.processes.preview_migration(read)
            printer.err.print(_preview_page(seen, plan))
            _confirm(f"Move {seen.goes_on} run(s) to version {seen.to_version}?", "DIGEST")
        with printer.err.status("moving") as status:
            moved = client.processes.migrate(
                read,
                seen,
                by=by or os_user(),
                reason=reason,
                progress=lambda count: status.update(f"{count} run(s) looked at"),
            )
    printer.emit(_document(moved), lambda: _applied_page(moved))


@commands.command(
    epilog=examples(
        "perennial migrate undo 3f2a91c04b7d --reason 'too early'",
        json_shape='{"plan_id", "undone", "stay": [[run, why]]}',
    ),
)
def undo(
    context: typer.Context,
    *,
    plan_id: Annotated[
        str, typer.Argument(metavar="PLAN-ID", help="As `preview` shows it.", show_default=False)
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    by: By = "",
    reason: Reason = "",
    _json: Json = False,
) -> None:
    """Move back the runs that a plan has moved, and that have made no step since. Others are listed, with why."""
    session = session_of(context)
    printer = Printer(session)
    if not yes:
        _confirm(f"Move back all runs of plan {plan_id} that have made no step since?", "")
    with session.client() as client, printer.err.status("moving back") as status:
        undone = client.processes.undo_migration(
            plan_id,
            by=by or os_user(),
            reason=reason,
            progress=lambda count: status.update(f"{count} run(s) looked at"),
        )
    printer.emit(_document(undone), lambda: _undone_page(undone))


def _read(context: typer.Context, file: Path) -> Plan:
    from orchestrator.cli.apps import load_app
    from orchestrator.core.versions.plans import read_plan

    load_app(session_of(context))
    try:
        return read_plan(file.read_text(encoding="utf-8"), source=str(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CommandRefused(f"can't read {file}: {reason}") from None


def _confirm(question: str, what: str) -> None:
    if not typer.get_text_stream("stdin").isatty():
        given = f"--yes {what}".strip()
        raise CommandRefused(f"nobody is here to be asked. Give {given}, as the preview says")
    typer.confirm(question, abort=True, err=True)


def _preview_document(found: MigrationPreview) -> dict[str, object]:
    return {**_document(found), "goes_on": found.goes_on}


def _document(found: MigrationPreview | AppliedMigration | UndoneMigration) -> dict[str, object]:
    from orchestrator.engine.operations.migrate import as_document

    return as_document(found)


def _group_lines(groups: Sequence[MigrationGroup]) -> list[RenderableType]:
    from rich.text import Text

    lines: list[RenderableType] = []
    for group in groups:
        runs = "1 run" if group.runs == 1 else f"{group.runs} runs"
        head = text("goes on", "green") if group.goes_on else text(group.reason, "bold red")
        more = group.runs - len(group.samples)
        lines += [
            head + text(f"  {runs}", "bold"),
            text(f"  {', '.join(group.samples)}{f' and {more} more' if more else ''}", "dim"),
            *(text(f"  {each}") for each in group.says),
        ]
        if group.remedy:
            lines.append(text(f"  → {group.remedy}", "yellow"))
        lines.append(Text())
    return lines


def _preview_page(found: MigrationPreview, file: Path) -> RenderableType:
    from rich.console import Group

    head = text(
        f"Plan {found.plan_id}: {found.process} v{found.from_version} → v{found.to_version}", "bold"
    )
    if not found.runs:
        moved = f"; {found.migrated} were moved by this plan" if found.migrated else ""
        return Group(
            head, text(f"No open run is left on version {found.from_version}{moved}.", "dim")
        )
    total = f"{found.goes_on} of {found.runs} run(s) go on."
    if found.migrated:
        total += f" {found.migrated} were moved by this plan before."
    return Group(
        head,
        text(""),
        *_group_lines(found.groups),
        text(total, "green" if found.goes_on == found.runs else "bold"),
        text(f"perennial migrate apply {file} --yes {found.digest}", "green"),
    )


def _applied_page(found: AppliedMigration) -> RenderableType:
    from rich.console import Group

    already = f" {found.already} were moved before." if found.already else ""
    parked = f" {found.parked} of the others are incidents now." if found.parked else ""
    return Group(
        *_group_lines(found.refused),
        text(f"{found.migrated} run(s) moved.{already}{parked}", "green"),
        text(f"perennial migrate undo {found.plan_id}", "dim"),
    )


def _undone_page(found: UndoneMigration) -> RenderableType:
    from rich.console import Group

    return Group(
        *(text(f"{run}: {why}", "yellow") for run, why in found.stay),
        text(f"{found.undone} run(s) moved back; {len(found.stay)} stay.", "green"),
    )
