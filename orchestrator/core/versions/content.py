"""What a version was deployed with, and whether a program's process is that: by fingerprint, each way for itself.

A fingerprint is taken in more than one way: by releases of Perennial, one after the other, and of a flow without
source. Two contents are compared by the best way that both have. By another one they may look the same and not be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.definition import Process


@dataclass(frozen=True, slots=True)
class Content:
    """What was deployed as a revision of a version. `source`: of a flow in Python, if it was kept."""

    code_revision: int
    fingerprint: str
    fingerprint_by_way: Mapping[str, str]
    kind: str
    spec: Mapping[str, Any] = field(repr=False)
    source: str | None = field(repr=False)
    queue: str | None
    expires_after_seconds: float | None

    def is_that_of(self, process: Process) -> bool:
        """Whether the process is the same."""
        return is_content_of(process, self.fingerprint, self.fingerprint_by_way)


def is_content_of(process: Process, fingerprint: str, by_way: Mapping[str, str]) -> bool:
    """Whether the process is what was recorded. `by_way` is empty where an older release has recorded it."""
    ours = process.fingerprint_by_way
    for way, taken in ours.items():
        if way in by_way:
            return by_way[way] == taken
    return fingerprint in ours.values()
