"""A subscription as it stands, what its customer may change, and how it ended."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel


class Subscription(BaseModel, frozen=True):
    """All that the next month needs to know: it is what a chapter of the run hands to the next one."""

    customer: str
    price: int
    months_paid: int = 0
    due_at: datetime | None = None
    """When the next month begins; none for the first one, which begins at once."""


class Change(BaseModel, frozen=True):
    """Sent as the signal `change`: another price from the next month on, or the end."""

    price: int | None = None
    cancels: bool = False


class Ended(BaseModel, frozen=True):
    """What is left of it."""

    months_paid: int
    why: str
