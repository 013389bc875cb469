"""The people of the demo, as a process of their own: they know the public Client and nothing else.

    python -m demo.people --plan plan.jsonl --taken taken.jsonl --arrival-seconds 60

They start the planned runs, evenly over the arrival window, with the trace's name as business key.
They look at their inbox (approvals opened since they last looked) and decide each one when the log
says so, counted from the moment they were asked. Decisions that come too late are sent as well; the
record must refuse them. They go home when every run is closed and nobody has anything left to say.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import ParamSpec, TextIO, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

from demo.plan import (
    GAVE_UP_STATUS,
    PROCESSES,
    PlannedDecision,
    PlannedRun,
    TakenDecision,
    read_lines,
)
from orchestrator.client import Client
from orchestrator.core.views import ApprovalView
from orchestrator.errors import AlreadyDecided, DecisionRefused

LOOK_SECONDS = 0.1
"""How often people look at their inbox."""

ASK_WHETHER_ALL_IS_CLOSED_SECONDS = 1.0

INBOX_BATCH = 200
"""How many approvals are read at once."""

OVERLAP = timedelta(seconds=1)
"""An approval may become visible this much after its `opened_at`: its turn had yet to commit."""

SWEEP_SECONDS = 5.0
"""How often people look through every open approval, in case one became visible later still."""

RETRY_SECONDS = 0.25
RETRIES_MAX = 80
"""A database that is away may stay away for twenty seconds."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(order=True, slots=True)
class _Due:
    """A decision somebody will take, in order of time."""

    at: datetime
    approval: ApprovalView = field(compare=False)
    planned: PlannedDecision = field(compare=False)


class People:
    """Everybody who requests and decides. `run` returns when there is nothing left to do."""

    def __init__(
        self, client: Client, plan: Sequence[PlannedRun], taken: TextIO, *, arrival_seconds: float
    ) -> None:
        self._client = client
        self._plan = plan
        self._decisions = {run.trace_id: run.decisions for run in plan}
        self._taken = taken
        self._seconds_between_starts = arrival_seconds / max(1, len(plan))
        self._started = 0
        self._seen: set[tuple[str, str]] = set()
        self._agenda: list[_Due] = []
        self._read_up_to: datetime | None = None

    def run(self, *, give_up_after_seconds: float) -> bool:
        """Start and decide everything. False when time is up before every run is closed."""
        began = time.monotonic()
        look_at = sweep_at = ask_at = began
        rest = Event()
        while time.monotonic() - began < give_up_after_seconds:
            self._start_due(time.monotonic() - began)
            now = time.monotonic()
            if now >= sweep_at:
                sweep_at = now + SWEEP_SECONDS
                self._read_up_to = None
            if now >= look_at:
                look_at = now + LOOK_SECONDS
                self._look_at_inbox()
            self._decide_due()
            if now >= ask_at and self._all_said():
                ask_at = now + ASK_WHETHER_ALL_IS_CLOSED_SECONDS
                if self._all_closed():
                    return True
            rest.wait(self._seconds_to_next_decision())
        return False

    def _start_due(self, elapsed_seconds: float) -> None:
        while (
            self._started < len(self._plan)
            and self._started * self._seconds_between_starts <= elapsed_seconds
        ):
            run = self._plan[self._started]
            patiently(
                self._client.start,
                run.process,
                run.input,
                key=run.trace_id,
                by=run.input["requester"],
            )
            self._started += 1

    def _look_at_inbox(self) -> None:
        after = self._read_up_to
        while True:
            batch = patiently(self._client.approvals, limit=INBOX_BATCH, opened_after=after)
            for approval in batch:
                self._note(approval)
            if batch:
                after = batch[-1].opened_at
                self._read_up_to = after - OVERLAP
            if len(batch) < INBOX_BATCH:
                return

    def _note(self, approval: ApprovalView) -> None:
        trace_id = approval.business_key or ""
        if (trace_id, approval.name) in self._seen:
            return
        self._seen.add((trace_id, approval.name))
        planned = self._decisions.get(trace_id, {}).get(approval.name)
        if planned is not None:
            at = approval.opened_at + timedelta(seconds=planned.delay_seconds)
            heapq.heappush(self._agenda, _Due(at, approval, planned))

    def _decide_due(self) -> None:
        while self._agenda and self._agenda[0].at <= datetime.now(UTC):
            taken = self._decide(heapq.heappop(self._agenda))
            self._taken.write(taken.model_dump_json() + "\n")
            self._taken.flush()

    def _decide(self, due: _Due) -> TakenDecision:
        outcome = "approved" if due.planned.approved else "rejected"
        taken = TakenDecision(
            trace_id=due.approval.business_key or "",
            approval=due.approval.name,
            intended_at=due.at,
            attempted_at=datetime.now(UTC),
        )
        try:
            decision = patiently(
                self._client.decide,
                due.approval.run_id,
                due.approval,
                outcome,
                by=due.planned.by,
            )
        except AlreadyDecided as decided:
            # The connection broke after the commit, so the second try met the first.
            if (decided.by, decided.outcome) == (due.planned.by, outcome):
                return taken.model_copy(update={"taken_at": decided.at})
            return taken.model_copy(update={"refused": type(decided).__name__})
        except DecisionRefused as refused:
            return taken.model_copy(update={"refused": type(refused).__name__})
        return taken.model_copy(update={"taken_at": decision.at})

    def _all_said(self) -> bool:
        return self._started == len(self._plan) and not self._agenda

    def _all_closed(self) -> bool:
        counts = [patiently(self._client.operations.counts, process) for process in PROCESSES]
        closed = sum(n for count in counts for status, n in count.items() if status.is_closed)
        return closed >= len(self._plan)

    def _seconds_to_next_decision(self) -> float:
        if not self._agenda:
            return LOOK_SECONDS / 4
        ahead = (self._agenda[0].at - datetime.now(UTC)).total_seconds()
        return min(max(0.0, ahead), LOOK_SECONDS / 4)


def patiently(verb: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`verb(...)`, again while the database is away; safe, since every verb here is idempotent."""
    for _ in range(RETRIES_MAX):
        try:
            return verb(*args, **kwargs)
        except (OperationalError, InterfaceError):
            Event().wait(RETRY_SECONDS)
    return verb(*args, **kwargs)


def main(arguments: Sequence[str] | None = None) -> int:
    """The process's entry point; the database's URL comes from PERENNIAL_DATABASE_URL."""
    parser = argparse.ArgumentParser(prog="python -m demo.people")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--taken", type=Path, required=True)
    parser.add_argument("--arrival-seconds", type=float, required=True)
    parser.add_argument("--give-up-after-seconds", type=float, required=True)
    options = parser.parse_args(arguments)
    plan = list(read_lines(options.plan, PlannedRun))
    with Client() as client, options.taken.open("w", encoding="utf-8") as taken:
        people = People(client, plan, taken, arrival_seconds=options.arrival_seconds)
        finished = people.run(give_up_after_seconds=options.give_up_after_seconds)
    return 0 if finished else GAVE_UP_STATUS


if __name__ == "__main__":
    sys.exit(main())
