"""What the assistant can do. Looking something up is free; what changes the world needs a person's yes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tool:
    """A function, and whether a person is asked before it is called."""

    function: Callable[..., str]
    needs_approval: bool = True


def look_up_order(order: str) -> str:
    """Reads only."""
    return f"order {order}: a lamp, paid 30"


def refund(order: str, amount: int) -> str:
    """Moves money."""
    return f"refunded {amount} for order {order}"


TOOLS = {
    "look_up_order": Tool(look_up_order, needs_approval=False),
    "refund": Tool(refund),
}
