"""`deadline`: when something would be due, before anybody is asked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.output import Printer, text
from orchestrator.cli.session import Json, examples, session_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestrator.core.calendars import Calendar

commands = typer.Typer()

_DAY = "%a %Y-%m-%d"
_MOMENT = f"{_DAY} %H:%M %Z"


@commands.command(
    rich_help_panel="People",
    epilog=examples(
        'perennial deadline "1 business day" "2 business days" --zone Europe/Amsterdam --holidays NL',
        'perennial deadline "16 business hours" 48h --from "2026-05-08 16:00" --zone Europe/Berlin --holidays DE-BY',
        json_shape='{"asked_at", "calendar": {"zone", "hours", "holidays"}, "deadlines": [{"after", "due_at"}], '
        '"holidays": [{"day", "name"}]}',
    ),
)
def deadline(
    context: typer.Context,
    *,
    after: Annotated[
        list[str],
        typer.Argument(
            metavar="AFTER...",
            help="Such as '2 business days', '16 business hours' or '48h': three things.",
        ),
    ],
    asked: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MOMENT", help="When it is asked, such as '2026-05-08 16:00'; now."
        ),
    ] = None,
    zone: Annotated[str, typer.Option(help="Whose clocks count: Europe/Amsterdam.")] = "UTC",
    hours: Annotated[
        str,
        typer.Option(help="When work is done there: 'Mo-Th 09:00-17:00; Fr 09:00-14:00'."),
    ] = "Mo-Fr 09:00-17:00",
    holidays: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="A country's, or with its part: NL, DE-BY.", show_default=False
        ),
    ] = None,
    _json: Json = False,
) -> None:
    """When something is due that is asked at a moment, in elapsed or in working time."""
    from zoneinfo import ZoneInfo

    from orchestrator.core.calendars import Calendar, read_duration

    calendar = Calendar("this one", zone, hours, holidays)
    clock = ZoneInfo(zone)
    asked_at = _moment(asked, clock)
    dues = [(each, calendar.due(asked_at, read_duration(each))) for each in after]
    last = max((due for _, due in dues), default=asked_at)
    kept = calendar.holidays_between(asked_at, last)
    Printer(session_of(context)).emit(
        {
            "asked_at": asked_at.astimezone(UTC),
            "calendar": {"zone": zone, "hours": hours, "holidays": holidays},
            "deadlines": [{"after": each, "due_at": due} for each, due in dues],
            "holidays": [{"day": day.isoformat(), "name": name} for day, name in kept],
        },
        lambda: _page(calendar, asked_at, dues, kept),
    )


def _moment(asked: str | None, zone: Any) -> datetime:
    """Of the zone's clocks, where it names no other."""
    from orchestrator.cli.failures import CommandRefused

    if asked is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(asked.strip())
    except ValueError:
        raise CommandRefused(
            f"{asked!r} is no moment: write a date and a time, such as '2026-05-08 16:00'"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)


def _page(
    calendar: Calendar,
    asked_at: datetime,
    dues: list[tuple[str, datetime]],
    kept: list[tuple[Any, str]],
) -> RenderableType:
    from zoneinfo import ZoneInfo

    from rich.console import Group
    from rich.table import Table

    from orchestrator.cli.times import spell

    zone = ZoneInfo(calendar.zone)
    table = Table.grid(padding=(0, 2))
    when = "" if calendar.is_worked(asked_at) else "outside of working time"
    table.add_row(
        text("asked", "dim"), text(asked_at.astimezone(zone).strftime(_MOMENT)), text(when, "dim")
    )
    for after, due in dues:
        table.add_row(
            text(after, "bold"),
            text(due.astimezone(zone).strftime(_MOMENT)),
            text(f"{spell(int((due - asked_at).total_seconds()))} later", "dim"),
        )
    lines: list[RenderableType] = [table]
    if kept:
        names = ", ".join(f"{name} ({day.strftime(_DAY)})" for day, name in kept)
        lines.append(text(f"No working time: {names}.", "dim"))
    return Group(*lines)
