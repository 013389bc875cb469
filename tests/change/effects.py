"""What the stages of `processes` do to the world: they are counted, and some of them fail while `held`."""

from __future__ import annotations

from collections import Counter

from orchestrator import idempotency_key

calls: Counter[str] = Counter()
"""How often each stage of each run came to its effect, by its idempotency key."""

held = {"is": False}
"""While it is, whatever rests in a stage's back-off goes on resting."""


class Away(Exception):
    """A partner is away for now."""


def effect(stage: str, park: str) -> None:
    """Do it once; or fail, where the run is to rest in this very stage."""
    if held["is"] and park == stage:
        raise Away(stage)
    calls[idempotency_key()] += 1


stamps: list[tuple[str, str, str]] = []
"""Of a year: each effect, by its run and its stage, and what it came to."""


def stamped(stage: str, level: int, body: int) -> str:
    """An effect that says with what it was had, and in which release of its stage's body."""
    run_id = (idempotency_key() or "").partition("/")[0]
    value = f"{stage}({level}) by {body}: {len(stamps)}"
    stamps.append((run_id, stage, value))
    return value
