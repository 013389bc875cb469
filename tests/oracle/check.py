"""Hold what the record says of a run against what was predicted: every contradiction, in words.

    record = read_record(client, connection, run_id)
    verdict = check(record, prediction, ...)

What at-least-once allows, and nothing more:

- Each loss of an attempt (`attempt handed out again`, or the incident of a last one) explains one more
  call of its stage, and one more of the one step that it was in. It explains no step that was recorded:
  so the calls of a stage, by the steps that they were in, must fit in a row, each beginning where the
  one before it broke off or later.
- Each loss of a turn explains one more call of one inline step of the run. History doesn't tell of
  these: whoever disturbed the fleet says how many there can have been (`turns_lost`).
- What an operator has let go on again (`again`, by key) explains as many calls more as its retries allow, each time;
  and one of each of its steps.
- Without losses and operators there is not one call beyond those that were planned.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from orchestrator import Client
from tests.oracle.effects import Call, Effects
from tests.oracle.effects import effects as the_effects
from tests.oracle.predict import Prediction, Result, Wait, Work
from tests.oracle.programs import FRAIL_ATTEMPTS

LOST = ("attempt handed out again", "incident")
"""The events of an attempt that was lost; only recovery gives them a key."""

ENDS = (
    ("stage done", "stage failed"),
    ("step done", "step failed"),
    ("sleep ended",),
    ("signal consumed", "signal timed out"),
    ("approved", "rejected", "approval timed out"),
    ("callback completed", "callback failed", "callback timed out", "callback fell silent"),
    ("poll is due",),
    ("scope completed",),
    ("block timed out", "block left"),
)
"""Each of these lines is written once for a key, and only one of them."""

CLOSED = ("completed", "failed", "cancelled", "expired")

_RECORD = text("""
SELECT
    (SELECT jsonb_agg(to_jsonb(a)) FROM perennial.activity a WHERE a.run_id = :id) AS activities,
    (SELECT jsonb_agg(to_jsonb(p)) FROM perennial.approval p WHERE p.run_id = :id) AS approvals,
    (SELECT jsonb_agg(to_jsonb(v)) FROM perennial.approval_vote v WHERE v.run_id = :id) AS votes,
    (SELECT jsonb_agg(to_jsonb(s)) FROM perennial.signal s WHERE s.run_id = :id) AS signals,
    (SELECT count(*) FROM perennial.activity WHERE run_id = :id AND settled_at IS NULL) AS open_activities,
    (SELECT count(*) FROM perennial.timer WHERE run_id = :id AND state = 'armed') AS armed_timers,
    (SELECT count(*) FROM perennial.outbox WHERE run_id = :id) AS handoffs,
    (SELECT count(*) FROM perennial.run WHERE id = :id AND turn_token IS NOT NULL) AS held_turns
