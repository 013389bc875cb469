"""The order of the faults: dealt like cards, each in its turn, sometimes two at once."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.nemesis.faults import FAULTS
from tests.nemesis.theatre import Theatre

GAP_SECONDS = (0.5, 3.0)
SECOND_FAULT_CHANCE = 0.1


@dataclass
class Storm:
    """Call `go_on` again and again; `end` waits until what was hurt is healed."""

    theatre: Theatre
    chosen: Sequence[str]
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    troubles: list[str] = field(default_factory=list)
    """Where the nemesis itself failed, in words."""
    _deck: list[str] = field(default_factory=list)
    _at_work: list[threading.Thread] = field(default_factory=list)
    _next_at: float = 0.0

    def go_on(self, now: float) -> None:
        """Begin the next fault, if it is time."""
        self._at_work = [thread for thread in self._at_work if thread.is_alive()]
        may_begin = not self._at_work or (
            len(self._at_work) == 1 and self.chance.random() < SECOND_FAULT_CHANCE
        )
        if not self.chosen or now < self._next_at or not may_begin:
            return
        self._deck = self._deck or self.chance.sample(self.chosen, len(self.chosen))
        name = self._deck.pop()
        self.counts[name] += 1
        own = random.Random(self.chance.random())
        self._at_work.append(threading.Thread(target=self._hurt, args=(name, own)))
        self._at_work[-1].start()
        self._next_at = now + self.chance.uniform(*GAP_SECONDS)

    def end(self) -> None:
        """No more; wait for those at work."""
        self.theatre.is_over.set()
        for thread in self._at_work:
            thread.join()

    def _hurt(self, name: str, own: random.Random) -> None:
        try:
            FAULTS[name](self.theatre, own)
        except Exception as error:  # noqa: BLE001 - told at the end: a fault of the nemesis itself
            self.troubles.append(f"{name}: {type(error).__name__}: {error}")
