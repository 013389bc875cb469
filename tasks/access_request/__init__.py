"""An access request: a manager and security decide, then the directory is changed.

The same process twice, over the same stages: `access-request.yaml`, and `process.py` in Python.
Importing this package registers all that a worker needs for both.
"""

from tasks.access_request.process import access_request
from tasks.access_request.stages import (
    notify_requester,
    provision_access,
    validate_request,
    wait_for_manager_approval,
    wait_for_security_review,
)

__all__ = [
    "access_request",
    "notify_requester",
    "provision_access",
    "validate_request",
    "wait_for_manager_approval",
    "wait_for_security_review",
]
