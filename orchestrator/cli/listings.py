"""What people see of many: runs, history, open approvals, deployed processes."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import shortened, text
from orchestrator.cli.times import Clock
from orchestrator.cli.wording import command, no_worker, status_text, surely
from orchestrator.core.run import RunStatus
from orchestrator.core.views import ApprovalView, HistoryEntry, RunSummary
from orchestrator.engine.check import Checked, Edit
from orchestrator.engine.deploy import Deployed

FINGERPRINT_CHARACTERS = 12
"""Enough to tell two definitions apart at a glance."""

WHY_CHARACTERS_MAX = 120
"""So much of a reason stands in a listing; `show` and `--json` have more."""

ONE_LINE_WIDTH = 150
"""From so many columns on, a listing takes one line for each row."""


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
                status_text(run.status),
                text(clock.relative(run.last_progress_at)),
                text(_waits(run)),
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


def _waits(run: RunSummary) -> str:
    if run.closed_at:
        return run.status_text
    waits = _waits_for(run)
    return f"{run.status_text}; {waits}" if run.status_text and waits else run.status_text or waits


def _waits_for(run: RunSummary) -> str:
    if not run.is_unserved:
        return run.waiting_for or run.stage or ""
    if run.status is RunStatus.WAITING and run.waiting_for:
        return f"{run.waiting_for}; then {no_worker(run)}"
    return no_worker(run)


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
                text(_asking(approval) + _edition(approval) + _progress(approval) + _why(approval)),
                text(
                    ", ".join(approval.to_decide) + (" (escalated)" if approval.escalated else "")
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
    run = surely(first.run_id, first.business_key, first.follows)
    by = shlex.quote(person or next(iter(first.to_decide or first.assignees)))
    seen = f" --edition {first.edition}" if first.edition else ""
    line = f'perennial approve {run} {shlex.quote(first.key)} --by {by}{seen} --comment "..."'
    return Group(listing, Text(), command(line, label="Decide  "))


def _progress(approval: ApprovalView) -> str:
    """Of one that several decide: `; 1 of 2 approved`."""
    return f"; {approval.progress.partition(';')[0]}" if approval.progress else ""


def _why(approval: ApprovalView) -> str:
    """Of one whose name doesn't say it: what a stage has failed by."""
    first_line = approval.why.partition("\n")[0]
    return f"\n{shortened(first_line, WHY_CHARACTERS_MAX)}" if first_line else ""


def _edition(approval: ApprovalView) -> str:
    """Of one that was changed, or asked anew: whoever decides by its key names it."""
    if not approval.edition:
        return f"; {approval.changed}" if approval.changed else ""
    return f"; edition {approval.edition}: {approval.changed or 'asked anew'}"


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


def _edit_of(edit: Edit) -> str:
    unseen = f"; not looked into: {', '.join(edit.unseen)}" if edit.unseen else ""
    return f"{edit.process} v{edit.version}: class of the edit: {edit.edit}{unseen}"


def checked_page(checked: Checked) -> RenderableType:
    """`check`: worst first, each group with what to do."""
    if not checked.runs:
        return text("No run is open.", "dim")
    blocks: list[RenderableType] = []
    for group in checked.groups:
        more = group.runs - len(group.samples)
        named = ", ".join(group.samples) + (f" and {more} more" if more else "")
        runs = "1 run" if group.runs == 1 else f"{group.runs} runs"
        head = text(group.found, "green" if group.found.goes_on else "bold red")
        lines = [
            head + text(f"  {runs} of {group.process} v{group.version}", "bold"),
            text(f"  {named}", "dim"),
        ]
        if group.reason:
            lines += [text(f"  {line}") for line in group.reason.splitlines()]
        if group.remedy:
            lines.append(text(f"  → {group.remedy}", "yellow"))
        blocks += [Group(*lines), Text()]
    blocks += [text(f"{use.process} v{use.version}: {use}", "dim") for use in checked.patches]
    blocks += [text(_edit_of(each), "dim") for each in checked.edits]
    verdict = (
        text("Every open run can go on with this code.", "green")
        if checked.is_safe
        else text("Some runs could not go on with this code.", "bold red")
    )
    return Group(*blocks, verdict)


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
