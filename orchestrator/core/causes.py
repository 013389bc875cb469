"""Causes: what failures have in common, so that a thousand of them are one line.

    cause_of(type, message, place)   the cause of an error: its class, where it came up, its normalised message
    marked(error, cause)          the error, with its cause in it, as the record keeps it
    cause_in(error, process)      of a recorded error; one of an older release has none, and gets it here
    remedy_for(type, ...)         what an operator does about it

`place` is the name of the stage, or `the flow of PROCESS` where no stage failed. Two runs of different processes that
fail at the same stage with the same message have one cause: it is mended once.

Pure, and of bounded cost: of a message no more than `READ_CHARACTERS_MAX` are looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.core.codec import readable
from orchestrator.errors import ActivityFailed, WaitTimedOut

READ_CHARACTERS_MAX = 2_000
"""What is looked at of a message."""

TEXT_CHARACTERS_MAX = 200
"""What is kept of a normalised message."""

PASSES_MAX = 20
"""Quotes stand in quotes: it is read again until nothing is left to replace, so often at most."""

DIGEST_CHARACTERS = 12

_FLOW = "the flow of "

_PLACEHOLDERS = (
    # A quote within a word is an apostrophe.
    (
        "<text>",
        r"(?<![\w>'])'[^']*'(?![\w<'])|(?<![\w>\"])\"[^\"]*\"(?![\w<\"])|`[^`\n]*`|“[^”\n]*”|«[^»\n]*»",
    ),
    ("<address>", r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s<>]+|[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+"),
    ("<uuid>", r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b|\b[0-9a-fA-F]{32}\b"),
    (
        "<time>",
        (
            r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?(?:Z|[+-]\d\d:?\d\d))?)?"
            r"|\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?\b"
        ),
    ),
    (
        "<address>",
        r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b|\[?\b(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{1,4}\b\]?",
    ),
    ("<path>", r"(?<![\w<>/\\.])(?:~|\.{1,2}|[A-Za-z]:)?(?:[/\\][\w.+@~%-]+)+[/\\]?"),
    (
        "<hex>",
        r"\b0[xX][0-9a-fA-F]+\b|\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,}\b|\b(?=[A-F]*\d)(?=\d*[A-F])[0-9A-F]{7,}\b",
    ),
    ("<number>", r"[+-]?\d+(?:[.,_]\d+)*"),
)
_ANY = re.compile(
    "|".join(f"(?P<p{place}>{pattern})" for place, (_, pattern) in enumerate(_PLACEHOLDERS))
)
_NAMES = {f"p{place}": name for place, (name, _) in enumerate(_PLACEHOLDERS)}
_SPACE = re.compile(r"\s+")
_SEVERAL = re.compile(r"(<\w+>)(?:[\s,;]*\1)+")
"""A list of numbers, however long, is one."""

_FAILED_FOR_GOOD = re.compile(
    r"(?P<key>.+?) failed after \d+ attempt\(s\): (?P<type>[^:\s]+): (?P<message>.*)", re.DOTALL
)
"""As `ActivityFailed` says it, for errors that were recorded without a cause."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What failures share. `place`: the stage's name, or `the flow of PROCESS`; `text`: the normalised message."""

    type: str
    place: str
    text: str

    @property
    def digest(self) -> str:
        """Its short name: the same wherever and whenever it comes up."""
        content = json.dumps([self.type, self.place, self.text], ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()[:DIGEST_CHARACTERS]

    @property
    def in_words(self) -> str:
        """`ConnectionError at provision`, `KeyError in the flow of trip`."""
        joint = "in" if self.place.startswith(_FLOW) else "at"
        return f"{self.type} {joint} {self.place}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of several."""

    id: UUID
    business_key: str | None

    @property
    def name(self) -> str:
        """By which people know it."""
        return self.business_key or str(self.id)


@dataclass(frozen=True, slots=True)
class CauseSummary:
    """The runs of one cause, and what operators have said of it.

    `runs` counts those that failed and those that are parked (`incidents`), `first` and `last` say when; `samples` are
    the newest. `runs_since_mended` counts what failed, or was parked, after somebody had said that it is mended.
    """

    digest: str
    cause: Cause
    processes: tuple[str, ...]
    runs: int
    incidents: int
    first: datetime
    last: datetime
    samples: tuple[Sample, ...]
    runs_since_mended: int = 0
    note: str = ""
    noted_by: str | None = None
    muted_by: str | None = None
    muted_at: datetime | None = None
    mended_by: str | None = None
    mended_at: datetime | None = None

    @property
    def failed(self) -> int:
        """How many of the runs have ended."""
        return self.runs - self.incidents

    @property
    def has_returned(self) -> bool:
        """It was said to be mended, and is here again."""
        return self.runs_since_mended > 0

    @property
    def remedy(self) -> str:
        """What an operator does about it."""
        return remedy_for(
            self.cause.type, self.digest, incidents=self.incidents, failed=self.failed
        )


def normalised(message: str) -> str:
    """The message without what differs from one run to the next: numbers, times, ids, quotes, paths, addresses.

    One line of at most TEXT_CHARACTERS_MAX characters; what is normalised already stays as it is.
    """
    text = _SPACE.sub(" ", message[:READ_CHARACTERS_MAX]).strip()
    for _ in range(PASSES_MAX):
        before, text = text, _ANY.sub(lambda found: _NAMES[str(found.lastgroup)], text)
        if text == before:
            break
    text = _SEVERAL.sub(r"\1", text)
    if len(text) <= TEXT_CHARACTERS_MAX:
        return text
    return text[: TEXT_CHARACTERS_MAX - 1].rstrip() + "…"


def cause_of(kind: str, message: str, place: str) -> Cause:
    """The cause of an error of that class, with that message, which came up there."""
    return Cause(kind, place, normalised(message))


def in_flow(process: str) -> str:
    """Where a failure came up that is of no stage."""
    return f"{_FLOW}{process}"


def cause_of_end(
    error: BaseException,
    kept: Mapping[str, Any],
    *,
    process: str,
    names: Callable[[str], str | None],
) -> Cause:
    """The cause of what a flow has raised.

    `kept`: its recorded type and message; `names`: the name of an activity by its key, None for one that isn't there.
    An error that can't be read any further has the cause that is in `kept`.
    """
    kind, message, place = kept["type"], kept["message"], in_flow(process)
    try:
        if issubclass(type(error), ActivityFailed):
            failed: Any = error
            kind, message = _plain(failed.error_type), _plain(failed.message)
        if issubclass(type(error), ActivityFailed | WaitTimedOut):
            of_one: Any = error
            place = names(of_one.key) or _plain(of_one.key)
    except Exception:  # noqa: BLE001 - an author's subclass, whose attributes may be anything
        return cause_of(kept["type"], kept["message"], in_flow(process))
    return cause_of(kind, message, place)


def _plain(text: Any) -> str:
    return readable(str.__str__(text))


def marked(error: Mapping[str, Any], cause: Cause) -> dict[str, Any]:
    """The error as the record keeps it: `cause` is what runs are found by (the index `run_error`)."""
    told = {"type": cause.type, "place": cause.place, "text": cause.text}
    return {**error, "cause": cause.digest, "cause_is": told}


def cause_in(error: Any, process: str) -> Cause:
    """The cause that a recorded error names. One that was recorded by an older release gets it from its text."""
    if not isinstance(error, Mapping):
        return cause_of("Error", str(error), in_flow(process))
    told = error.get("cause_is")
    if isinstance(told, Mapping):
        return Cause(str(told.get("type")), str(told.get("place")), str(told.get("text")))
    kind, message = str(error.get("type", "Error")), str(error.get("message", ""))
    failed = _FAILED_FOR_GOOD.fullmatch(message[: 2 * READ_CHARACTERS_MAX])
    if kind in ("ActivityFailed", "WorkerLost") and failed is not None:
        return cause_of(failed["type"], failed["message"], _name_of(failed["key"]))
    if "activity" in error:
        return cause_of(kind, message, _name_of(str(error["activity"])))
    return cause_of(kind, message, in_flow(process))


def _name_of(key: str) -> str:
    """`reviews/security#2` is the second `security` in `reviews`."""
    return key.rpartition("/")[2].partition("#")[0]


_REMEDIES = {
    "contradiction": "give these runs a worker with the code that they began with, or see `perennial check`",
    "PayloadMismatch": "give workers the code whose types were recorded, or let the new types take the old form too",
    "WorkerLost": "find what kills the worker (out of memory?), and mend that",
    "UnknownStage": "start a worker that has the stage",
}
_MEND = "mend what the message says"


def remedy_for(kind: str, digest: str, *, incidents: int, failed: int) -> str:
    """What an operator does about runs of that cause, as a sentence with the commands to type."""
    steps = []
    if incidents:
        steps.append(f"`perennial resume --cause {digest}` lets the incidents go on")
    if failed:
        steps.append(f"`perennial {AGAIN} --cause {digest}` takes the failed runs up again")
    first = _REMEDIES.get(kind, _MEND)
    return (
        f"{first[0].upper()}{first[1:]}; then {' and '.join(steps)}"
        if steps
        else f"{first[0].upper()}{first[1:]}"
    )


AGAIN = "retry"
"""The verb that takes a failed run up again."""
