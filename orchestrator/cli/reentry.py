"""Commands that let one run go another way: each shows what it would do, asks, and does exactly that."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from orchestrator.cli.apps import load_app_if_there
from orchestrator.cli.bulk import BULK_SHAPE, Rate, check_which, over_many
from orchestrator.cli.failures import CommandRefused
from orchestrator.cli.output import Printer, text
from orchestrator.cli.query import queried
from orchestrator.cli.session import (
    App,
    By,
    Json,
    Run,
    RunOrQuery,
    Session,
    examples,
    os_user,
    read_json,
    session_of,
)
from orchestrator.core.selection import RunFilter

if TYPE_CHECKING:
    from rich.text import Text

    from orchestrator.core.reentry.change import Preview
    from orchestrator.engine.operations.re_enter import Result

commands = typer.Typer()

_OPERATE = "Operate"
_SHAPE = (
    '{"run", "verb", "applied", "run_id", "digest", "goes_on", "repeats", "drops", "notes"}; '
    "not applied without --yes"
)

Reason = Annotated[str, typer.Option(help="Why; stays in the history.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do what is shown, and don't ask.")]
Digest = Annotated[
    str | None,
    typer.Option(
        metavar="DIGEST",
        help="Of a preview that was seen: refused where another thing would happen by now.",
        show_default=False,
    ),
]
JSON = "JSON|@FILE|-"


@commands.command(
    rich_help_panel=_OPERATE,
    epilog=examples(
        "perennial retry permit-17 --reason 'the partner is back'",
        'perennial retry permit-17 --arguments \'{"user": "ada"}\' --yes',
        "perennial --app shop retry permit-17 --version 2",
        "perennial retry --process access-request --error ConnectionError --since 7d --rate 50/s",
        json_shape=f"{_SHAPE}; {BULK_SHAPE}",
    ),
)
@queried
def retry(
    context: typer.Context,
    *,
    query: RunFilter,
    run: RunOrQuery = None,
    payload: Annotated[
        str | None,
        typer.Option("--input", metavar=JSON, help="Another input of the run.", show_default=False),
    ] = None,
    arguments: Annotated[
        str | None,
        typer.Option(
            metavar=JSON, help="Other arguments of the one stage that failed.", show_default=False
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Go on as this version; --app has its code.", show_default=False),
    ] = None,
    expires_in: Annotated[
        float | None,
        typer.Option(
            "--expires-in", min=0, metavar="HOURS", help="More time for it.", show_default=False
        ),
    ] = None,
    reason: Reason = "",
    by: By = "",
    digest: Digest = None,
    rate: Rate = None,
    yes: Yes = False,
    _app: App = None,
    _json: Json = False,
) -> None:
    """Let a run that failed, or an incident, go on from where it stopped. What is done is not done again.

    Or, with a query, many: failed ones, if no status is given. They are shown first.
    """
    session = session_of(context)
    check_which(run, query, digest if run is None else None)
    if run is None:
        _retry_many(
            context,
            query,
            of_one={"--input": payload, "--arguments": arguments, "--yes": yes or None},
            digest=digest,
            rate=rate,
            reason=reason,
            by=by,
            version=version,
            expires_in_seconds=None if expires_in is None else expires_in * 3600,
        )
        return
    given: dict[str, Any] = {
        "input": None if payload is None else read_json(payload, what="--input"),
        "arguments": None if arguments is None else _object(arguments, what="--arguments"),
        "version": version,
        "expires_in": None if expires_in is None else timedelta(hours=expires_in),
    }
    _do(session, "retry", run, given, by=by, reason=reason, digest=digest, yes=yes)


def _retry_many(
    context: typer.Context, query: RunFilter, *, of_one: dict[str, object], **given: Any
) -> None:
    for option, value in of_one.items():
        if value is not None:
            raise CommandRefused(
                f"{option} is of one run. Many are confirmed by the --digest of what is shown, and each keeps its own "
                "input and arguments"
            )
    load_app_if_there(session_of(context))
    over_many(context, "retry", query, **given)


Key = Annotated[
    str, typer.Argument(help="The activity, as `perennial show` names it.", show_default=False)
]
Given = Annotated[
    str | None,
    typer.Option("--result", metavar=JSON, help="What its flow gets.", show_default=False),
]
MoreTime = Annotated[
    float | None,
    typer.Option(
        "--expires-in", min=0, metavar="HOURS", help="More time for it.", show_default=False
    ),
]


@commands.command(
    rich_help_panel=_OPERATE,
    epilog=examples(
        """perennial skip permit-17 notify-requester --reason 'was told by phone'""",
        """perennial skip permit-17 provision-access --result '{"account": "ada"}' --reason 'made by hand'""",
        json_shape=_SHAPE,
    ),
)
def skip(
    context: typer.Context,
    *,
    run: Run,
    key: Key,
    reason: Annotated[str, typer.Option(help="Why; stays in the history.", show_default=False)],
    result: Given = None,
    expires_in: MoreTime = None,
    by: By = "",
    digest: Digest = None,
    yes: Yes = False,
    _app: App = None,
    _json: Json = False,
) -> None:
    """Leave an activity out, with a result that stands in for its own. Refused while a worker is on it."""
    session = session_of(context)
    given = _end(key, result, expires_in)
    _do(session, "skip", run, given, by=by, reason=reason, digest=digest, yes=yes)


@commands.command(
    rich_help_panel=_OPERATE,
    epilog=examples(
        """perennial complete permit-17 provision-access --result '{"account": "ada"}'""",
        "perennial complete permit-17 sleep",
        json_shape=_SHAPE,
    ),
)
def complete(
    context: typer.Context,
    *,
    run: Run,
    key: Key,
    result: Given = None,
    expires_in: MoreTime = None,
    reason: Reason = "",
    by: By = "",
    digest: Digest = None,
    yes: Yes = False,
    _app: App = None,
    _json: Json = False,
) -> None:
    """Say that an activity was done elsewhere, and what it came to. Ends a sleep or a wait for a signal, too."""
    session = session_of(context)
    given = _end(key, result, expires_in)
    _do(session, "complete", run, given, by=by, reason=reason, digest=digest, yes=yes)


@commands.command(
    rich_help_panel=_OPERATE,
    epilog=examples(
        "perennial fail permit-17 provision-access --error 'the account is locked for good'",
        json_shape=_SHAPE,
    ),
)
def fail(
    context: typer.Context,
    *,
    run: Run,
    key: Key,
    error: Annotated[str, typer.Option(help="What its flow meets.", show_default=False)],
    error_type: Annotated[
        str, typer.Option("--type", help="The name of the error's class.")
    ] = "FailedByHand",
    reason: Reason = "",
    by: By = "",
    digest: Digest = None,
    yes: Yes = False,
    _app: App = None,
    _json: Json = False,
) -> None:
    """Say that an activity will not be done: its flow meets ActivityFailed, with that error."""
    session = session_of(context)
    given: dict[str, Any] = {"key": key, "error": error, "error_type": error_type}
    _do(session, "fail", run, given, by=by, reason=reason, digest=digest, yes=yes)


@commands.command(
    rich_help_panel=_OPERATE,
    epilog=examples(
        """perennial edit permit-17 provision-access --arguments '{"role": "reader"}'""",
        json_shape=_SHAPE,
    ),
)
def edit(
    context: typer.Context,
    *,
    run: Run,
    key: Key,
    arguments: Annotated[
        str,
        typer.Option(
            metavar=JSON, help="By name; those that are not named stay.", show_default=False
        ),
    ],
    reason: Reason = "",
    by: By = "",
    digest: Digest = None,
    yes: Yes = False,
    _app: App = None,
    _json: Json = False,
) -> None:
    """Give a stage that waits, rests until its retry or is parked other arguments."""
    session = session_of(context)
    given: dict[str, Any] = {"key": key, "arguments": _object(arguments, what="--arguments")}
    _do(session, "edit", run, given, by=by, reason=reason, digest=digest, yes=yes)


@commands.command(
    rich_help_panel=_OPERATE,
    epilog=examples(
        "perennial rewind permit-17 --to provision-access --reason 'it was the wrong account'",
        "perennial --app shop rewind permit-17 --to manager --even-if-completed",
        json_shape=_SHAPE,
    ),
)
def rewind(
    context: typer.Context,
    *,
    run: Run,
    to: Annotated[
        str,
        typer.Option(
            metavar="KEY", help="The activity that is asked for anew.", show_default=False
        ),
    ],
    even_if_completed: Annotated[
        bool, typer.Option("--even-if-completed", help="Do again what was done.")
    ] = False,
    expires_in: MoreTime = None,
    reason: Reason = "",
    by: By = "",
    digest: Digest = None,
    yes: Yes = False,
    _app: App = None,
    _json: Json = False,
) -> None:
    """Go back to a point. What lies behind is kept in history, and the preview says what is done again."""
    session = session_of(context)
    given: dict[str, Any] = {
        "to": to,
        "even_if_completed": even_if_completed,
        "expires_in": None if expires_in is None else timedelta(hours=expires_in),
    }
    _do(session, "rewind", run, given, by=by, reason=reason, digest=digest, yes=yes)


@commands.command(
    rich_help_panel=_OPERATE,
    epilog=examples(
        "perennial fork permit-17 --at provision-access",
        "perennial fork permit-17 --key permit-17-try",
        json_shape=_SHAPE,
    ),
)
def fork(
    context: typer.Context,
    *,
    run: Run,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Copy what was settled before this was asked for.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Business key of the copy.", show_default=False)
    ] = None,
    reason: Reason = "",
    by: By = "",
    digest: Digest = None,
    yes: Yes = False,
    _app: App = None,
    _json: Json = False,
) -> None:
    """Make a copy of a run from a point, for a try. Its stages are done in earnest."""
    session = session_of(context)
    given: dict[str, Any] = {"at": at, "key": key}
    _do(session, "fork", run, given, by=by, reason=reason, digest=digest, yes=yes)


def _end(key: str, result: str | None, expires_in: float | None) -> dict[str, Any]:
    return {
        "key": key,
        "result": None if result is None else read_json(result, what="--result"),
        "expires_in": None if expires_in is None else timedelta(hours=expires_in),
    }


def _object(source: str, *, what: str) -> dict[str, Any]:
    value = read_json(source, what=what)
    if not isinstance(value, dict):
        raise CommandRefused(f"{what} is an object, each argument by its name: '{{\"days\": 3}}'")
    return value


def _do(
    session: Session,
    name: str,
    run: str,
    given: dict[str, Any],
    *,
    by: str,
    reason: str,
    digest: str | None,
    yes: bool,
) -> None:
    """Preview, ask, apply what was shown."""
    no_app = load_app_if_there(session)
    printer = Printer(session)
    with session.client() as client:
        verb: Callable[..., Result] = getattr(client.operations, name)
        preview = verb(run, **given, dry_run=True).preview
        assert preview is not None  # noqa: S101 - a dry run has one
        if not printer.as_json:
            printer.out.print(_page(preview), crop=False)
        if preview.lacks_code:
            printer.note(_how_code_comes(session, no_app), "yellow")
        applied, shown = False, preview.run_id
        if yes or (not printer.as_json and _agreed()):
            result = verb(
                run, **given, by=by or os_user(), reason=reason, digest=digest or preview.digest
            )
            applied, shown = result.is_applied, result.new_run_id or result.run_id
    printer.emit(_document(run, preview, applied, shown), lambda: _ending(shown, applied))


def _how_code_comes(session: Session, no_app: str) -> str:
    """What to do about code that wasn't at hand. `no_app`: why no app was imported."""
    why = no_app or (
        f"{session.app} hasn't the code that the run stands on: name an app that has it (--app). "
        "`perennial processes` says which workers do."
    )
    return f"The run's code could not be looked at: {why}"


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise CommandRefused("nobody is there to ask: --yes does what is shown")
    return typer.confirm("Do it?", err=True)


def _document(run: str, preview: Preview, applied: bool, shown: UUID) -> dict[str, Any]:
    return {
        "run": run,
        "verb": preview.verb,
        "applied": applied,
        "run_id": shown,
        "digest": preview.digest,
        "goes_on": preview.goes_on,
        "repeats": preview.repeats,
        "drops": preview.drops,
        "notes": preview.notes,
    }


def _page(preview: Preview) -> Text:
    """What it would do, a line each."""
    page = text(f"{preview.verb} ", "bold") + text(f"{preview.run}, which is {preview.status}")
    for title, lines, style in (
        ("Next", preview.goes_on, "green"),
        ("Done again", preview.repeats, "yellow"),
        ("Counts no more", preview.drops, "yellow"),
        ("Note", preview.notes, "dim"),
    ):
        for line in lines:
            page += text(f"\n  {title:<15}", "dim") + text(line, style)
    return page + text(f"\n  {'Preview':<15}{preview.digest}", "dim")


def _ending(run_id: UUID, applied: bool) -> Text:
    if not applied:
        return text("Nothing was changed.", "yellow")
    return text("Done. ") + text(f"perennial show {run_id}", "green")
