"""`perennial processes`: the versions that are deployed, who runs them, and which one new runs take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.failures import CommandRefused
from orchestrator.cli.groups import ListOrOne
from orchestrator.cli.output import Printer, text
from orchestrator.cli.session import By, Json, examples, os_user, session_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from orchestrator.cli.times import Clock
    from orchestrator.core.views import DeployedRevision, DeployedVersion, ProcessEvent

HISTORY_MAX = 30
"""So many lines of a process' history are shown."""

WORKERS_NAMED = 3
"""So many workers of a version are named; --json names more."""

_SHAPE = (
    '{"processes": [{"name", "version", "kind", "code_revision", "deployed_at", "deployed_by", "is_current", '
    '"set_by", "retired_at", "retired_by", "revisions": [{"code_revision", "open_runs", "served_by", "workers"}]}]}'
)

commands = typer.Typer(cls=ListOrOne)

Name = Annotated[str, typer.Argument(metavar="PROCESS", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why; stays in the process' history.")]
Version = Annotated[int, typer.Argument(metavar="VERSION", min=1, show_default=False)]


@commands.callback(
    invoke_without_command=True,
    epilog=examples(
        "perennial processes",
        "perennial processes access-request",
        "perennial processes current access-request 2",
        json_shape=_SHAPE,
    ),
)
def processes(context: typer.Context, _json: Json = False) -> None:
    """The versions that are deployed: open runs, the workers that can run them, and which one new runs take.

    New runs take the newest version that a living worker can run; or the one that `current` has set.
    """
    if context.invoked_subcommand is None:
        _list(context, None)


@commands.command(
    "show",
    hidden=True,
    epilog=examples(
        "perennial processes access-request",
        "perennial processes show access-request",
        json_shape=f'{_SHAPE[:-1]}, "history": [{{"at", "by", "event", "version", "former_version", "code_revision", '
        '"reason"}]}',
    ),
)
def show(context: typer.Context, process: Name, _json: Json = False) -> None:
    """The versions of one process, and what was said of it: deployed, amended, set as current, retired."""
    _list(context, process)


@commands.command(
    epilog=examples(
        "perennial processes current access-request 2",
        "perennial processes current access-request --default",
        json_shape='{"process", "version", "action": "current"}; the version is null with --default',
    )
)
def current(
    context: typer.Context,
    *,
    process: Name,
    version: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", min=1, show_default=False)
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="The newest version that a living worker can run.")
    ] = False,
    by: By = "",
    reason: Reason = "",
    _json: Json = False,
) -> None:
    """Set which version new runs take. Runs that are there stay on theirs."""
    if (version is None) is not default:
        raise CommandRefused(
            "Give a VERSION, or --default: new runs take the newest that is served."
        )
    session = session_of(context)
    with session.client() as client:
        client.processes.set_current(process, version, by=by or os_user(), reason=reason)
    what = _which(version)
    Printer(session).emit(
        {"process": process, "version": version, "action": "current"},
        lambda: text(f"New runs of {process} take {what}."),
    )


@commands.command(
    epilog=examples(
        "perennial processes retire access-request 1",
        "perennial processes retire access-request 1 --undo",
        json_shape='{"process", "version", "action": "retire"}',
    )
)
def retire(
    context: typer.Context,
    *,
    process: Name,
    version: Version,
    undo: Annotated[bool, typer.Option("--undo", help="Take it back.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even the last version that new runs could take.")
    ] = False,
    by: By = "",
    reason: Reason = "",
    _json: Json = False,
) -> None:
    """No new run takes that version. Runs that are there go on, as long as a worker has its code."""
    session = session_of(context)
    with session.client() as client:
        if undo:
            client.processes.unretire(process, version, by=by or os_user(), reason=reason)
        else:
            client.processes.retire(
                process, version, even_the_last=force, by=by or os_user(), reason=reason
            )
    said = "New runs may take it again:" if undo else "No new run takes"
    Printer(session).emit(
        {"process": process, "version": version, "action": "retire"},
        lambda: text(f"{said} {process} version {version}"),
    )


def _list(context: typer.Context, process: str | None) -> None:
    session = session_of(context)
    with session.client() as client:
        found = client.processes.list(process)
        history = client.processes.history(process, limit=HISTORY_MAX) if process else ()
    printer = Printer(session)
    document = {"processes": found} | ({"history": history} if process else {})
    printer.emit(document, lambda: _page(found, printer.clock, process, history))


def _page(
    versions: Sequence[DeployedVersion],
    clock: Clock,
    process: str | None,
    history: Sequence[ProcessEvent],
) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    if not versions:
        of = "No process is" if process is None else f"No version of {process} is"
        return text(f"{of} deployed. `perennial deploy` deploys one.", "dim")
    lines: list[RenderableType] = []
    for each in versions:
        if lines:
            lines.append(Text())
        lines.append(_head(each, clock))
        lines += [text("  ") + _revision(each, revision) for revision in each.revisions]
    if history:
        lines += [Text(), text("History", "bold"), *(_event(each, clock) for each in history)]
    return Group(*lines)


def _event(event: ProcessEvent, clock: Clock) -> Text:
    match event.event:
        case "current":
            said = f"new runs take {_which(event.version)}, and took {_which(event.former_version)} before"
        case "retired":
            said = f"no new run takes version {event.version}"
        case "unretired":
            said = f"new runs may take version {event.version} again"
        case "amended":
            said = f"version {event.version} amended to revision {event.code_revision}"
        case _:
            said = f"version {event.version} {event.event}"
    line = text(f"  {clock.stamp(event.at)}  ", "dim") + text(event.by or "somebody")
    return line + text(f"  {said}{f': {event.reason}' if event.reason else ''}")


def _which(version: int | None) -> str:
    return "the newest version that is served" if version is None else f"version {version}"


def _head(version: DeployedVersion, clock: Clock) -> Text:
    line = text(f"{version.name} v{version.version}", "bold")
    if version.is_current:
        by = f", set by {version.set_by}" if version.set_by else ""
        line += text(f"  new runs take it{by}", "green")
    if version.retired_at is not None:
        by = f" by {version.retired_by}" if version.retired_by else ""
        line += text(f"  retired{by} {clock.relative(version.retired_at)}", "magenta")
    by = f" by {version.deployed_by}" if version.deployed_by else ""
    return line + text(f"  deployed{by} {clock.relative(version.deployed_at)}", "dim")


def _revision(version: DeployedVersion, revision: DeployedRevision) -> Text:
    runs = "1 open run" if revision.open_runs == 1 else f"{revision.open_runs} open runs"
    line = text(f"revision {revision.code_revision}  {runs}  ")
    if revision.served_by:
        more = revision.served_by - len(revision.workers[:WORKERS_NAMED])
        named = ", ".join(revision.workers[:WORKERS_NAMED]) + (f" and {more} more" if more else "")
        count = "1 worker" if revision.served_by == 1 else f"{revision.served_by} workers"
        return line + text(f"{count}: {named}", "dim")
    if revision.open_runs:
        return line + text(
            f"waiting for a worker that can run {version.name} version {version.version}; none is alive",
            "bold red",
        )
    return line + text("no living worker can run it", "dim")
