"""What people see: runs, one run, its history, approvals, deployed processes.

`run_page` answers the five questions of a run in one look: what it waits for, who can act, since
when, what happens next and when.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import as_json, shortened, text
from orchestrator.cli.times import Clock
from orchestrator.core.kinds import KINDS
from orchestrator.core.kinds.base import RunNames
from orchestrator.core.run import RunStatus

if TYPE_CHECKING:
    from uuid import UUID

    from orchestrator.core.views import ApprovalView, HistoryEntry, RunSummary, RunView, Wait
    from orchestrator.engine.deploy import Deployed

PAYLOAD_CHARACTERS_MAX = 400
"""How much of a payload a page shows; --json shows all."""

MESSAGE_CHARACTERS_MAX = 4000
"""How much of an error's message a page shows: a long diff, and not a payload that was raised."""

DETAIL_CHARACTERS_MAX = 160
"""How much of the first line about a wait; `history` and --json have the rest."""

FINGERPRINT_CHARACTERS = 12
"""Enough to tell two definitions apart at a glance."""

ONE_LINE_WIDTH = 150
"""From so many columns on, a listing takes one line for each row."""

_STATUS_STYLES = {
    RunStatus.RUNNING: "cyan",
    RunStatus.WAITING: "blue",
    RunStatus.PAUSED: "yellow",
    RunStatus.INCIDENT: "bold red",
    RunStatus.COMPLETED: "green",
    RunStatus.FAILED: "red",
    RunStatus.CANCELLED: "magenta",
    RunStatus.EXPIRED: "magenta",
}


def runs_table(
    runs: Sequence[RunSummary], clock: Clock, *, width: int, asked: str = ""
) -> RenderableType:
    """`ps`: newest first. A run goes by its business key, if it has one: commands take either.

    `asked`: what was asked for, where that wasn't all of them.
    """
    if not runs and asked:
        return text(f"No run {asked}. `perennial ps` without options lists all.", "dim")
    if not runs:
        return Text("No runs. `perennial start PROCESS` starts one.", "dim")
    return _listing(
        (("RUN", "PROCESS"), ("STATUS", "PROGRESS"), ("WAITING FOR", "NEXT TIMER")),
        [
            (
                text(run.business_key or run.id, "bold"),
                text(f"{run.process} v{run.version}"),
                _status(run.status),
                text(clock.relative(run.last_progress_at)),
                text("" if run.closed_at else run.waiting_for or run.stage or ""),
                text(
                    clock.upcoming(run.next_timer_at)
                    if run.next_timer_at and not run.closed_at
                    else ""
                ),
            )
            for run in runs
        ],
        width=width,
    )


def run_page(run: RunView, clock: Clock) -> RenderableType:
    """`show`: who the run is, then the five answers for each of its waits."""
    parts: list[RenderableType] = [
        _headline(run),
        Padding(_facts(run, clock), (0, 0, 0, 2), expand=False),
        Text(),
    ]
    if run.status is RunStatus.INCIDENT:
        parts += [_incident(run, clock)]
    elif run.status is RunStatus.PAUSED:
        parts += [
            _answers(
                what="an operator, who paused it",
                who="an operator",
                since=clock.both(run.last_progress_at),
                upcoming=_upcoming(run, (), clock),
                act=f"perennial resume {called(run)}",
            )
        ]
    elif run.status.is_closed:
        parts += [_ending(run, clock)]
    else:
        for wait in run.waits:
            parts += [_wait(run, wait, clock), Text()]
        if run.untaken_turn or not run.waits:
            parts += [_turn(run, clock), Text()]
        parts.pop()
        parts += _tracebacks(run)
    return Group(*parts)


