"""`ask`: the people who say whether a stage is tried again whose attempts are used up, as its definition names them.

    @stage(on_exhausted=ask("it-ops", timeout=days(2)))

What comes of it in a flow is in `core.rounds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.core.approval_requests import ApprovalRequest, Escalate, request_approval
from orchestrator.core.durations import Duration
from orchestrator.errors import ActivityFailed, DefinitionError, Fail

if TYPE_CHECKING:
    from orchestrator.core.retries import Retry

FAILED_BY_HAND = "FailedByHand"
"""The type of an error that an operator gives without one."""

WHY_CHARACTERS_MAX = 500
"""So much of an error is told to whoever is asked; `show` has more."""


@dataclass(frozen=True, slots=True)
class OnExhausted:
    """Who is asked whether a stage is tried again. Built by `ask`, which checks it."""

    people: tuple[str, ...]
    timeout: Duration | None = None
    escalate: Escalate | None = None

    def is_for(self, error: ActivityFailed, retry: Retry) -> bool:
        """Whether another attempt is of any use, after that error."""
        if error.error_type in (Fail.__name__, FAILED_BY_HAND) or error.is_a(Fail):
            return False
        return not any(error.is_a(kind) for kind in retry.non_retryable)

    def approval(self, stage: str, error: ActivityFailed | None = None) -> ApprovalRequest:
        """What they are asked of that stage, with the error in sight."""
        why = "" if error is None else _sentence(stage, error)[:WHY_CHARACTERS_MAX]
        return request_approval(
            f"retry {stage}",
            assign=self.people,
            escalate=self.escalate,
            timeout=self.timeout,
            why=why,
        )


def _sentence(stage: str, error: ActivityFailed) -> str:
    times = f"{error.attempts} attempt{'s' if error.attempts > 1 else ''}"
    return f"{stage} failed after {times}: {error.error_type}: {error.message}"


def ask(
    *people: str, timeout: Duration | None = None, escalate: Escalate | None = None
) -> OnExhausted:
    """Ask these people, by an approval, once a stage's attempts are used up: `@stage(on_exhausted=ask("it-ops"))`.

    They see what it has failed by. Who approves lets it be tried again, with all its attempts; where somebody rejects,
    or `timeout` is over, the stage has failed: its await raises ActivityFailed. After each duration of `escalate` its
    people may decide too. Raises DefinitionError.
    """
    if not people or not all(isinstance(person, str) for person in people):
        raise DefinitionError(
            f"ask is given {', '.join(map(repr, people)) or 'nobody'}",
            remedy='Name people or groups, each as text: ask("it-ops", "ann").',
        )
    policy = OnExhausted(people, timeout, escalate)
    policy.approval("a stage")
    return policy
