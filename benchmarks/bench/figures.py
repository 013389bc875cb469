"""What a benchmark found, and whether that is enough."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured, once a round. `at_least` and `at_most` are the bounds it has to keep."""

    part: str
    name: str
    unit: str
    samples: tuple[float, ...]
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The figure: half of the rounds were better."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the most that a round gave."""
        return min(self.samples), max(self.samples)

    @property
    def is_met(self) -> bool | None:
        """Whether the median keeps its bound; None where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        is_enough = self.at_least is None or self.median >= self.at_least
        return is_enough and (self.at_most is None or self.median <= self.at_most)

    @property
    def verdict(self) -> str:
        """In words: met, or by what share of the bound it is not."""
        if self.is_met is None:
            return ""
        if self.is_met:
            return "met"
        bound = self.at_least if self.at_least is not None else self.at_most
        return f"{abs(self.median - bound) / bound:.0%} {'short' if self.at_least else 'over'}"

    def as_json(self) -> dict[str, Any]:
        """All of it, for a file."""
        return {
            "part": self.part,
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "spread": list(self.spread),
            "samples": list(self.samples),
            "at_least": self.at_least,
            "at_most": self.at_most,
            "is_met": self.is_met,
            "note": self.note,
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """A value that was seen: the least that so many percent do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def ratio(
    part: str,
    name: str,
    ours: Sequence[float] | None,
    theirs: Sequence[float] | None,
    *,
    at_least: float | None = None,
) -> list[Figure]:
    """Ours over theirs, round by round; none where one of them was not measured.

    What disturbs the machine for longer than a round disturbs both.
    """
    if not ours or not theirs:
        return []
    samples = tuple(mine / other for mine, other in zip(ours, theirs, strict=True))
    return [Figure(part, name, "×", samples, at_least=at_least)]