def history_table(entries: Iterable[HistoryEntry], clock: Clock, *, width: int) -> RenderableType:
    """`history`: every fact, oldest first."""
    return _listing(
        (("AT", "WHO"), ("WHAT", "ACTIVITY"), ("STATUS", "DETAIL")),
        [
            (
                text(clock.stamp(entry.at)),
                text(entry.actor),
                text(entry.event, "bold"),
                text(_activity(entry)),
                text(_move(entry)),
                text(
                    ", ".join(
                        f"{name}={shortened(value, 80)}" for name, value in entry.detail.items()
                    )
                ),
            )
            for entry in entries
        ],
        width=width,
    )


def inbox(
    approvals: Sequence[ApprovalView], clock: Clock, *, person: str | None, width: int
) -> RenderableType:
    """`approvals`: what waits for people, oldest first, and the line that decides it."""
    if not approvals:
        return Text(f"Nothing waits for {person}." if person else "No open approvals.", "dim")
    listing = _listing(
        (("RUN", "PROCESS"), ("APPROVAL", "WHO CAN ACT"), ("ASKED", "NEXT", "")),
        [
            (
                text(approval.business_key or approval.run_id, "bold"),
                text(approval.process),
                text(_asking(approval)),
                text(
                    ", ".join(approval.assignees) + (" (escalated)" if approval.escalated else "")
                ),
                text(clock.relative(approval.opened_at)),
                text(_escalates(approval, clock)),
                text(f"times out {clock.upcoming(approval.deadline)}" if approval.deadline else ""),
            )
            for approval in approvals
        ],
        width=width,
    )
    first = approvals[0]
    run = _surely(first.run_id, first.business_key, first.follows)
    by = shlex.quote(person or first.assignees[0])
    line = f'perennial approve {run} {shlex.quote(first.key)} --by {by} --comment "..."'
    return Group(listing, Text(), command(line, label="Decide  "))


def deployed_table(deployed: Iterable[Deployed], *, width: int) -> RenderableType:
    """`deploy`: what the record holds now."""
    return _listing(
        (("PROCESS",), ("VERSION",), ("FINGERPRINT",), ("",)),
        [
            (
                text(each.name, "bold"),
                text(each.version),
                text(each.fingerprint[:FINGERPRINT_CHARACTERS]),
                _news(each),
            )
            for each in deployed
        ],
        width=width,
    )


def _news(deployed: Deployed) -> Text:
    if deployed.created:
        news = Text("new", "green")
    elif deployed.replaced:
        news = Text("replaced: no run had used it", "green")
    else:
        news = Text("unchanged", "dim")
    if deployed.unchecked:
        news += text(f"; inputs are unchecked: {deployed.unchecked}", "yellow")
    return news


def facts_table(facts: Iterable[tuple[str, object]]) -> Table:
    """Names at the left, values at the right, folded under themselves."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(name, value if isinstance(value, Text) else text(value))
    return grid


def _surely(run_id: UUID, business_key: str | None, follows: UUID | None) -> str:
    """The run as one types it to decide: a key that a former run had too may mean that one."""
    return shlex.quote(business_key if business_key and follows is None else str(run_id))


def called(run: RunView) -> str:
    """The run as one types it in a shell."""
    return shlex.quote(run.business_key or str(run.id))


def command(line: str, *, label: str = "", style: str = "green") -> Text:
    """A line to copy, so it is never folded."""
    shown = Text(label, "dim") + text(line, style)
    shown.no_wrap, shown.overflow = True, "ignore"
    return shown


def _listing(
    groups: Sequence[tuple[str, ...]], rows: Sequence[tuple[Text, ...]], *, width: int
) -> Table:
    """A line for each row where there is room (or a pipe), else a group's fields stacked."""
    is_wide = width >= ONE_LINE_WIDTH
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.header_style = "dim"
    for group in groups:
        for header in group if is_wide else ("\n".join(group),):
            table.add_column(header, overflow="fold")
    table.columns[0].no_wrap = True
    for row in rows:
        fields = iter(row)
        cells = [[next(fields) for _ in group] for group in groups]
        if is_wide:
            table.add_row(*row)
        else:
            table.add_row(*(_stack(cell) for cell in cells))
    return table


