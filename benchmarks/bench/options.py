"""How a benchmark is asked to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console


@dataclass(frozen=True)
class Options:
    """The same for every part.

    Args:
        rounds: how often each thing is measured, in turns with what it is compared to.
        quick: sizes that take seconds, for a first look.
        folder: for logs and for what is installed to compare with; kept between runs.
        console: where progress is shown.
        pool: Celery's, where a part does not say which it is about.
        runs: so many runs in place of a part's own size.
        worker_counts: the fleets that a throughput is measured on.
        sides: only these of what is compared, by name; none named is all. For who works on one.
    """

    rounds: int
    quick: bool
    folder: Path
    console: Console
    pool: str = "solo"
    runs: int | None = None
    worker_counts: tuple[int, ...] = (1, 2)
    sides: tuple[str, ...] = ()

    def wants(self, side: str) -> bool:
        """Whether this side is to be measured."""
        return not self.sides or side in self.sides

    def size(self, full: int, quick: int) -> int:
        """How many runs: as asked, or the part's own number."""
        return self.runs or (quick if self.quick else full)
