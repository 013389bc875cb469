"""`perennial incidents`: what is parked and what failed, by cause; what to do; and what is known of a cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.groups import ListOrOne
from orchestrator.cli.output import Printer, text
from orchestrator.cli.session import By, Json, examples, os_user, session_of
from orchestrator.cli.times import Clock, moment_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from orchestrator.core.causes import CauseSummary

_SHAPE = (
    '{"digest", "type", "place", "text", "processes", "runs", "incidents", "failed", "first", "last", "samples": '
    '[{"id", "business_key"}], "runs_since_mended", "note", "noted_by", "muted_by", "muted_at", "mended_by", '
    '"mended_at", "remedy"}'
)

commands = typer.Typer(cls=ListOrOne)

CauseName = Annotated[
    str, typer.Argument(metavar="CAUSE", help="As `incidents` shows it.", show_default=False)
]
Undo = Annotated[bool, typer.Option("--undo", help="Take it back.")]


@commands.callback(
    invoke_without_command=True,
    epilog=examples(
        "perennial incidents",
        "perennial incidents --process access-request --since 24h",
        "perennial incidents 3f2a91c04b7d",
        json_shape=f'{{"causes": [{_SHAPE}]}}',
    ),
)
def incidents(
    context: typer.Context,
    *,
    process: Annotated[
        str | None, typer.Option(help="Only runs of this process.", show_default=False)
    ] = None,
    since: Annotated[
        str,
        typer.Option(metavar="WHEN", help="What failed since then: 7d, 24h, 30min, or a date."),
    ] = "7d",
    only_open: Annotated[
        bool, typer.Option("--open", help="Only incidents that are open, not what failed.")
    ] = False,
    muted: Annotated[bool, typer.Option("--muted", help="Those that are muted, too.")] = False,
    _json: Json = False,
) -> None:
    """What is parked and what failed, by cause: how many runs, since when, and what to do.

    Incidents that are open are listed however old they are, failed runs of the last seven days.
    """
    if context.invoked_subcommand is not None:
        return
    session = session_of(context)
    printer = Printer(session)
    with session.client() as client:
        found = client.operations.incidents(
            process=process, failed=not only_open, since=moment_of(since, session.now())
        )
    shown = [each for each in found if muted or each.muted_at is None]
    hidden = len(found) - len(shown)
    printer.emit({"causes": [_document(each) for each in shown]}, lambda: _page(shown, printer))
    if hidden and not printer.as_json:
        printer.note(f"{hidden} muted: --muted shows them too", "dim")


@commands.command(
    "show",
    hidden=True,
    epilog=examples(
        "perennial incidents 3f2a91c04b7d",
        "perennial incidents show 3f2a91c04b7d",
        json_shape=_SHAPE,
    ),
)
def show(context: typer.Context, cause: CauseName, _json: Json = False) -> None:
    """One cause: its runs of all times, what is known of it, and what to do."""
    session = session_of(context)
    printer = Printer(session)
    with session.client() as client:
        found = client.operations.cause(cause)
    printer.emit(_document(found), lambda: _one(found, printer.clock))


@commands.command(
    epilog=examples(
        "perennial incidents note 3f2a91c04b7d 'IAM is away until noon, see OPS-17'",
        json_shape='{"cause", "action": "note"}',
    )
)
def note(
    context: typer.Context,
    *,
    cause: CauseName,
    words: Annotated[
        str, typer.Argument(metavar="TEXT", help="In place of the note before.", show_default=False)
    ],
    by: By = "",
    _json: Json = False,
) -> None:
    """Keep a note beside a cause, for whoever looks next."""
    session = session_of(context)
    with session.client() as client:
        client.operations.note_cause(cause, words, by=by or os_user())
    _acknowledge(context, cause, "note", "Noted")


@commands.command(
    epilog=examples(
        "perennial incidents mute 3f2a91c04b7d",
        "perennial incidents mute 3f2a91c04b7d --undo",
        json_shape='{"cause", "action": "mute"}',
    )
)
def mute(
    context: typer.Context,
    *,
    cause: CauseName,
    undo: Undo = False,
    by: By = "",
    _json: Json = False,
) -> None:
    """Leave a cause out of the list: it is known. `--muted` lists it all the same."""
    session = session_of(context)
    with session.client() as client:
        client.operations.mute_cause(cause, by=by or os_user(), undo=undo)
    _acknowledge(context, cause, "mute", "Listed again:" if undo else "Muted")


@commands.command(
    epilog=examples(
        "perennial incidents mended 3f2a91c04b7d",
        "perennial incidents mended 3f2a91c04b7d --undo",
        json_shape='{"cause", "action": "mended"}',
    )
)
def mended(
    context: typer.Context,
    *,
    cause: CauseName,
    undo: Undo = False,
    by: By = "",
    _json: Json = False,
) -> None:
    """Say that a cause is mended. If it comes back, `incidents` says so."""
    session = session_of(context)
    with session.client() as client:
        client.operations.mend_cause(cause, by=by or os_user(), undo=undo)
    _acknowledge(context, cause, "mended", "Not mended:" if undo else "Mended")


def _acknowledge(context: typer.Context, cause: str, action: str, done: str) -> None:
    Printer(session_of(context)).emit(
        {"cause": cause, "action": action}, lambda: text(f"{done} {cause}")
    )


def _document(summary: CauseSummary) -> dict[str, Any]:
    return {
        "digest": summary.digest,
        "type": summary.cause.type,
        "place": summary.cause.place,
        "text": summary.cause.text,
        "processes": summary.processes,
        "runs": summary.runs,
        "incidents": summary.incidents,
        "failed": summary.failed,
        "first": summary.first,
        "last": summary.last,
        "samples": [
            {"id": sample.id, "business_key": sample.business_key} for sample in summary.samples
        ],
        "runs_since_mended": summary.runs_since_mended,
        "note": summary.note,
        "noted_by": summary.noted_by,
        "muted_by": summary.muted_by,
        "muted_at": summary.muted_at,
        "mended_by": summary.mended_by,
        "mended_at": summary.mended_at,
        "remedy": summary.remedy,
    }


def _page(causes: Sequence[CauseSummary], printer: Printer) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    if not causes:
        return text("No incidents, and nothing failed.", "green")
    lines: list[RenderableType] = []
    for each in causes:
        lines += [_head(each), *_facts(each, printer.clock), Text()]
    return Group(*lines, text("perennial incidents CAUSE  says what to do", "dim"))


def _one(summary: CauseSummary, clock: Clock) -> RenderableType:
    from rich.console import Group

    muted = (
        []
        if summary.muted_at is None
        else [text(f"  muted {clock.relative(summary.muted_at)} by {summary.muted_by}", "dim")]
    )
    listed = text(f"  perennial ps --cause {summary.digest}", "green")
    return Group(
        _head(summary),
        *_facts(summary, clock),
        *muted,
        text(f"  → {summary.remedy}", "yellow"),
        listed,
    )


def _head(summary: CauseSummary) -> Text:
    counts = [
        f"{count} {what}"
        for count, what in ((summary.incidents, "parked"), (summary.failed, "failed"))
        if count
    ]
    return (
        text(f"{summary.digest}  ", "bold")
        + text(summary.cause.in_words, "bold red")
        + text(f"  {', '.join(counts)}", "bold")
        + text(f"  of {', '.join(summary.processes)}")
    )


def _facts(summary: CauseSummary, clock: Clock) -> list[Text]:
    named = ", ".join(sample.name for sample in summary.samples)
    more = summary.runs - len(summary.samples)
    lines = [
        text(f"  {summary.cause.text}"),
        text(
            f"  first {clock.relative(summary.first)}, last {clock.relative(summary.last)}: ", "dim"
        )
        + text(named + (f" and {more} more" if more > 0 else ""), "dim"),
    ]
    if summary.mended_at is not None:
        when = f"mended {clock.relative(summary.mended_at)} by {summary.mended_by}"
        since = summary.runs_since_mended
        lines.append(
            text(
                f"  returned: {when}, {since} {'run' if since == 1 else 'runs'} since",
                "bold yellow",
            )
            if summary.has_returned
            else text(f"  {when}, none since", "green")
        )
    if summary.note:
        lines.append(text(f"  note of {summary.noted_by}: {summary.note}", "cyan"))
    return lines