def _stack(fields: Sequence[Text]) -> Text:
    first, *rest = fields
    for field in rest:
        field.stylize("dim")
    return Text("\n").join(field for field in (first, *rest) if field or field is first)


def _activity(entry: HistoryEntry) -> str:
    attempt = entry.attempt or 1
    return (entry.key or "") + (f" (attempt {attempt})" if attempt > 1 else "")


def _move(entry: HistoryEntry) -> str:
    if entry.from_status and entry.from_status != entry.to_status:
        return f"{entry.from_status} → {entry.to_status}"
    return entry.to_status or ""


def _asking(approval: ApprovalView) -> str:
    """Its name, and its key where that is another: a name may be asked more than once."""
    is_one = approval.key == approval.name
    return approval.name if is_one else f"{approval.name} ({approval.key})"


def _escalates(approval: ApprovalView, clock: Clock) -> str:
    if approval.escalates_at is None or approval.escalated:
        return ""
    return f"escalates {clock.upcoming(approval.escalates_at)}"


def _status(status: RunStatus) -> Text:
    return Text(status, _STATUS_STYLES[status])


def _headline(run: RunView) -> Text:
    line = text(f"{run.process} v{run.version}", "bold")
    if run.business_key:
        line += Text("  ·  ", "dim") + text(run.business_key, "bold")
    return line + Text("  ·  ", "dim") + _status(run.status)


def _facts(run: RunView, clock: Clock) -> Table:
    facts: list[tuple[str, object]] = [("run", run.id), ("created", clock.both(run.created_at))]
    if run.closed_at:
        facts.append((f"{run.status}", clock.both(run.closed_at)))
    else:
        facts.append(("last progress", clock.both(run.last_progress_at)))
    if run.former_key is not None:
        facts.append(("key", f"{run.former_key}, until it was started anew"))
    if run.followed_by:
        facts.append(("followed by", run.followed_by))
    if run.follows:
        facts.append(("follows", run.follows))
    if run.previous_stage:
        facts.append(("last stage", run.previous_stage))
    if run.input is not None:
        facts.append(("input", shortened(run.input, PAYLOAD_CHARACTERS_MAX)))
    if run.attributes:
        facts.append(("attributes", shortened(run.attributes, PAYLOAD_CHARACTERS_MAX)))
    return facts_table(facts)


def _wait(run: RunView, wait: Wait, clock: Clock) -> RenderableType:
    what = f"{wait.kind} {wait.name}"
    if wait.key != wait.name:
        what += f" ({wait.key})"
    if wait.attempt > 1:
        what += f", attempt {wait.attempt}"
    if wait.detail:
        first_line = wait.detail.partition("\n")[0]
        what += f": {shortened(first_line, DETAIL_CHARACTERS_MAX)}"
    return _answers(
        what=what,
        who=", ".join(wait.who) or "nobody: it goes on by itself",
        since=clock.both(wait.since),
        upcoming=_upcoming(run, [(next_.what, next_.at) for next_ in wait.next], clock),
        act=_act_on(run, wait),
    )


def _turn(run: RunView, clock: Clock) -> RenderableType:
    queue = f"queue {run.queue}" if run.queue else "the default queue"
    return _answers(
        what="its next turn" + (f": {run.untaken_turn}" if run.untaken_turn else ""),
        who=f"a worker on {queue} that has {run.process} version {run.version}",
        since=clock.both(run.last_progress_at),
        upcoming=_upcoming(run, (), clock) or [("a worker takes the turn", "now")],
    )


def _act_on(run: RunView, wait: Wait) -> str:
    names = RunNames(called(run), _surely(run.id, run.business_key, run.follows))
    who = tuple(map(shlex.quote, wait.who))
    return KINDS[wait.kind].typed(names, shlex.quote(wait.key), shlex.quote(wait.name), who)


def _upcoming(
    run: RunView, upcoming: Iterable[tuple[str, Any]], clock: Clock
) -> list[tuple[str, str]]:
    events = list(upcoming)
    if run.expires_at is not None and not run.status.is_closed:
        events.append(("the run expires", run.expires_at))
    events.sort(key=lambda event: event[1])
    return [(what, f"{clock.upcoming(at)}  ({clock.stamp(at)})") for what, at in events]


