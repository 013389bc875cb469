"""A worker's code beside what is deployed: where it differs, in one line each, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from orchestrator.core.versions.content import is_content_of
from orchestrator.engine.context import EngineContext
from orchestrator.store.transitions import processes


@dataclass(frozen=True, slots=True)
class Changed:
    """A version that this program has with other content than the one that new runs stand on.

    `has`: the revision whose content it has; None: it has that of no revision. `deployed`: the current one.
    """

    name: str
    version: int
    has: int | None
    deployed: int
    since: str

    @property
    def in_words(self) -> str:
        """For this worker's log."""
        what = f"{self.name} version {self.version}"
        if self.has is not None:
            return (
                f"{what}: this worker's code is its revision {self.has}, and revision {self.deployed} is deployed "
                f"({self.since}). It moves the runs that stand on revision {self.has}, and leaves the others to "
                "workers with the new code: start this worker with that, if it is to move them too"
            )
        return (
            f"This worker's code is not what was deployed as {what}. It leaves the runs of what is deployed "
            f"({self.since}) to workers that have that code. Start this worker with it; or, if the change is meant, "
            "`perennial deploy --amend`, or raise the version and `perennial deploy` (which replaces a version that "
            "no run has used)"
        )


def changed_since_deployed(context: EngineContext) -> list[Changed]:
    """The processes of this program whose name and version is deployed with other content. One statement."""
    known = context.registry.processes
    if not known:
        return []
    with context.connection() as connection:
        rows = processes.read_fingerprints(connection, (name for name, _ in known))
    found = []
    for place, some in groupby(rows, key=lambda row: (row.name, row.version)):
        process, revisions = known.get(place), list(some)
        if process is None:
            continue
        has = [
            row for row in revisions if is_content_of(process, row.fingerprint, row.fingerprints)
        ]
        if not any(row.is_current for row in has):
            current = next(row for row in revisions if row.is_current)
            found.append(
                Changed(
                    *place,
                    has=has[-1].code_revision if has else None,
                    deployed=current.code_revision,
                    since=_since(current),
                )
            )
    return found


def _since(row: Any) -> str:
    by = f" by {row.deployed_by}" if row.deployed_by else ""
    return f"since {row.deployed_at:%Y-%m-%d %H:%M} UTC{by}"
