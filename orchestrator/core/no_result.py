"""Why a run has no result, in a sentence: what failed, where, and whom it waits for."""

from __future__ import annotations

from typing import Any

from orchestrator.core.run import RunStatus
from orchestrator.core.views import FailedActivity, RunView, Wait


def why_not_closed(run: RunView) -> str:
    """Of a run that is open: its status, what it waits for, and the last error of what is tried again."""
    name = run.business_key or run.id
    if run.status is RunStatus.INCIDENT:
        return (
            f"run {name} is an incident, and waits for an operator: {_told(run.error or {})}. "
            f"Mend that; `perennial resume {name}` then lets it go on"
        )
    if run.status is RunStatus.PAUSED:
        return f"run {name} is paused, and waits for an operator: `perennial resume {name}` lets it go on"
    failed = {failure.key: failure for failure in run.failures}
    waits = ", ".join(_wait(wait, failed.get(wait.key)) for wait in run.waits)
    return f"run {name} is {run.status}; it waits for {waits or 'its next turn'}"


def why_failed(run: RunView) -> str:
    """Of a run that ended without a result: its error, and the line that raised it."""
    error = run.error or {}
    message = str(error.get("message", ""))
    places = [str(error.get("at", "")), *(f.at for f in run.failures if f.key in message)]
    place = next(filter(None, places), "")
    return message if not place or place in message else f"{message} (at {place})"


def _wait(wait: Wait, failure: FailedActivity | None) -> str:
    named = f"{wait.kind} {wait.name}"
    if failure is None:
        return named
    at = f" (at {failure.at})" if failure.at else ""
    return f"{named}, whose attempt {failure.attempt} failed: {failure.type}: {failure.message}{at}"


def _told(error: dict[str, Any]) -> str:
    message, at = str(error.get("message", "")), str(error.get("at", ""))
    place = f" (at {at})" if at and at not in message else ""
    return f"{error.get('type')}: {message}{place}".rstrip(".")
