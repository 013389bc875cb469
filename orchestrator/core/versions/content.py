"""Whether a program's process is the content that a version was deployed with: by fingerprint, each way for itself.

A fingerprint is taken in more than one way: by releases of Perennial, one after the other, and of a flow without
source. Two contents are compared by the best way that both have. By another one they may look the same and not be.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.core.definition import Process


def is_content_of(process: Process, fingerprint: str, by_way: Mapping[str, str]) -> bool:
    """Whether the process is what was recorded. `by_way` is empty where a release before 0.4 has recorded it."""
    ours = process.fingerprint_by_way
    for way, taken in ours.items():
        if way in by_way:
            return by_way[way] == taken
    return fingerprint in ours.values()