""")


@dataclass(frozen=True, slots=True)
class Event:
    """A line of history."""

    event: str
    key: str | None
    attempt: int | None
    error_type: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal, a stage's step among them."""

    key: str
    kind: str
    state: str
    attempt: int
    parent: str | None
    result: Any
    error_type: str


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of a run after it has ended."""

    run_id: UUID
    status: str
    output: Any
    error: dict[str, Any] | None
    history: tuple[Event, ...]
    entries: dict[str, Entry]
    approvals: dict[str, tuple[str, str | None]]
    votes: tuple[tuple[str, str], ...]
    signals: tuple[tuple[str, str, str | None], ...]
    leftovers: dict[str, int]
    calls: tuple[Call, ...]


ORIGIN = "origin#"
"""In the journal of a copy: which run it was made of."""


@dataclass
class Operated:
    """What operators have done to a run. `told`: how often each verb was, by its event in history.

    `again`: how often what has that key was let go on again; `reopened`: how often the run was, after it had ended.
    `former`: what was to be called before an operator let the run go another way. `kept`: what a copy has from the run
    that it was made of, for which nothing is called.
    """

    told: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)
    reopened: int = 0
    former: dict[str, Work] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    is_copy: bool = False


BY_HAND = ("skipped", "completed by hand", "failed by hand")
OPERATED = (*BY_HAND, "retried", "rewound", "forked")
"""The events of what operators do."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`contradictions` is empty where all is well.

    `repeats` counts calls beyond those that were planned; `losses`, the lost attempts in history.
    """

    contradictions: tuple[str, ...]
    repeats: int = 0
    losses: int = 0


def read_record(
    client: Client, connection: Connection, run_id: UUID, *, effects: Effects = the_effects
) -> Record:
    """What the record and the table of calls say now."""
    view = client.get(run_id)
    row = connection.execute(_RECORD, {"id": run_id}).one()
    return Record(
        run_id=run_id,
        status=view.status,
        output=view.output,
        error=view.error,
        history=tuple(
            Event(entry.event, entry.key, entry.attempt, (entry.detail or {}).get("type", ""))
            for entry in client.history(run_id)
        ),
        entries={
            line["key"]: Entry(
                line["key"],
                line["kind"],
                line["state"],
                line["attempt"],
                line["parent_key"],
                line["result"],
                (line["error"] or {}).get("type", ""),
            )
            for line in row.activities or ()
        },
        approvals={
            line["key"]: (line["state"], line["decided_by"]) for line in row.approvals or ()
        },
        votes=tuple((line["key"], line["person"]) for line in row.votes or ()),
        signals=tuple(
            (line["name"], line["signal_id"], line["consumed_key"]) for line in row.signals or ()
        ),
        leftovers={
            "open activities": row.open_activities,
            "armed timers": row.armed_timers,
            "handoffs": row.handoffs,
            "held turns": row.held_turns,
            "open approvals": sum(line["state"] == "open" for line in row.approvals or ()),
        },
        calls=tuple(effects.calls_of(run_id)),
    )


def check(
    record: Record,
    prediction: Prediction,
    *,
    turns_lost: int | None = 0,
    attempts_lost: int | None = 0,
    sent: Collection[str] | None = None,
    forgiven: Collection[str] = (),
    operated: Operated | None = None,
) -> Verdict:
    """Every contradiction.

    `turns_lost`, `attempts_lost`: by workers that died, or that were thought dead; None: nobody knows.
    `sent`: the ids of all signals that were taken. `forgiven`: types of errors that the disturbance
    itself may raise in a stage or step, as a lost connection of theirs; each costs an attempt. `operated`: what
    operators have done, and were told that it is done.
    """
    checker = _Checker(
        record, prediction, turns_lost, attempts_lost, sent, forgiven, operated or Operated()
    )
    return Verdict(tuple(checker.contradictions()), checker.repeats(), checker.losses())


class _Checker:
    def __init__(  # noqa: PLR0917 - made in one place, by `check`
        self,
        record: Record,
        prediction: Prediction,
        turns_lost: int | None,
        attempts_lost: int | None,
        sent: Collection[str] | None,
        forgiven: Collection[str],
        operated: Operated,
    ) -> None:
        self.operated = operated
        self.record, self.prediction = record, prediction
        self.turns_lost, self.attempts_lost = turns_lost, attempts_lost
        self.sent, self.forgiven = sent, forgiven
        self.calls: Mapping[str, list[Call]] = defaultdict(list)
        for call in record.calls:
            self.calls[call.key].append(call)
        self.lost = Counter(
            event.key
            for event in record.history
            if event.key
            and (
                event.event in LOST
                or (event.event == "attempt failed" and event.error_type in forgiven)
            )
        )

    def contradictions(self) -> Iterator[str]:
        yield from self.of_the_end()
        yield from self.of_leftovers()
        yield from self.of_history()
        yield from self.of_what_nobody_asked_for()
        for work in self.prediction.work.values():
            yield from self.of_work(work)
        yield from self.of_lost_turns()
        for wait in self.prediction.waits.values():
            yield from self.of_wait(wait)
        yield from self.of_signals()

    # -- how it ended ----------------------------------------------------------------------------

    def of_the_end(self) -> Iterator[str]:
        record, expected = self.record, self.prediction
        if record.status != expected.status:
            why = f" ({record.error})" if record.error else ""
            yield f"the run is {record.status}, not {expected.status}{why}"
            return
        if expected.status == "completed":
            output = self.filled(expected.output)
            if record.output != output:
                yield f"the output is {record.output}, not {output}"
        elif expected.error is not None:
            found, (error_type, says) = record.error or {}, expected.error
            if found.get("type") != error_type:
                yield f"the error is a {found.get('type')}, not a {error_type}"
            message = found.get("message", "")
            yield from (
                f"the error says {message!r}, not {each!r}" for each in says if each not in message
            )

    def filled(self, told: Any) -> Any:
        """The predicted output, with what the record holds in place of each Result."""
        if isinstance(told, Result):
            entry = self.record.entries.get(told.key)
            return entry.result if entry is not None else f"(no result of {told.key})"
        return [self.filled(each) for each in told] if isinstance(told, list) else told

    def of_leftovers(self) -> Iterator[str]:
        yield from (
            f"{count} {what} left over" for what, count in self.record.leftovers.items() if count
        )

    def of_history(self) -> Iterator[str]:
        for family in ENDS:
            counted = Counter(each.key for each in self.record.history if each.event in family)
            for key, count in counted.items():
                if count > 1 + self.operated.again[key or ""]:
                    yield f"{key} ended {count} times: {' or '.join(family)}"
        closings = [each.event for each in self.record.history if each.event in CLOSED]
        told = Counter(each.event for each in self.record.history if each.event in OPERATED)
        if told != self.operated.told:
            yield f"operators have done {dict(self.operated.told)}, and history tells {dict(told)}"
        if len(closings) != 1 + self.operated.reopened:
            yield f"the run was closed {len(closings)} times: {closings}"
        for each in self.record.history:
            if each.event == "attempt failed" and each.error_type not in ("Broken", *self.forgiven):
                yield f"attempt {each.attempt} of {each.key} failed by {each.error_type}, and none was to"
            if each.event == "incident" and not self.is_explained(each):
                yield f"the run was parked ({each.error_type}), and nothing was to park it"

        lost = sum(
            each.event in LOST and each.error_type == "WorkerLost" for each in self.record.history
        )
        if self.attempts_lost is not None and lost > self.attempts_lost:
            yield f"{lost} attempts were lost, and no more than {self.attempts_lost} workers with one"

    def is_explained(self, incident: Event) -> bool:
        """Its worker was lost at the last of few attempts."""
        key = incident.key or ""
        work = self.prediction.work.get(key) or self.operated.former.get(key)
        return work is not None and work.is_limited and incident.error_type == "WorkerLost"

    def of_what_nobody_asked_for(self) -> Iterator[str]:
        known = self.prediction.work.keys() | self.prediction.waits.keys()
        known |= {ORIGIN} if self.operated.is_copy else set()
        yield from (
            f"{key} is in the journal, and nobody was to ask for it"
            for key in self.record.entries.keys() - known
        )
        former = self.operated.former
        yield from (
            f"{key} was called, and nobody was to call it"
            for key in self.calls.keys() - known - former.keys()
        )
        for key in (self.calls.keys() & former.keys()) - known:
            yield from self.of_calls(former[key])

    # -- what was called -------------------------------------------------------------------------

    def of_work(self, work: Work) -> Iterator[str]:
        calls, entry = len(self.calls.get(work.key, ())), self.record.entries.get(work.key)
        kept = (
            self.operated.kept
        )  # a step that a copy has kept, or a stage of which it has kept one
        is_kept = work.key in kept or any(each.rpartition("/")[0] == work.key for each in kept)
        is_vague = not work.is_certain or work.hand is not None or is_kept
        least = 0 if is_vague else 1 if work.is_limited else work.calls
        if calls < least:
            yield f"{work.key} was called {calls} times, and not {least} times at least"
        yield from self.of_calls(work)
        if (
            work.kind == "stage" and not self.operated.again[work.key]
        ):  # its steps may go again, too
            yield from self.of_repeated_steps(work)
        if entry is None or entry.state == "cancelled":
            if work.is_certain:
                yield f"{work.key} was not done"
            return
        if entry.state != work.state:
            yield f"{work.key} is {entry.state}, not {work.state}"
        elif work.hand is not None:
            if (entry.result, entry.error_type) != (work.hand.result, work.hand.error):
                yield f"{work.key} has not the end that it was given, {work.hand}: {entry}"
        elif work.state == "failed" and not self.fits(work, entry.error_type):
            yield f"{work.key} failed by {entry.error_type}, not by {work.error}"
        elif work.state == "done":
            yield from self.of_result(work, entry.result)

    def of_calls(self, work: Work) -> Iterator[str]:
        """Not too many."""
        calls = len(self.calls.get(work.key, ()))
        lost, again = self.lost[work.parent or work.key], self.allowed_again(work)
        planned = self.planned(work)
        if work.kind != "inline" and calls > planned + lost + again:
            yield f"{work.key} was called {calls} times: {planned} were planned, {lost} attempts lost, {again} again"

    def planned(self, work: Work) -> int:
        """So many calls. Where a copy has kept a step of a stage that it does itself, that is not called."""
        return 0 if work.key in self.operated.kept else work.calls

    def allowed_again(self, work: Work) -> int:
        """So many calls more than planned, because operators have let it go on again."""
        again = self.operated.again[work.parent or work.key]
        return again * (FRAIL_ATTEMPTS if work.error == "Broken" or work.is_limited else 1)

    def fits(self, work: Work, error_type: str) -> bool:
        return error_type == work.error or (work.is_limited and error_type in self.forgiven)

    def of_result(self, work: Work, result: Any) -> Iterator[str]:
        """It is that of one of the calls, and that call stands on what is recorded."""
        found = re.fullmatch(r"(.+?)@(\d+)(?:\[(.*)\])?", str(result))
        if found is None or found[1] != work.label:
            yield f"the result of {work.key} is {result!r}"
            return
        steps = [
            entry.result
            for entry in self.record.entries.values()
            if entry.parent == work.key and entry.state == "done"
        ]
        told = found[3].split(",") if found[3] else []
        if sorted(told) != sorted(map(str, steps)):
            yield f"{work.key} tells of its steps {told}, and recorded are {steps}"
        if work.key in self.operated.kept:
            return  # the run that it was copied from is asked
        call = next(
            (each for each in self.calls.get(work.key, ()) if each.call == int(found[2])), None
        )
        if call is None:
            yield f"the result of {work.key} is that of call {found[2]}, which was never made"
        elif work.kind != "step":
            after = self.record.entries.get(work.after or "")
            stands_on = after.result if after is not None else ""
            if call.seen != stands_on:
                yield f"{work.key} was handed {call.seen!r}, and recorded before it is {stands_on!r}"

    def of_repeated_steps(self, work: Work) -> Iterator[str]:
        """A step that was recorded is never called again: calls of the stage fit in a row."""
        order = [each.key for each in self.prediction.work.values() if each.parent == work.key]
        bodies: dict[int, list[int]] = defaultdict(list)
        for place, key in enumerate(order):
            for call in self.calls.get(key, ()):
                bodies[call.body or 0].append(place)
        spans = sorted((min(places), max(places)) for places in bodies.values())
        for before, after in pairwise(spans):
            if after[0] < before[1]:
                yield f"{order[after[0]]} was called again though {order[before[1]]} had begun"

    def of_lost_turns(self) -> Iterator[str]:
        extra = {
            work.key: count - planned
            for work in self.prediction.work.values()
            if work.kind == "inline"
            and (count := len(self.calls.get(work.key, ())))
            > (planned := self.planned(work) + self.allowed_again(work))
        }
        if self.turns_lost is not None and sum(extra.values()) > self.turns_lost:
            yield f"{extra} more calls of inline steps than planned, and {self.turns_lost} turns were lost"

    # -- what was waited for ---------------------------------------------------------------------

    def of_wait(self, wait: Wait) -> Iterator[str]:
        entry = self.record.entries.get(wait.key)
        if entry is None or (entry.state == "cancelled" and wait.end != "cancelled"):
            if wait.is_certain:
                yield f"{wait.key} has no end"
            return
        if wait.kind == "approval":
            yield from self.of_approval(wait)
        elif entry.state != wait.end:
            yield f"{wait.key} is {entry.state}, not {wait.end}"
        elif wait.hand is not None and entry.result != wait.hand.result:
            yield f"{wait.key} has not the result that it was given, {wait.hand}: {entry}"

    def of_approval(self, wait: Wait) -> Iterator[str]:
        state, by = self.record.approvals.get(wait.key, ("missing", None))
        if (state, by) != (wait.end, wait.by):
            yield f"approval {wait.key} is {state} by {by}, not {wait.end} by {wait.by}"
        votes = [person for key, person in self.record.votes if key == wait.key]
        if votes != ([wait.by] if wait.by and wait.key not in self.operated.kept else []):
            yield f"the votes on {wait.key} are {votes}"

    def of_signals(self) -> Iterator[str]:
        ids = Counter(signal_id for _, signal_id, _ in self.record.signals)
        if self.sent is not None and ids.keys() != set(self.sent):
            yield f"signals {sorted(self.sent)} were sent, and {sorted(ids)} are recorded"
        yield from (f"signal {each} came {count} times" for each, count in ids.items() if count > 1)
        taken = Counter(key for _, _, key in self.record.signals if key is not None)
        yield from (f"{key} was given {count} signals" for key, count in taken.items() if count > 1)
        for name, signal_id, key in self.record.signals:
            if key is not None and _head(key) != name.partition("[")[0]:
                yield f"signal {signal_id} named {name} was given to {key}"

    # -- what is counted -------------------------------------------------------------------------

    def repeats(self) -> int:
        return sum(
            max(0, len(self.calls.get(work.key, ())) - work.calls)
            for work in self.prediction.work.values()
        )

    def losses(self) -> int:
        return sum(self.lost.values())


def _head(key: str) -> str:
    """The name in a key: without its path and its number."""
    return key.rpartition("/")[2].partition("#")[0]


def total(verdicts: Iterable[Verdict]) -> tuple[int, int]:
    """Repeats and losses of them all."""
    found: Sequence[Verdict] = list(verdicts)
    return sum(each.repeats for each in found), sum(each.losses for each in found)
