"""Commands about runs: start, find, look at, signal, stop."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from orchestrator.cli.bulk import BULK_SHAPE, Digest, Rate, Reason, check_which, over_many
from orchestrator.cli.output import Printer, text
from orchestrator.cli.query import queried
from orchestrator.cli.session import (
    By,
    Json,
    Run,
    RunOrQuery,
    examples,
    os_user,
    read_json,
    session_of,
)
from orchestrator.core.run import RunStatus
from orchestrator.core.selection import RunFilter

if TYPE_CHECKING:
    from rich.text import Text

    from orchestrator.core.views import Started
    from orchestrator.engine.start import IfClosed

commands = typer.Typer()

_RUNS = "Runs"
_OPERATE = "Operate"

LIST_LIMIT = 50
LIST_LIMIT_MAX = 1000


@commands.command(
    rich_help_panel=_RUNS,
    epilog=examples(
        "perennial start access-request --input @request.json --key permit-17",
        """perennial start access-request --input '{"user": "ada", "role": "admin"}'""",
        "make-request | perennial start access-request --input -",
        "perennial start access-request --input @request.json --key permit-17 --again",
        json_shape='{"run_id", "process", "version", "created", "status"}; not created if the key had a '
        "run, whose status that is",
    ),
)
def start(
    context: typer.Context,
    *,
    process: Annotated[
        str, typer.Argument(help="The name of a deployed process.", show_default=False)
    ],
    payload: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="JSON|@FILE|-", help="The run's input; - reads standard input."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Business key: starting twice with one key gives the same run."),
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="As `perennial processes` says, when not given.")
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="If the key's run failed, expired or was cancelled, start a new one under the key.",
        ),
    ] = False,
    even_if_completed: Annotated[
        bool, typer.Option("--even-if-completed", help="The same, even if it completed.")
    ] = False,
    by: By = "",
    _json: Json = False,
) -> None:
    """Start a run of a deployed process."""
    session = session_of(context)
    value = read_json(payload, what="--input") if payload is not None else None
    if_closed: IfClosed = "always" if even_if_completed else "again" if again else "existing"
    with session.client() as client:
        started = client.start(
            process, value, key=key, version=version, if_closed=if_closed, by=by or os_user()
        )
    Printer(session).emit(started, lambda: _started_page(started, key))


def _started_page(started: Started, key: str | None) -> Text:
    which = f"{started.process} v{started.version}  {started.run_id}\n"
    show = text(f"perennial show {shlex.quote(key or str(started.run_id))}", "green")
    if started.created:
        return text(f"Started {which}") + show
    told = text(f"The key {key!r} has its run already, which ")
    told += text("has " if started.status is RunStatus.COMPLETED else "is ")
    told += text(started.status, "bold") + text(f": {which}") + show
    if started.status.is_closed:
        completed = started.status is RunStatus.COMPLETED
        option = "--even-if-completed" if completed else "--again"
        told += text("\nNothing runs under the key. ", "yellow")
        told += text(f"`start … {option}` starts anew with other input, `perennial restart ", "dim")
        told += text(f"{shlex.quote(key or '')}` with the same.", "dim")
    return told


@commands.command(
    rich_help_panel=_OPERATE,
    epilog=examples(
        "perennial restart permit-17",
        "perennial restart permit-17 --version 2",
        "perennial restart --failed --cause 3f2a91c04b7d --rate 50/s",
        json_shape='{"run_id", "process", "version", "created", "status"}; not created if it was '
        f"restarted before; {BULK_SHAPE}",
    ),
)
@queried
def restart(
    context: typer.Context,
    *,
    query: RunFilter,
    run: RunOrQuery = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="As `perennial processes` says, when not given.")
    ] = None,
    even_if_completed: Annotated[
        bool, typer.Option("--even-if-completed", help="Do again what was done; of one run alone.")
    ] = False,
    digest: Digest = None,
    rate: Rate = None,
    reason: Reason = "",
    by: By = "",
    _json: Json = False,
) -> None:
    """Start a run that has ended once more: a new run, with the same input and business key.

    Or, with a query, many: failed ones, if no status is given. They are shown first.
    """
    check_which(run, query, digest)
    if run is None:
        over_many(
            context,
            "restart",
            query,
            digest=digest,
            rate=rate,
            reason=reason,
            by=by,
            version=version,
        )
        return
    session = session_of(context)
    with session.client() as client:
        started = client.operations.restart(
            run, version=version, even_if_completed=even_if_completed, by=by or os_user()
        )
    told = "Started once more" if started.created else f"Followed already ({started.status})"
    Printer(session).emit(
        started,
        lambda: (
            text(f"{told}: {started.process} v{started.version}  {started.run_id}\n")
            + text(f"perennial show {started.run_id}", "green")
        ),
    )


@commands.command(
    rich_help_panel=_RUNS,
    epilog=examples(
        "perennial ps --status waiting --process access-request",
        "perennial ps --status incident --json",
        "perennial ps --failed --error ConnectionError --stage provision-access --since 7d",
        "perennial ps --where customer=C-17 --where 'amount>=100'",
        json_shape='{"runs": [{"id", "process", "version", "business_key", "status", "stage", '
        '"waiting_for", '
        '"created_at", "last_progress_at", "closed_at", "next_timer_at", "is_unserved", "status_text"}]}',
    ),
)
@queried
def ps(
    context: typer.Context,
    *,
    query: RunFilter,
    limit: Annotated[
        int, typer.Option(min=1, max=LIST_LIMIT_MAX, help="At most so many.")
    ] = LIST_LIMIT,
    after: Annotated[
        UUID | None,
        typer.Option(help="Go on below this run's id: the last one of the page before."),
    ] = None,
    _json: Json = False,
) -> None:
    """List runs, newest first, and what each waits for."""
    from orchestrator.cli.listings import runs_table

    session = session_of(context)
    with session.client() as client:
        runs = client.list(matching=query, limit=limit, after=after)
    printer = Printer(session)
    asked = _asked(query, after)
    printer.emit(
        {"runs": runs}, lambda: runs_table(runs, printer.clock, width=printer.width, asked=asked)
    )
    if len(runs) == limit and not printer.as_json:
        printer.note(f"There may be more: --after {runs[-1].id}", "dim")


def _asked(query: RunFilter, after: UUID | None) -> str:
    """What a listing was narrowed to, in words: `of trip is running or waiting`."""
    words = [query.in_words(), f"below {after}" if after else ""]
    asked = " ".join(filter(None, words))
    return f"{asked} is there" if asked and not query.statuses else asked


@commands.command(
    rich_help_panel=_RUNS,
    epilog=examples(
        "perennial show permit-17",
        "perennial show permit-17 --json | jq '.waits[].who'",
        json_shape='the run: {"id", "process", "version", "business_key", "status", "stage", '
        '"previous_stage", "revision", "input", "output", "error", "attributes", "created_at", '
        '"started_at", "last_progress_at", "expires_at", "closed_at", "next_timer_at", "waiting_for", '
        '"active_milliseconds", "waits": [{"kind", "key", "name", "who", "since", '
        '"next": [{"what", "at"}], "attempt", "detail", "edition", "changed"}], "queue", "untaken_turn", '
        '"failures": [{"key", "attempt", "type", "message", "traceback", "at"}], '
        '"former_key", "follows", "followed_by", "code_revision", "is_unserved", "status_text", "chapter", '
        '"chapter_at", "parent_id", "parent_key", "on_parent_end", "children_started", "children": [as of `tree`]}',
    ),
)
def show(context: typer.Context, run: Run, _json: Json = False) -> None:
    """What a run waits for, who can act, since when, what happens next and when."""
    from orchestrator.cli.run_page import run_page

    session = session_of(context)
    with session.client() as client:
        view = client.get(run)
    printer = Printer(session)
    printer.emit(view, lambda: run_page(view, printer.clock))


@commands.command(
    rich_help_panel=_RUNS,
    epilog=examples(
        "perennial history permit-17",
        json_shape='{"history": [{"at", "actor", "event", "key", "attempt", "from_status", '
        '"to_status", "detail"}]}',
    ),
)
def history(context: typer.Context, run: Run, _json: Json = False) -> None:
    """Everything that happened to a run: who, what, when, from which status to which."""
    from orchestrator.cli.listings import history_table

    session = session_of(context)
    with session.client() as client:
        entries = client.history(run)
    printer = Printer(session)
    printer.emit(
        {"history": entries}, lambda: history_table(entries, printer.clock, width=printer.width)
    )


@commands.command(
    rich_help_panel=_RUNS,
    epilog=examples(
        "perennial result permit-17",
        "perennial result permit-17 --wait 60",
        json_shape='{"result": what the flow returned}',
    ),
)
def result(
    context: typer.Context,
    *,
    run: Run,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Wait so long for the run to end.")
    ] = 0,
    _json: Json = False,
) -> None:
    """What a completed run returned, as JSON. Exits 1 if it hasn't ended, or ended otherwise."""
    session = session_of(context)
    with session.client() as client:
        value = client.result(run, timeout_seconds=wait)
    printer = Printer(session)
    printer.document({"result": value} if printer.as_json else value)


