"""What is asked for in bulk, and what came of it."""

from __future__ import annotations

from pydantic import BaseModel


class Order(BaseModel, frozen=True):
    """`team` gets an account for each name; `owner` hears how it went."""

    team: str
    owner: str
    names: list[str]


class Account(BaseModel, frozen=True):
    """An account that is there."""

    name: str
    address: str


class Report(BaseModel, frozen=True):
    """The accounts that are there, and the names that have none, each with the reason."""

    created: list[Account]
    failed: dict[str, str]
