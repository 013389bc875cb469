"""What is said of a run that has come to its end, or to an operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from orchestrator.core.run import RunStatus


@dataclass(frozen=True, slots=True)
class RunReport:
    """A run that has ended, or became an incident, as its record has it.

    `status` says which. `error` has `type` and `message`, and mostly `traceback`; it is empty where the run completed.
    `exception` is what its flow raised, in the process where it did; None where a lost worker or a deadline ended it.
    """

    run_id: UUID
    business_key: str | None
    process: str
    version: int
    status: RunStatus
    error: dict[str, Any] = field(default_factory=dict)
    exception: BaseException | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"run {self.run_id} ({named(self.process, self.version, self.business_key)})"


def named(process: str, version: int, business_key: str | None) -> str:
    """A run for people, beside its id."""
    return f"{process} version {version}" + (f", {business_key}" if business_key else "")