def _answers(
    *, what: str, who: str, since: str, upcoming: Sequence[tuple[str, str]], act: str = ""
) -> RenderableType:
    """The five questions, always all of them."""
    grid = facts_table(
        [("Waiting for", text(what, "bold")), ("Who can act", who), ("Since", since)]
    )
    if upcoming:
        for index, (event, when) in enumerate(upcoming):
            shown = text(event) + Text("  ") + text(when, "cyan")
            grid.add_row("Next" if index == 0 else "", shown)
    else:
        grid.add_row("Next", "nothing happens by itself")
    return Group(grid, command(act, label="To act       ")) if act else grid


def _incident(run: RunView, clock: Clock) -> RenderableType:
    error = run.error or {}
    answers = _answers(
        what="an operator: the run is parked as an incident",
        who="an operator, once the cause is mended",
        since=clock.both(run.last_progress_at),
        upcoming=_upcoming(run, (), clock),
        act=f"perennial resume {called(run)}",
    )
    advice = (
        "Nothing was lost and nothing is done twice: `resume` takes the turn again, and parks the "
        "run again if the cause is still there."
    )
    return Group(
        answers,
        Text(),
        text(f"{error.get('type', 'incident')}", "bold red"),
        _diff(error),
        *_tracebacks(run),
        Text(),
        Text(advice, "dim"),
    )


def _tracebacks(run: RunView) -> list[RenderableType]:
    """Those of the activities that failed; the run's own where it adds to them. Lines to read and to copy."""
    own = (run.error or {}).get("traceback")
    found = [
        (f"{failed.key}, attempt {failed.attempt}", failed.traceback)
        for failed in run.failures
        if failed.traceback
    ]
    if own and (run.error or {}).get("type") != "ActivityFailed":
        found.insert(0, ("The flow", own))
    parts: list[RenderableType] = []
    for title, trace in found:
        shown = text(trace.rstrip(), "dim")
        shown.no_wrap, shown.overflow = True, "ignore"
        parts += [Text(), text(title, "red"), shown]
    return parts


def _diff(error: dict[str, Any]) -> Text:
    """The incident's own words; a contradiction has the journal's lines (-) and the flow's (+)."""
    lines = []
    message = str(error.get("message", "no message was recorded"))
    for line in shortened(message, MESSAGE_CHARACTERS_MAX).splitlines():
        style = {"-": "red", "+": "green"}.get(line.strip()[:1], "")
        lines.append(text(f"  {line}", style))
    return Text("\n").join(lines)


def _ending(run: RunView, clock: Clock) -> RenderableType:
    took = clock.both(run.closed_at) if run.closed_at else ""
    parts: list[RenderableType] = [
        _answers(what=f"nothing: it {_ENDED[run.status]}", who="nobody", since=took, upcoming=())
    ]
    if run.error:
        parts += [Text(), text(run.error.get("type") or "error", "bold red"), _diff(run.error)]
        parts += _tracebacks(run)
    if run.followed_by:
        parts += [
            Text(),
            command(f"perennial show {run.followed_by}", label="It was started anew: "),
        ]
    elif run.status is not RunStatus.COMPLETED:
        advice = "It stays so. Mend the cause, and start it once more: "
        parts += [Text(), command(f"perennial restart {called(run)}", label=advice)]
    if run.output is not None:
        shown = as_json(run.output)
        if len(shown) > PAYLOAD_CHARACTERS_MAX:
            shown = shortened(run.output, PAYLOAD_CHARACTERS_MAX)
        parts += [Text(), Text("Output", "dim"), text(shown)]
    return Group(*parts)


_ENDED = {
    RunStatus.COMPLETED: "completed",
    RunStatus.FAILED: "failed",
    RunStatus.CANCELLED: "was cancelled",
    RunStatus.EXPIRED: "expired",
}
