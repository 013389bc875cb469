"""What a test meets that asks something of the kit which can't be. Each says what to write instead."""

from __future__ import annotations

from typing import Any

from orchestrator.errors import PerennialError


class TesterError(PerennialError, AssertionError):
    """A test asks what its tester can't do, or what its run doesn't come to; the message says what to do."""

    __test__ = False  # pytest, which looks for classes that are named so


class FlowNotPure(TesterError):
    """A flow came to another end when it was replayed over the same journal, or read what changes by itself."""


class StandInFailed(Exception):
    """What `tester.fail(charge)` lets a stage or step raise, unless it is given another error."""


class WorkerDied(BaseException):
    """The tester lets its worker die here. As the end of a process it is no Exception; the tester goes on after it."""


def short(value: Any, *, characters_max: int = 120) -> str:
    """For a message."""
    text = repr(value)
    return text if len(text) <= characters_max else f"{text[: characters_max - 1]}…"
