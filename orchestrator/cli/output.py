"""How anything gets printed: JSON for programs, rich for people; errors on stderr.

JSON shapes are the public views (`orchestrator.core.views`) field by field, lists inside an object
with one named key. What users wrote never reaches the terminal raw: control characters are shown,
not obeyed.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from orchestrator.cli.failures import Failure
from orchestrator.cli.session import Session
from orchestrator.cli.times import Clock

PIPED_WIDTH = 200
"""Columns when stdout is no terminal: `perennial ps | grep` must not fold its lines."""


class Printer:
    """Prints the way this call asked for."""

    def __init__(self, session: Session) -> None:
        self.as_json = session.as_json
        self._scrubbed = session.scrubbed
        self.clock = Clock(session.now(), session.zone)
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    @property
    def width(self) -> int:
        """Columns to print in."""
        return self.out.width

    def emit(self, document: Any, page: Callable[[], RenderableType]) -> None:
        """The whole answer of a command: the document with --json, the page without."""
        if self.as_json:
            self.document(document)
        else:
            self.out.print(page(), crop=False)  # a line to copy may be longer than the screen

    def document(self, value: Any) -> None:
        """One JSON document on stdout."""
        print(as_json(value), flush=True)

    def note(self, message: str, style: str = "") -> None:
        """A remark on the side, so it goes to stderr."""
        self.err.print(text(self._scrubbed(message), style), soft_wrap=True)

    def failure(self, failure: Failure) -> None:
        """An error, on stderr in either form."""
        message = self._scrubbed(failure.message)
        if self.as_json:
            document = {"error": {"type": failure.type, "message": message}}
            self.err.out(as_json(document), highlight=False)
        else:
            self.err.print(Text("error: ", "bold red") + text(message, "red"), soft_wrap=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_WIDTH
    return console


def as_json(value: Any, *, indent: int | None = 2) -> str:
    """JSON text of views, payloads and plain values."""
    from pydantic_core import to_jsonable_python

    return json.dumps(to_jsonable_python(value, fallback=repr), indent=indent, ensure_ascii=False)


def text(value: object, style: str = "") -> Text:
    """A value as Text that can't move the cursor, colour the screen or forge a line of ours."""
    return Text("".join(_visible(character) for character in str(value)), style)


_HARMLESS = "\n\t\u200c\u200d"  # line, tab, and the joiners that scripts and emoji are written with


def _visible(character: str) -> str:
    if character in _HARMLESS or unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    return character.encode("unicode_escape").decode()


def shortened(value: Any, length: int) -> str:
    """Compact JSON of a payload, cut at `length` characters."""
    whole = value if isinstance(value, str) else as_json(value, indent=None)
    return whole if len(whole) <= length else f"{whole[: length - 1]}…"
