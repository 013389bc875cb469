"""A run that is ended from outside, and cleans up first: what was asked for, and what a process says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.core.run import RunStatus
from orchestrator.errors import RunCancelled

CLEAN_UP_SECONDS = 3600.0
"""How long a flow's own clean-up may take where nobody says."""

IN_SPEC = "clean_up"
"""What a process says of its clean-up, in its spec."""


@dataclass(frozen=True, slots=True)
class CleanUp:
    """What the author has said: how long it may take, and whether a run that expires is undone."""

    within_seconds: float
    undoes_when_expired: bool = False

    def as_spec(self) -> dict[str, Any]:
        """As it stands in the spec of its process."""
        return {
            "within_seconds": self.within_seconds,
            "undoes_when_expired": self.undoes_when_expired,
        }

    @classmethod
    def of_spec(cls, spec: Any) -> CleanUp | None:
        """None: it says nothing, or what this program can't read."""
        try:
            return cls(float(spec["within_seconds"]), bool(spec.get("undoes_when_expired")))
        except (TypeError, LookupError, ValueError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class EarlyEnd:
    """How the run is to end: `status` is cancelled or expired. `undoes`: what was done is undone after the clean-up."""

    status: RunStatus
    error: Mapping[str, Any]
    undoes: bool

    def as_result(self) -> dict[str, Any]:
        """As the record holds it."""
        return {"status": str(self.status), "error": dict(self.error), "undoes": self.undoes}

    @classmethod
    def of_result(cls, result: Any) -> EarlyEnd:
        """The inverse of `as_result`."""
        return cls(RunStatus(result["status"]), result["error"], bool(result["undoes"]))

    def raised(self) -> RunCancelled:
        """What the flow meets at its await."""
        return RunCancelled(
            str(self.error.get("message", "")), is_expired=self.status is RunStatus.EXPIRED
        )

    def error_after(self, raised: BaseException | None) -> dict[str, Any]:
        """What is recorded as the run's error, when its clean-up has raised that."""
        error = dict(self.error)
        if raised is not None and not isinstance(raised, RunCancelled):
            name, message = type(raised).__name__, f"{raised}"
            error["message"] = f"{error.get('message', '')}; its clean-up failed: {name}: {message}"
        return error
