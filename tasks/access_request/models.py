"""What an access request holds and what comes of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

Name = Annotated[str, Field(min_length=1, max_length=200)]
Seconds = Annotated[float, Field(gt=0)]


class AccessRequest(BaseModel, frozen=True):
    """`requester` asks that `user` be given `role`; `manager` is the first to decide.

    The two durations are the Python process's; those of the YAML process stand in its YAML.
    """

    id: Name
    requester: Name
    user: Name
    role: Name
    manager: Name
    escalation_seconds: Seconds = 24 * 3600
    timeout_seconds: Seconds = 48 * 3600


class Grant(BaseModel, frozen=True):
    """The access that was given."""

    account: str
    role: str
