"""The model, behind an interface: whose it is, and how it is reached, is nothing to the process."""

from __future__ import annotations

from typing import Protocol

from tasks.assistant.models import Message, Reply


class Model(Protocol):
    """A language model that may call tools."""

    def reply(self, conversation: list[Message], tools: list[str]) -> Reply:
        """What it says next."""


class Scripted:
    """A stub for tests: it says what it was told to, one after the other."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self.heard: list[list[Message]] = []

    def reply(self, conversation: list[Message], tools: list[str]) -> Reply:
        """The next of its replies."""
        del tools
        self.heard.append(conversation)
        return self._replies[len(self.heard) - 1]


_model: Model | None = None


def use(model: Model) -> None:
    """From now on this process speaks to that one: called by whoever sets a worker up."""
    global _model  # noqa: PLW0603 - a worker has one
    _model = model


def the_model() -> Model:
    """The one in use."""
    if _model is None:
        raise RuntimeError(
            "no model is set up here: call tasks.assistant.model.use(…) where the worker starts"
        )
    return _model
