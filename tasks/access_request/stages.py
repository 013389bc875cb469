"""The stages and approvals of an access request; each effect goes to the directory service."""

from __future__ import annotations

from orchestrator import Decision, Retry, approval, idempotency_key, stage, step
from tasks.access_request import directory
from tasks.access_request.models import AccessRequest, Grant


@stage(timeout_seconds=60)
def validate_request(request: AccessRequest) -> None:
    """The directory knows the request, and would know a request it must not grant."""
    directory.apply(f"validate request for {request.role}", key=idempotency_key())


@approval(escalate_to=["director"])
def wait_for_manager_approval(request: AccessRequest) -> list[str]:
    """The requester's manager decides; the director may, once it escalates."""
    return [request.manager]


@approval(escalate_to=["security-lead"])
def wait_for_security_review(_request: AccessRequest) -> list[str]:
    """Security reviews what a manager has approved."""
    return ["security"]


@stage(retry=Retry(max_attempts=8, delay_seconds=1, max_delay_seconds=60), timeout_seconds=300)
def provision_access(request: AccessRequest) -> Grant:
    """Two steps: a crash between them never creates the account twice."""
    account = step(create_account, request.user)
    return step(grant_role, account, request.role)


@stage(always=True, timeout_seconds=60)
def notify_requester(
    request: AccessRequest,
    decision: Decision | None = None,
    provision_access: Grant | None = None,
) -> None:
    """Tell the requester what came of it, whether or not access was given."""
    outcome = decision.outcome if decision else "not decided"
    account = f" as {provision_access.account}" if provision_access else ""
    directory.apply(
        f"notify {request.requester}: {request.role} {outcome}{account}", key=idempotency_key()
    )


def create_account(user: str) -> str:
    """The account's name."""
    account = user.lower().replace(" ", ".")
    directory.apply(f"create account {account}", key=idempotency_key())
    return account


def grant_role(account: str, role: str) -> Grant:
    """The role, on the account."""
    directory.apply(f"grant {role} to {account}", key=idempotency_key())
    return Grant(account=account, role=role)
