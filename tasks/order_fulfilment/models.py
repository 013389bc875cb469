"""What is ordered, and how it leaves the house."""

from __future__ import annotations

from pydantic import BaseModel


class Order(BaseModel, frozen=True):
    """One thing for one customer. `amount` is in cents."""

    number: str
    customer: str
    item: str
    amount: int


class Parcel(BaseModel, frozen=True):
    """What the carrier says when it has picked it up."""

    tracking: str
