"""What people see of one run: `run_page` answers its five questions in one look.

What it waits for, who can act, since when, what happens next and when.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import as_json, shortened, text
from orchestrator.cli.times import Clock
from orchestrator.cli.wording import called, command, no_worker, status_text, surely
from orchestrator.core.kinds import kind_of
from orchestrator.core.kinds.base import RunNames
from orchestrator.core.run import RunStatus
from orchestrator.core.undoing import COMPENSATION_FAILED
from orchestrator.core.views import RunView, Wait

PAYLOAD_CHARACTERS_MAX = 400
"""How much of a payload a page shows; --json shows all."""

MESSAGE_CHARACTERS_MAX = 4000
"""How much of an error's message a page shows: a long diff, and not a payload that was raised."""

CHILDREN_MAX = 3
"""So many children a page names; `perennial tree` draws all."""

DETAIL_CHARACTERS_MAX = 160
"""How much of the first line about a wait; `history` and --json have the rest."""


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


def _headline(run: RunView) -> Text:
    line = text(f"{run.process} v{run.version}", "bold")
    if run.business_key:
        line += Text("  ·  ", "dim") + text(run.business_key, "bold")
    return line + Text("  ·  ", "dim") + status_text(run.status)


def _facts(run: RunView, clock: Clock) -> Table:
    facts: list[tuple[str, object]] = [("run", run.id), ("created", clock.both(run.created_at))]
    if run.closed_at:
        facts.append((f"{run.status}", clock.both(run.closed_at)))
    else:
        facts.append(("last progress", clock.both(run.last_progress_at)))
    if run.status_text:
        facts.insert(0, ("says", run.status_text))
    if run.chapter_at:
        facts.append(("chapter", f"{run.chapter}, since {clock.both(run.chapter_at)}"))
    if run.is_unserved:
        facts.append(("needs", no_worker(run)))
    if run.former_key is not None:
        facts.append(("key", f"{run.former_key}, until it was started anew"))
    if run.followed_by:
        facts.append(("followed by", run.followed_by))
    if run.follows:
        facts.append(("follows", run.follows))
    facts += _family(run)
    if run.previous_stage:
        facts.append(("last stage", run.previous_stage))
    if run.input is not None:
        facts.append(("input", shortened(run.input, PAYLOAD_CHARACTERS_MAX)))
    if run.attributes:
        facts.append(("attributes", shortened(run.attributes, PAYLOAD_CHARACTERS_MAX)))
    return _facts_table(facts)


def _family(run: RunView) -> Iterator[tuple[str, object]]:
    if run.parent_id:
        line = f", which awaits it as {run.parent_key}" if run.parent_key else ""
        yield "child of", f"run {run.parent_id}{line}"
    if run.children_started:
        yield "children", _children(run)


def _children(run: RunView) -> str:
    """Those that are open by name, up to a few; `tree` has all of them."""
    shown = [
        f"{child.process} {child.business_key or child.id} {child.status}"
        for child in run.children[:CHILDREN_MAX]
    ]
    more = run.children_started - len(shown)
    return "; ".join(shown) + (
        f"; and {more} more (perennial tree {called(run)})" if more > 0 else ""
    )


def _wait(run: RunView, wait: Wait, clock: Clock) -> RenderableType:
    what = f"{wait.kind} {wait.name}"
    if wait.key != wait.name:
        what += f" ({wait.key})"
    if wait.attempt > 1:
        what += f", attempt {wait.attempt}"
    if wait.detail:
        first_line = wait.detail.partition("\n")[0]
        what += f": {shortened(first_line, DETAIL_CHARACTERS_MAX)}"
    if wait.heartbeat_at is not None:
        said = (
            ""
            if wait.heartbeat is None
            else f": {shortened(wait.heartbeat, DETAIL_CHARACTERS_MAX)}"
        )
        what += f"; its last heartbeat {clock.relative(wait.heartbeat_at)}{said}"
    if wait.changed:
        what += f"; changed since it was asked: {wait.changed}"
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
    names = RunNames(called(run), surely(run.id, run.business_key, run.follows))
    who = tuple(map(shlex.quote, wait.who))
    line = kind_of(wait.kind).typed(names, shlex.quote(wait.key), shlex.quote(wait.name), who)
    return f"{line} --edition {wait.edition}" if line and wait.edition else line


def _upcoming(
    run: RunView, upcoming: Iterable[tuple[str, Any]], clock: Clock
) -> list[tuple[str, str]]:
    events = list(upcoming)
    if run.expires_at is not None and not run.status.is_closed:
        events.append(("the run expires", run.expires_at))
    events.sort(key=lambda event: event[1])
    return [(what, f"{clock.upcoming(at)}  ({clock.stamp(at)})") for what, at in events]


def _facts_table(facts: Iterable[tuple[str, object]]) -> Table:
    """Names at the left, values at the right, folded under themselves."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(name, value if isinstance(value, Text) else text(value))
    return grid


def _answers(
    *, what: str, who: str, since: str, upcoming: Sequence[tuple[str, str]], act: str = ""
) -> RenderableType:
    """The five questions, always all of them."""
    grid = _facts_table(
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
    verb = "retry" if error.get("type") == COMPENSATION_FAILED else "resume"
    answers = _answers(
        what="an operator: the run is parked as an incident",
        who="an operator, once the cause is mended",
        since=clock.both(run.last_progress_at),
        upcoming=_upcoming(run, (), clock),
        act=f"perennial {verb} {called(run)}",
    )
    advice = (
        "Nothing was lost and nothing is done twice: `resume` takes the turn again, and parks the "
        "run again if the cause is still there. `retry` gives what failed all of its attempts anew; `skip`, "
        "`edit` and `rewind` go another way (docs/re-entry.md)."
    )
    return Group(
        answers,
        Text(),
        text(f"{error.get('type', 'incident')}", "bold red"),
        _diff(error),
        *_advice(error),
        *_cause(error),
        *_tracebacks(run),
        Text(),
        Text(advice, "dim"),
    )


def _advice(error: dict[str, Any]) -> list[RenderableType]:
    """What its flow's author might have chosen instead."""
    advice = error.get("advice")
    return [Padding(text(str(advice), "dim"), (0, 0, 0, 2))] if advice else []


def _cause(error: dict[str, Any]) -> list[RenderableType]:
    """By which other runs have failed, perhaps."""
    digest = error.get("cause")
    if not digest:
        return []
    return [
        command(
            f"perennial incidents {shlex.quote(str(digest))}",
            label="  Others like it: ",
            style="dim",
        )
    ]


def _tracebacks(run: RunView) -> list[RenderableType]:
    """Those of the activities that failed; the run's own where it adds to them. Lines to read and to copy."""
    own = (run.error or {}).get("traceback")
    found = [
        (
            f"{failed.key}, attempt {failed.attempt}" + (f": {failed.why}" if failed.why else ""),
            failed.traceback,
        )
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
        parts += _cause(run.error)
        parts += _tracebacks(run)
    if run.followed_by:
        parts += [
            Text(),
            command(f"perennial show {run.followed_by}", label="It was started anew: "),
        ]
    elif run.status is RunStatus.FAILED:
        advice = "Mend the cause, and let it go on from here: "
        parts += [
            Text(),
            command(f"perennial retry {called(run)}", label=advice),
            command(f"perennial restart {called(run)}", label="Or start it once more: "),
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
