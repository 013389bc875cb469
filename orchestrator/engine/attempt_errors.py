"""What is recorded of an attempt that has raised."""

from __future__ import annotations

from typing import Any

from orchestrator.core.definition import Stage
from orchestrator.core.failures import error_of, type_of
from orchestrator.store.transitions.claim import Claim

_OVERRUNS = ("SoftTimeLimitExceeded", "StageTimedOut")
"""Celery's class, which the engine doesn't know; and `event_loop`'s."""


def is_overrun(error: BaseException) -> bool:
    """Whether it says that an attempt has taken longer than it may."""
    return type_of(error) in _OVERRUNS


def error_of_attempt(claim: Claim, stage: Stage[..., Any], error: BaseException) -> dict[str, Any]:
    """One name for an overrun, whoever notices it: recovery, Celery in the middle of the stage, or its event loop."""
    told = error_of(error, stage.error_attributes)
    if told["type"] not in _OVERRUNS:
        return told
    bound = f" of {stage.timeout_seconds:g} s" if stage.timeout_seconds is not None else ""
    message = f"attempt {claim.attempt} of {claim.name} overran its timeout{bound}"
    return {**told, "type": "StageTimedOut", "message": message}