@commands.command(
    rich_help_panel=_RUNS,
    epilog=examples(
        """perennial signal permit-17 documents-received '{"pages": 3}'""",
        "perennial signal permit-17 documents-received @scan.json --id scan-991",
        """perennial signal --correlation PAY-1 paid '{"amount": 9}'""",
        json_shape='{"run", "signal", "accepted"}; not accepted if that --id came before',
    ),
)
def signal(
    context: typer.Context,
    *,
    run: Annotated[
        str,
        typer.Argument(metavar="[RUN]", help="Left out with --correlation.", show_default=False),
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The name the flow waits for.", show_default=False),
    ] = None,
    payload: Annotated[
        str | None,
        typer.Argument(metavar="[JSON|@FILE|-]", help="What the flow gets.", show_default=False),
    ] = None,
    correlation: Annotated[
        str | None,
        typer.Option(help="In place of a run: to whichever run awaits this key, also one to come."),
    ] = None,
    signal_id: Annotated[
        str | None,
        typer.Option("--id", help="Makes sending it twice harmless: the second is dropped."),
    ] = None,
    by: By = "",
    _json: Json = False,
) -> None:
    """Send a run a message from outside. It is kept until the run waits for it."""
    session = session_of(context)
    to: str | None = run
    if correlation is not None:
        if payload is not None:
            raise typer.BadParameter("give a RUN or --correlation, not both", param_hint="RUN")
        to, name, payload = None, run, name
    if name is None:
        raise typer.BadParameter("it is missing", param_hint="NAME")
    value = read_json(payload, what="PAYLOAD") if payload is not None else None
    with session.client() as client:
        accepted = client.signal(
            to,
            name,
            value,
            correlation=correlation,
            signal_id=signal_id,
            by=by or os_user(),
        )
    told = "Recorded" if accepted else f"Dropped, since one with the id {signal_id!r} came before:"
    whose = to if correlation is None else f"whichever run awaits {correlation}"
    sent = {"run": to} if correlation is None else {"correlation": correlation}
    Printer(session).emit(
        {**sent, "signal": name, "accepted": accepted},
        lambda: text(f"{told} signal {name} for {whose}"),
    )
