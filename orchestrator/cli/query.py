"""The options by which commands find runs: one home, so that `ps` lists what a verb over many runs would take.

@queried        gives a command these options; it gets them as one RunFilter, `query`

def ps(context: typer.Context, *, query: RunFilter, limit: ...) -> None: ...
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from orchestrator.cli.failures import CommandRefused
from orchestrator.cli.session import session_of
from orchestrator.cli.times import moment_of
from orchestrator.core import attributes
from orchestrator.core.attributes import Condition
from orchestrator.core.run import RunStatus
from orchestrator.core.selection import Between, RunFilter

_PANEL = "Which runs"


def _options(
    *,
    process: Annotated[
        str | None, typer.Option(help="Of this process.", rich_help_panel=_PANEL)
    ] = None,
    process_version: Annotated[
        int | None,
        typer.Option("--of-version", min=1, help="Of this version of it.", rich_help_panel=_PANEL),
    ] = None,
    revision: Annotated[
        int | None,
        typer.Option(
            "--of-revision", min=1, help="On this revision of its version.", rich_help_panel=_PANEL
        ),
    ] = None,
    status: Annotated[
        list[RunStatus] | None, typer.Option(help="Only these; repeatable.", rich_help_panel=_PANEL)
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="As --status failed.", rich_help_panel=_PANEL)
    ] = False,
    cause: Annotated[
        str | None,
        typer.Option(help="By this cause, as `incidents` names it.", rich_help_panel=_PANEL),
    ] = None,
    error: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="With an error of this class.", rich_help_panel=_PANEL),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(help="That stand, or failed, at this stage.", rich_help_panel=_PANEL),
    ] = None,
    waiting_for: Annotated[
        str | None,
        typer.Option(help="Whose wait begins so: 'approval manager'.", rich_help_panel=_PANEL),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="The run of this business key.", rich_help_panel=_PANEL)
    ] = None,
    key_prefix: Annotated[
        str | None, typer.Option(help="Whose business key begins so.", rich_help_panel=_PANEL)
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="That last moved, or ended, since: 7d, 24h, 30min, a date.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN", help="That last moved, or ended, before.", rich_help_panel=_PANEL
        ),
    ] = None,
    started_since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="That were started since.", rich_help_panel=_PANEL),
    ] = None,
    started_until: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="That were started before.", rich_help_panel=_PANEL),
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=JSON", help="With this attribute; repeatable.", rich_help_panel=_PANEL
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME<VALUE",
            help="With such an attribute, by = < <= > or >=; repeatable.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
) -> None:
    """Each option, for `queried` to read."""


_PARAMETERS = inspect.signature(_options, eval_str=True).parameters


def queried(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of a query, which it gets as `query`."""
    own = inspect.signature(command, eval_str=True)

    @wraps(command)
    def with_query(**given: Any) -> None:
        asked = {name: given.pop(name) for name in _PARAMETERS}
        context: typer.Context = given["context"]
        command(**given, query=_filter_of(asked, session_of(context).now()))

    others = [each for each in own.parameters.values() if each.name != "query"]
    with_query.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=sorted([*others, *_PARAMETERS.values()], key=lambda each: each.kind)
    )
    with_query.__annotations__ = {
        each.name: each.annotation for each in (*others, *_PARAMETERS.values())
    }
    return with_query


def _filter_of(asked: dict[str, Any], now: Any) -> RunFilter:
    def moment(name: str) -> Any:
        return None if asked[name] is None else moment_of(asked[name], now)

    statuses = list(asked["status"] or ())
    if asked["failed"]:
        statuses.append(RunStatus.FAILED)
    return RunFilter(
        process=asked["process"],
        version=asked["process_version"],
        code_revision=asked["revision"],
        statuses=tuple(dict.fromkeys(statuses)),
        cause=asked["cause"],
        error_type=asked["error"],
        stage=asked["stage"],
        waiting_for=asked["waiting_for"],
        key=asked["key"],
        key_prefix=asked["key_prefix"],
        created=Between(moment("started_since"), moment("started_until")),
        progressed=Between(moment("since"), moment("until")),
        attributes=dict(map(_attribute, asked["attribute"] or ())),
        where=tuple(map(_condition, asked["where"] or ())),
    )


def _attribute(typed: str) -> tuple[str, Any]:
    return named_value(typed, option="--attribute")


def _condition(typed: str) -> Condition:
    found = attributes.typed(typed)
    if found is None:
        raise CommandRefused(
            f"--where {typed!r}: say NAME=VALUE, or compare by < <= > or >=, such as 'amount>=100'"
        )
    return found


def named_value(typed: str, *, option: str) -> tuple[str, Any]:
    """`customer=17` is a number, `customer="17"` a text; what is no JSON is taken as a text. Raises CommandRefused."""
    name, is_there, value = typed.partition("=")
    if not is_there or not name:
        raise CommandRefused(f"{option} {typed!r}: say NAME=VALUE, such as team=sales")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
