"""The modes that scenarios run in: each takes one comfort away, and no outcome may change.

    NORMAL        every message comes once, soon
    EVICT         at each await the flow is thrown away, and replayed from what is recorded
    TWICE         every message comes twice, and once more when all is done
    SWEEPS_ONLY   nothing that a worker says arrives, neither handoffs nor timers: sweeps find it all
    NOTIFY_OFF    no relay is woken by a producer: a sweep finds what producers left
    BATCH_OF_ONE  a sweep takes one row of each kind
    EAGER      whoever commits a turn goes on with the first stage that it opens, without a message, runs
                  whose turns are asked for go on together, and each flow stays where its last turn has left it

tests/harness.py makes them without Celery, tests/fleet/app.py in a real worker. Production code knows
nothing of modes: what they change is what a process can meet anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from orchestrator.testing.always_replay import Leaving, TakeTurn, leaving_early


@dataclass(frozen=True, slots=True)
class Mode:
    """One mode. `hears_workers`, `hears_producers`: whether their words come, or are found by sweeps."""

    name: str
    leaves_early: bool = False
    delivers_twice: bool = False
    hears_workers: bool = True
    hears_producers: bool = True
    batch_size: int = 500
    goes_on: bool = False


NORMAL = Mode("normal")
EVICT = Mode("evict", leaves_early=True)
TWICE = Mode("twice", delivers_twice=True)
SWEEPS_ONLY = Mode("sweeps-only", hears_workers=False, hears_producers=False)
NOTIFY_OFF = Mode("notify-off", hears_producers=False)
BATCH_OF_ONE = Mode("batch-of-one", batch_size=1)
EAGER = Mode("in-place", goes_on=True)

__all__ = ["Leaving", "TakeTurn", "leaving_early"]
"""Of the kit that authors have: EVICT is its `always_replay`."""

MODES = (NORMAL, EVICT, TWICE, SWEEPS_ONLY, NOTIFY_OFF, BATCH_OF_ONE, EAGER)


def modes_of(*modes: Mode, because: str) -> pytest.MarkDecorator:
    """For a test that is about some modes only; `because` says what makes it so."""
    return pytest.mark.modes(*modes, because=because)


def all_but(*modes: Mode) -> tuple[Mode, ...]:
    """The modes without these."""
    return tuple(mode for mode in MODES if mode not in modes)
