"""The access request as a flow in Python; `access-request.yaml` says the same without code."""

from __future__ import annotations

from orchestrator import Flow, process, seconds
from tasks.access_request.models import AccessRequest, Grant
from tasks.access_request.stages import notify_requester, provision_access, validate_request


@process(version=1, name="access-request-python")
async def access_request(flow: Flow, request: AccessRequest) -> Grant | None:
    """Two approvals, each with its escalation and deadline; then the access, if both said yes."""
    escalation, timeout = seconds(request.escalation_seconds), seconds(request.timeout_seconds)

    await flow.stage(validate_request, request)
    manager = await flow.approval(
        "wait-for-manager-approval",
        assign=[request.manager],
        escalate={escalation: ["director"]},
        timeout=timeout,
    )
    if not manager.approved:
        await flow.stage(notify_requester, request, manager)
        return None

    security = await flow.approval(
        "wait-for-security-review",
        assign=["security"],
        escalate={escalation: ["security-lead"]},
        timeout=timeout,
    )
    if not security.approved:
        await flow.stage(notify_requester, request, security)
        return None

    grant: Grant = await flow.stage(provision_access, request)
    await flow.stage(notify_requester, request, security, grant)
    return grant
