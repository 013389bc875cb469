"""What is said between a person, a model and its tools."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class Message(BaseModel, frozen=True):
    """One line of the conversation."""

    by: Literal["person", "model", "tool"]
    text: str


class ToolCall(BaseModel, frozen=True):
    """What the model wants done. `arguments` are the tool's own, and checked by it."""

    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)

    @property
    def question(self) -> str:
        """As a person is asked: `refund(order='7', amount=30)`."""
        told = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.tool}({told})"


class Reply(BaseModel, frozen=True):
    """What the model says next: an answer, or calls of tools."""

    answer: str = ""
    calls: list[ToolCall] = Field(default_factory=list)


class Request(BaseModel, frozen=True):
    """`person` asks the assistant, and agrees to what it wants to do."""

    person: str
    question: str
