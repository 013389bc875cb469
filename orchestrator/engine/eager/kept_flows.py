"""Kept flows: a worker's memory of the runs whose turns it has taken last, where they are long.

A turn of a run with thousands of activities costs no more than one of a short run then: its flow goes on from where
it stands, and the record is asked for nothing but what has come since. The record stays the truth: a flow is taken
only where its revision still stands there, and whatever else is found is replayed from the start. (docs/adr/0054)
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from uuid import UUID

from orchestrator.core.kept_flow import KeptFlow, Known, can_be_kept
from orchestrator.core.replay import Replay
from orchestrator.engine.context import NoKeptFlows

LEAST_LINES = 32
"""Of a journal that is shorter a replay costs less than it is worth."""

OPEN_MAX = 100
"""Each claim asks for the lines that were open: of more than these a replay costs as little."""

LINES_MAX = 100_000
"""Of all journals that are kept: a line takes about a kilobyte."""


class KeptFlows(NoKeptFlows):
    """Of one process. The flow that was used last is let go last."""

    def __init__(self, *, least_lines: int = LEAST_LINES, lines_max: int = LINES_MAX) -> None:
        self._least_lines, self._lines_max = least_lines, lines_max
        self._flows: OrderedDict[UUID, KeptFlow] = OrderedDict()
        self._lines = 0
        self._lock = Lock()

    def wants(self, replay: Replay) -> bool:
        """Whether it is long enough, and can be kept."""
        return len(replay.requests.asked) >= self._least_lines and can_be_kept(replay)

    def known(self, run_id: UUID) -> Known | None:
        """Of that run, if it is kept."""
        with self._lock:
            flow = self._flows.get(run_id)
            return None if flow is None else flow.known

    def take(self, run_id: UUID, revision: int, process: object) -> KeptFlow | None:
        """The flow, for its next turn. None: it isn't kept any more, or not as that revision has left it."""
        with self._lock:
            flow = self._flows.get(run_id)
            if flow is None or flow.revision != revision or flow.process is not process:
                return None
            self._remove(run_id)
            return flow

    def put(self, run_id: UUID, flow: KeptFlow) -> None:
        """Keep it until its next turn."""
        with self._lock:
            let_go = [self._remove(run_id)]
            if len(flow.lines) > OPEN_MAX:
                let_go.append(flow)
            else:
                self._flows[run_id] = flow
                self._lines += flow.size
            while self._lines > self._lines_max:
                let_go.append(self._remove(next(iter(self._flows))))
        for each in let_go:
            if each is not None:
                each.close()

    def close(self) -> None:
        """Let all go: their `finally` blocks run now, and not whenever they are collected."""
        with self._lock:
            let_go = [self._remove(run_id) for run_id in [*self._flows]]
        for each in let_go:
            if each is not None:
                each.close()

    def _remove(self, run_id: UUID) -> KeptFlow | None:
        flow = self._flows.pop(run_id, None)
        if flow is not None:
            self._lines -= flow.size
        return flow
