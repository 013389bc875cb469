"""A verb of many runs, on the command line: previewed, confirmed, done at a rate, with its progress.

over_many    what `resume`, `cancel`, ... do when they are given a query in place of a RUN
carry_on     go on with an operation, in sight
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.failures import CommandRefused
from orchestrator.cli.output import Printer, text
from orchestrator.cli.session import os_user, session_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from orchestrator.core.bulk import OperationView, Preview, RunGroup
    from orchestrator.core.selection import RunFilter

_PANEL = "Which runs"

Digest = Annotated[
    str | None,
    typer.Option(
        "--digest",
        help="Apply the preview that has this digest: to exactly its runs, without asking.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
Rate = Annotated[
    str | None,
    typer.Option(
        "--rate",
        metavar="RUNS",
        help="At most so many: 50/s, 10/min.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
Reason = Annotated[
    str, typer.Option(help="Why; kept with the operation, and in the history of a cancelled run.")
]

BULK_SHAPE = (
    'of a query: {"verb", "digest", "operation", "runs", "groups": [{"process", "version", "status", "cause", "runs", '
    '"samples"}], "refused": [the same, with "reason"]}; with --digest: {"operation", "state", "runs", "counts", …}'
)

_WITH_A_QUERY = ("retry", "resume", "pause", "cancel", "restart")
"""Commands that take a query themselves."""

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|min|h))?")
_PER_SECOND = {None: 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}


def rate_of(typed: str | None) -> float | None:
    """`50/s`, `10/min`, `50` as runs a second. Raises CommandRefused."""
    if typed is None:
        return None
    found = _RATE.fullmatch(typed.strip())
    if found is None or not float(found[1]):
        raise CommandRefused(f"--rate {typed!r} is no rate: say 50/s, 10/min or 100/h")
    return float(found[1]) / _PER_SECOND[found[2]]


def check_which(run: str | None, query: RunFilter, digest: str | None) -> None:
    """Raise CommandRefused for a command that names one run and a query too, or neither."""
    if run is not None and (not query.is_empty or digest is not None):
        raise CommandRefused("give a RUN, or a query (--process, --cause, …), and not both")
    if run is None and query.is_empty and digest is None:
        raise CommandRefused(
            "of which run? Give its id or its business key; or a query for many: --process, --cause, --stage, "
            "--since, … (`--help` lists them). All runs are never meant"
        )


def over_many(
    context: typer.Context,
    verb: str | None,
    query: RunFilter,
    *,
    digest: str | None,
    rate: str | None,
    reason: str,
    by: str,
    **arguments: Any,
) -> None:
    """Preview the verb over what the query means, ask, and apply; or apply what has the digest, whatever its verb."""
    session = session_of(context)
    printer, who, per_second = Printer(session), by or os_user(), rate_of(rate)
    with session.client() as client:
        bulk = client.operations.bulk
        if digest is None and verb is not None:
            shown = bulk.preview(verb, query, by=who, reason=reason, **arguments)
            printer.emit(_preview_document(shown), lambda: _preview_page(shown))
            if not shown.runs or not _is_confirmed(printer, shown):
                return
            digest = shown.digest
        assert digest is not None  # noqa: S101 - who names no verb names a digest
        applied = _with_progress(
            printer,
            lambda progress: bulk.apply(
                digest,
                verb=verb,
                asked=query,
                by=who,
                reason=reason,
                rate_per_second=per_second,
                progress=progress,
            ),
        )
    finish(printer, applied)


def carry_on(context: typer.Context, operation: str, *, rate: str | None, by: str) -> None:
    """Do what is left of an operation."""
    session = session_of(context)
    printer, per_second = Printer(session), rate_of(rate)
    with session.client() as client:
        applied = _with_progress(
            printer,
            lambda progress: client.operations.bulk.resume(
                operation, by=by or os_user(), rate_per_second=per_second, progress=progress
            ),
        )
    finish(printer, applied)


def finish(printer: Printer, applied: OperationView) -> None:
    """Say what became of the runs. Ends with 1 where one was refused or failed."""
    printer.emit(operation_document(applied), lambda: applied_page(applied))
    if any(applied.counts.get(state) for state in ("refused", "failed")):
        raise typer.Exit(1)


def _is_confirmed(printer: Printer, shown: Preview) -> bool:
    """Ask who is at the keyboard. A script is told the digest, and calls again."""
    if printer.as_json:
        return False
    if not sys.stdin.isatty():
        how = f"{shown.verb} --digest" if shown.verb in _WITH_A_QUERY else "operations apply"
        printer.note(f"Nothing is done yet: perennial {how} {shown.digest}  does it", "bold")
        return False
    return typer.confirm(f"{shown.verb} {_runs(len(shown.runs))}?")


def _with_progress(
    printer: Printer, act: Callable[[Callable[[int, int, Mapping[str, int]], None]], OperationView]
) -> OperationView:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=printer.err, transient=True) as bar:
        task = bar.add_task("runs", total=None)

        def progress(done: int, of: int, counts: Mapping[str, int]) -> None:
            told = ", ".join(f"{count} {state}" for state, count in _shares(counts))
            bar.update(task, completed=done, total=of, description=told or "runs")

        return act(progress)


def _shares(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return [
        (state, counts[state])
        for state in ("done", "skipped", "refused", "failed")
        if counts.get(state)
    ]


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"


def _preview_page(shown: Preview) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    asked = shown.asked.in_words()
    if not shown.runs and not shown.refused:
        return text(f"No run {asked or 'is there'} that {shown.verb} acts on.", "dim")
    lines: list[Text] = [
        text(f"{shown.verb}: {_runs(len(shown.runs))} would {shown.what}", "bold"),
        *(_group(group, "green") for group in shown.groups),
    ]
    for name, said in shown.looks:
        lines.append(text(f"  {name}: ", "dim") + text("; ".join(said)))
    if shown.refused:
        lines.append(text("left alone:", "bold"))
        lines += [_group(group, "yellow") for group in shown.refused]
    lines += [Text(), text(f"digest {shown.digest}", "bold")] if shown.runs else []
    return Group(*lines)


def _group(group: RunGroup, style: str) -> Text:
    cause = f", cause {group.cause}" if group.cause else ""
    more = group.runs - len(group.samples)
    named = ", ".join(group.samples) + (f" and {more} more" if more > 0 else "")
    line = text(f"  {group.runs:>7,}  ", style) + text(
        f"{group.process} v{group.version}, {group.status}{cause}"
    )
    why = text(f"  {group.reason}", "yellow") if group.reason else text("")
    return line + text(f"  {named}", "dim") + why


def applied_page(applied: OperationView) -> RenderableType:
    """What an operation has done so far, and what to type next."""
    from rich.console import Group

    told = (
        ", ".join(f"{count:,} {state}" for state, count in _shares(applied.counts))
        or "nothing done"
    )
    lines = [text(f"{applied.verb} of {_runs(applied.runs)}: {told}", "bold")]
    if applied.left and applied.finished_at is None:
        lines.append(
            text(f"{_runs(applied.left)} to do: perennial operations resume {applied.id}", "yellow")
        )
    lines.append(text(f"perennial operations {applied.id}", "green"))
    return Group(*lines)


def operation_document(applied: OperationView) -> dict[str, Any]:
    """As --json prints an operation."""
    return {
        "operation": applied.id,
        "verb": applied.verb,
        "arguments": applied.arguments,
        "filter": applied.filter,
        "digest": applied.digest,
        "by": applied.by,
        "reason": applied.reason,
        "state": applied.state,
        "is_interrupted": applied.is_interrupted,
        "held_by": applied.held_by if applied.is_held else None,
        "rate_per_second": applied.rate_per_second,
        "created_at": applied.created_at,
        "finished_at": applied.finished_at,
        "runs": applied.runs,
        "counts": applied.counts,
    }


def _preview_document(shown: Preview) -> dict[str, Any]:
    return {
        "verb": shown.verb,
        "digest": shown.digest,
        "operation": shown.operation_id if shown.runs else None,
        "runs": len(shown.runs),
        "groups": [_group_document(group) for group in shown.groups],
        "refused": [{**_group_document(group), "reason": group.reason} for group in shown.refused],
    }


def _group_document(group: RunGroup) -> dict[str, Any]:
    return {
        "process": group.process,
        "version": group.version,
        "status": group.status,
        "cause": group.cause,
        "runs": group.runs,
        "samples": group.samples,
    }
