"""`perennial operations`: verbs over many runs that were applied; go on with one, pause it, stop it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.apps import load_app_if_there
from orchestrator.cli.bulk import (
    BULK_SHAPE,
    Rate,
    Reason,
    applied_page,
    carry_on,
    operation_document,
    over_many,
)
from orchestrator.cli.failures import CommandRefused
from orchestrator.cli.groups import ListOrOne
from orchestrator.cli.output import Printer, text
from orchestrator.cli.query import named_value, queried
from orchestrator.cli.session import App, By, Json, examples, session_of
from orchestrator.core.selection import RunFilter

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from orchestrator.cli.times import Clock
    from orchestrator.core.bulk import OperationView, Result

RESULTS_LIMIT = 50
RESULTS_LIMIT_MAX = 10_000

_SHAPE = (
    '{"operation", "verb", "arguments", "filter", "digest", "by", "reason", "state", "is_interrupted", "held_by", '
    '"rate_per_second", "created_at", '
    '"finished_at", "runs", "counts": {how many are done, skipped, refused, failed, to do}}'
)

commands = typer.Typer(cls=ListOrOne)

Operation = Annotated[
    str, typer.Argument(metavar="ID", help="As `operations` shows it.", show_default=False)
]


@commands.callback(
    invoke_without_command=True,
    epilog=examples(
        "perennial operations",
        "perennial operations 01a22829-1216-707a-8e46-99465ceadc99 --state failed",
        "perennial operations resume 01a22829-1216-707a-8e46-99465ceadc99",
        json_shape=f'{{"operations": [{_SHAPE}]}}',
    ),
)
def operations(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    _json: Json = False,
) -> None:
    """Verbs over many runs, the newest first: how far each is, and who is at it."""
    if context.invoked_subcommand is not None:
        return
    session = session_of(context)
    printer = Printer(session)
    with session.client() as client:
        found = client.operations.bulk.list(limit=limit)
    printer.emit(
        {"operations": [operation_document(each) for each in found]},
        lambda: _page(found, printer.clock),
    )


@commands.command(
    "show",
    hidden=True,
    epilog=examples(
        "perennial operations 01a22829-1216-707a-8e46-99465ceadc99",
        "perennial operations show 01a22829-1216-707a-8e46-99465ceadc99 --state refused --json",
        json_shape=f'{_SHAPE} and "results": [{{"ordinal", "run_id", "business_key", "state", "what", "at"}}]',
    ),
)
def show(
    context: typer.Context,
    *,
    operation: Operation,
    state: Annotated[
        str | None,
        typer.Option(help="Only runs that are: done, skipped, refused, failed, 'to do'."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=RESULTS_LIMIT_MAX, help="At most so many runs.")
    ] = RESULTS_LIMIT,
    after: Annotated[int, typer.Option(min=0, help="Go on after this run's number.")] = 0,
    _json: Json = False,
) -> None:
    """One operation, and what became of each of its runs."""
    from orchestrator.core.bulk import LineState

    if state is not None and state not in list(LineState):
        raise typer.BadParameter(f"one of {', '.join(LineState)}", param_hint="--state")
    session = session_of(context)
    printer = Printer(session)
    with session.client() as client:
        found = client.operations.bulk.get(operation)
        results = client.operations.bulk.results(
            found.id, state=None if state is None else LineState(state), after=after, limit=limit
        )
    printer.emit(
        {**operation_document(found), "results": results},
        lambda: _one(found, results, printer.clock),
    )
    if len(results) == limit and not printer.as_json:
        printer.note(f"There may be more: --after {results[-1].ordinal}", "dim")


@commands.command(
    epilog=examples(
        """perennial operations preview skip --with key=notify --with 'result={"sent": false}' --cause 3f2a91c04b7d""",
        "perennial operations preview rewind --with to=provision-access --process access-request --since 24h",
        json_shape=BULK_SHAPE,
    ),
)
@queried
def preview(
    context: typer.Context,
    *,
    query: RunFilter,
    verb: Annotated[
        str,
        typer.Argument(
            help="cancel, complete, edit, fail, pause, restart, resume, retry, rewind or skip.",
            show_default=False,
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME=JSON",
            help="What the verb takes; repeatable.",
            show_default=False,
        ),
    ] = None,
    rate: Rate = None,
    reason: Reason = "",
    by: By = "",
    _app: App = None,
    _json: Json = False,
) -> None:
    """Any verb over many runs: show what it would do, ask, and do it."""
    load_app_if_there(session_of(context))
    given = dict(named_value(each, option="--with") for each in arguments or ())
    if taken := sorted(
        given.keys() & {"context", "verb", "query", "digest", "rate", "reason", "by"}
    ):
        raise CommandRefused(
            f"--with {taken[0]}=…: no verb takes that; the command has an option --{taken[0]}"
        )
    over_many(context, verb, query, digest=None, rate=rate, reason=reason, by=by, **given)


@commands.command(
    epilog=examples("perennial operations apply 5d41402abc4b --rate 50/s", json_shape=_SHAPE)
)
def apply(
    context: typer.Context,
    *,
    digest: Annotated[
        str, typer.Argument(help="As a preview shows it.", metavar="DIGEST", show_default=False)
    ],
    rate: Rate = None,
    reason: Reason = "",
    by: By = "",
    _app: App = None,
    _json: Json = False,
) -> None:
    """Do what a preview has shown, to exactly its runs."""
    load_app_if_there(session_of(context))
    over_many(context, None, RunFilter(), digest=digest, rate=rate, reason=reason, by=by)


@commands.command(
    epilog=examples(
        "perennial operations resume 01a22829-1216-707a-8e46-99465ceadc99 --rate 20/s",
        json_shape=_SHAPE,
    )
)
def resume(
    context: typer.Context,
    *,
    operation: Operation,
    rate: Rate = None,
    by: By = "",
    _app: App = None,
    _json: Json = False,
) -> None:
    """Do what is left of one that was paused, or whose command has died. No run is acted on twice."""
    load_app_if_there(session_of(context))
    carry_on(context, operation, rate=rate, by=by)


@commands.command(
    epilog=examples(
        "perennial operations pause 01a22829-1216-707a-8e46-99465ceadc99", json_shape=_SHAPE
    )
)
def pause(context: typer.Context, operation: Operation, _json: Json = False) -> None:
    """Let one rest, whoever is at it, until `operations resume`."""
    session = session_of(context)
    with session.client() as client:
        found = client.operations.bulk.pause(operation)
    Printer(session).emit(operation_document(found), lambda: applied_page(found))


@commands.command(
    epilog=examples(
        "perennial operations stop 01a22829-1216-707a-8e46-99465ceadc99", json_shape=_SHAPE
    )
)
def stop(context: typer.Context, operation: Operation, _json: Json = False) -> None:
    """End one, whoever is at it: what is left of it is never done."""
    session = session_of(context)
    with session.client() as client:
        found = client.operations.bulk.stop(operation)
    Printer(session).emit(operation_document(found), lambda: applied_page(found))


def _page(found: Sequence[OperationView], clock: Clock) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    if not found:
        return text("No verb was said of many runs yet.", "dim")
    lines: list[RenderableType] = []
    for each in found:
        lines += [_head(each, clock), text(f"  {_counts(each)}{_who(each)}", "dim"), Text()]
    return Group(*lines)


def _one(found: OperationView, results: Sequence[Result], clock: Clock) -> RenderableType:
    from rich.console import Group

    lines = [_head(found, clock), text(f"  {_counts(found)}{_who(found)}", "dim")]
    lines += [_line(each) for each in results]
    if found.left and found.finished_at is None:
        lines.append(text(f"perennial operations resume {found.id}", "green"))
    return Group(*lines)


def _head(found: OperationView, clock: Clock) -> Text:
    state = "interrupted" if found.is_interrupted else str(found.state)
    style = {"interrupted": "bold red", "running": "cyan", "finished": "green"}.get(state, "yellow")
    told: Any = (
        f"  {found.verb} of {found.runs:,} runs by {found.by}, {clock.relative(found.created_at)}"
    )
    reason = f": {found.reason}" if found.reason else ""
    return text(f"{found.id}  ", "bold") + text(state, style) + text(f"{told}{reason}")


def _counts(found: OperationView) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in sorted(found.counts.items()))


def _who(found: OperationView) -> str:
    return f"; {found.held_by} is at it" if found.is_held else ""


def _line(result: Result) -> Text:
    style = {"done": "green", "to do": "dim", "skipped": "yellow"}.get(result.state, "red")
    name = result.business_key or result.run_id
    return (
        text(f"  {result.ordinal:>6}  {name}  ")
        + text(result.state, style)
        + text(f"  {result.what}" if result.what else "")
    )
