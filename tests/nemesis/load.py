"""Runs of random programs, as many as the fleet takes, and the people that they wait for.

Whatever a caller asks may fail while the servers are hurt; it is then asked again, as people do. A start
is made again with its business key.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from orchestrator import PerennialError, RunStatus
from tests.nemesis.theatre import Theatre
from tests.oracle.programs import Forever, Program, Repeat, Stage, generate, parts_of
from tests.oracle.world import Player

PROCESS = "random-program"
PACE = 0.005
"""Programs speak of minutes, for clocks that tests move; here a minute is 0.3 s."""
SHORT_SECONDS_MAX = 3600.0
PLAYERS = 4
CHAIN_STAGES = 25
CANCEL_CHANCE = 0.02
REST_CHANCE = 0.1


@dataclass
class Performance:
    """A run and its world."""

    number: int
    program: Program
    player: Player
    is_played: bool = False


class Steadfast(Player):
    """A world that gets no answer now and then, and asks again."""

    may_have_cancelled = False

    def cancel(self) -> str:
        """As ever; whoever got no answer finds out later whether it was heard."""
        try:
            said = super().cancel()
        except Exception:
            self.may_cancel = self.may_have_cancelled = True
            raise
        if self.may_have_cancelled and not self.is_cancelled:
            self.is_cancelled = self.client.get(self.run_id).status is RunStatus.CANCELLED
        return said


class Load:
    """Threads that start runs and play their worlds until it is over, and then play on to the end."""

    def __init__(self, theatre: Theatre, *, seed: int, open_max: int) -> None:
        self.theatre, self.seed, self.open_max = theatre, seed, open_max
        self.open: dict[UUID, Performance] = {}
        self.ended: list[Performance] = []
        self.refused_calls: Counter[str] = Counter()
        self.incidents = 0
        self.count = 0
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._repeat, args=(work,), daemon=True)
            for work in (self._start_one, self._look, *[self._play] * PLAYERS)
        ]
        self._is_over = threading.Event()

    def begin(self) -> None:
        """Go."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """No more, of anything."""
        self._is_over.set()
        for thread in self._threads:
            thread.join(30)

    def _repeat(self, work: Any) -> None:
        while not self._is_over.is_set():
            try:
                is_idle = work()
            except Exception as error:  # noqa: BLE001 - the servers are hurt: it is asked again
                self.refused_calls[type(error).__name__] += 1
                is_idle = True
            if is_idle:
                self._is_over.wait(0.05)

    def _start_one(self) -> bool:
        """Start the next run; the same one again if the last try has failed. True: nothing to do."""
        if self.theatre.is_over.is_set() or len(self.open) >= self.open_max:
            return True
        program = self._program(self.count)
        run = self.theatre.client.start(PROCESS, program, key=f"run-{self.count}", by="nemesis")
        player = Steadfast(self.theatre.client, run.run_id, program, now=lambda: datetime.now(UTC))
        with self._lock:
            self.open[run.run_id] = Performance(self.count, program, player)
        self.count += 1
        return False

    def _program(self, number: int) -> Program:
        """The run's program: none that waits for its expiry, which is days away; every other a long chain."""
        if number % 2:
            return Program(body=(Repeat(times=CHAIN_STAGES, stage=Stage(key="patient")),))
        for variant in range(100):
            program = generate(f"{self.seed}/{number}/{variant}")
            waits_for_ever = any(isinstance(part, Forever) for part in parts_of(program.body))
            if program.is_cancelled or not waits_for_ever:
                return Program.model_validate(_paced(program.model_dump()))
        raise AssertionError("no program ends")

    def _play(self) -> bool:
        """One act in one run, by nobody else at the same time. True: nothing to do there."""
        chance = random.Random()
        with self._lock:
            idle = [each for each in self.open.values() if not each.is_played]
            if not idle:
                return True
            each = chance.choice(idle)
            each.is_played = True
        try:
            player = each.player
            if player.may_cancel and (
                chance.random() < CANCEL_CHANCE or self.theatre.is_over.is_set()
            ):
                player.cancel()
            return player.act(chance) is None and chance.random() < REST_CHANCE
        finally:
            each.is_played = False

    def _look(self) -> bool:
        """Put away what has ended, and resume what was parked: an operator's work."""
        with self._lock:
            ids = list(self.open)
        with self.theatre.engine.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT id, status FROM perennial.run WHERE id = ANY(:ids) AND status <> 'running'"
                ),
                {"ids": ids},
            ).all()
        for row in rows:
            status = RunStatus(row.status)
            if status is RunStatus.INCIDENT:
                with suppress(PerennialError):
                    self.theatre.client.operations.resume(row.id, by="nemesis")
                    self.incidents += 1
            if status.is_closed:
                with self._lock:
                    self.ended.append(self.open.pop(row.id))
        return True


def _paced(value: Any) -> Any:
    """A program's short times, shorter."""
    if isinstance(value, dict):
        return {
            name: each * PACE
            if isinstance(each, float) and each <= SHORT_SECONDS_MAX
            else _paced(each)
            for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_paced(each) for each in value]
    return value
