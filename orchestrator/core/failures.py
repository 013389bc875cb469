"""What is said of an exception that an author's code has raised, whatever that exception is like.

    error_of      for the record: type, message, where, and a bounded traceback
    message_of    its text; an exception whose text can't be read has words that say so
    traceback_of  bounded, without the values of variables
    frames_of     its traceback object
    presentable   the exception itself, or one that stands for it, for loggers and others who read exceptions
    clear_frames        its tracebacks, so that no frame is kept alive by it

Nothing here raises: an exception may have no text, text that isn't text, attributes that raise, causes in
a circle, a group within a group. What Python keeps of it is read past any attribute of its own.
"""

from __future__ import annotations

import traceback
from asyncio import CancelledError
from collections.abc import Iterator, Sequence
from traceback import FrameSummary, StackSummary, walk_tb
from types import TracebackType
from typing import Any, NamedTuple

from orchestrator.core.codec import MESSAGE_LENGTH_MAX, readable
from orchestrator.core.error_attributes import attributes_of, types_of

TRACEBACK_CHARACTERS_MAX = 8_000
"""What is kept of a traceback: its beginning and, for the most part, its end."""

FRAMES_MAX = 30
"""Of one exception's stack: a recursion says the same in each."""

CHAIN_MAX = 6
"""So many causes of causes, and levels of groups in groups."""

GROUP_MAX = 10
"""So many of an exception group."""

FAILURES = (Exception, CancelledError, BaseExceptionGroup)
"""What an author's code may raise to fail. The rest ends the worker, as Ctrl-C does, or is the kernel's own."""

LINE_LENGTH_MAX = 1_000
"""What a line of a log needs of a message."""

_OF_THE_RUN_ALONE = ("traceback", "cause_is")
_NAME_LENGTH_MAX = 200
_PRINTED_MAX = 50
"""A longer chain of causes would be printed whole by whoever logs the exception."""

_KERNEL = (
    "orchestrator.core.",
    "orchestrator.engine.",
    "orchestrator.fleet.",
    "celery.app.autoretry",  # wraps the body of an existing task that is a stage
)
# An exception that raises even these may not end the worker that only wants to say what has failed.
_HOSTILE = (Exception, SystemExit, GeneratorExit)

_TRACEBACK = BaseException.__dict__["__traceback__"]
_CAUSE = BaseException.__dict__["__cause__"]
_CONTEXT = BaseException.__dict__["__context__"]
_SUPPRESSED = BaseException.__dict__["__suppress_context__"]
_GROUPED = BaseExceptionGroup.__dict__["exceptions"]


class Unreadable(Exception):
    """Stands for an exception that can't be read or printed; its text says what is known of it."""


def error_of(error: BaseException, attributes: Sequence[str] = ()) -> dict[str, Any]:
    """An error as the record keeps it: type, message, where it was raised outside of the kernel, traceback.

    `attributes`: those that its author wants to be kept.
    """
    at = ""
    for frame, line in walk_tb(frames_of(error)):
        if not _is_kernel(frame.f_globals.get("__name__")):
            at = f"{frame.f_code.co_filename}:{line}"
    kept: dict[str, Any] = {
        "type": type_of(error),
        "message": message_of(error),
        "at": readable(at),
    }
    if types := types_of(error):
        kept["types"] = types
    trace = traceback_of(error) if at else ""
    if attributes and (found := attributes_of(error, attributes, traceback=trace)):
        kept["attributes"] = found
    return {**kept, "traceback": trace} if at else kept


def without_traceback(error: dict[str, Any] | None) -> dict[str, Any] | None:
    """For a line of history: the activity or the run has the traceback, and what its cause is called in full."""
    if error is None:
        return error
    return {name: value for name, value in error.items() if name not in _OF_THE_RUN_ALONE}


def type_of(error: BaseException) -> str:
    """The name of its class."""
    try:
        return readable(str(type(error).__name__)[:_NAME_LENGTH_MAX])
    except _HOSTILE:
        return "Exception"


def message_of(error: BaseException) -> str:
    """Its text, as Postgres can keep it. Of one whose text can't be read, what can."""
    try:
        return readable(str.__str__(str(error)))
    except _HOSTILE as trouble:
        why = type_of(trouble)
    try:  # `__str__` that answers with something that is no text yet, as Django's lazy translations
        return readable(str.__str__(str(type(error).__str__(error))))
    except _HOSTILE:
        return f"(its text can't be read: {why})"


def repr_of(error: BaseException) -> str:
    """As Python shows it in a list, of bounded length; its type and text where it can't."""
    try:
        return readable(repr(error))
    except _HOSTILE:
        return readable(f"{type_of(error)}: {message_of(error)}")


def traceback_of(error: BaseException) -> str:
    """As Python prints it, from the first line outside of the kernel on; bounded, without values of variables."""
    try:
        text = readable_whole("".join(_chain(error)))
    except _HOSTILE as trouble:
        return f"(its traceback can't be read: {type_of(trouble)})"
    if len(text) <= TRACEBACK_CHARACTERS_MAX:
        return text
    head = TRACEBACK_CHARACTERS_MAX // 4
    return f"{text[:head]}\n  [...]\n{text[-(TRACEBACK_CHARACTERS_MAX - head) :]}"


def lines_of(error: BaseException) -> list[tuple[str, int]]:
    """File and line of each frame it came through, the innermost last."""
    return [(frame.f_code.co_filename, line) for frame, line in walk_tb(frames_of(error))]


def package_of(error: BaseException) -> str:
    """The top-level package whose code raised it; "" where none is known."""
    module: object = ""
    for frame, _ in walk_tb(frames_of(error)):
        module = frame.f_globals.get("__name__")
    return module.partition(".")[0] if isinstance(module, str) else ""


def frames_of(error: BaseException) -> TracebackType | None:
    """Its traceback as Python keeps it, past any attribute of its own."""
    found: TracebackType | None = _TRACEBACK.__get__(error)
    return found


def presentable(error: BaseException) -> BaseException:
    """The exception itself where whoever gets it can read and print it; else an `Unreadable` for it.

    That has the original's traceback, and its type and text in its own.
    """
    try:
        return error if _is_readable(error) else standing_for(error)
    except _HOSTILE:
        return standing_for(error)


def _is_readable(error: BaseException) -> bool:
    """All that others ask of an exception; what it answers with an error is raised."""
    list(error.args)
    # A lone surrogate is no UTF-8: whoever writes it to a file or a wire would fail.
    "".join(traceback.format_exception(error)).encode()
    repr(error).encode()
    return (
        len(str(error)) <= 2 * MESSAGE_LENGTH_MAX
        and len(repr(error)) <= 4 * MESSAGE_LENGTH_MAX
        and error.__class__ is type(error)
        and len(list(_causes(error, at_most=_PRINTED_MAX + 1))) <= _PRINTED_MAX
    )


def standing_for(error: BaseException) -> Exception:
    """An ordinary exception with the type and text of that one in its own, and its traceback."""
    stands_for_it = Unreadable(f"{type_of(error)}: {message_of(error)[:LINE_LENGTH_MAX]}")
    return stands_for_it.with_traceback(frames_of(error))


def clear_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an exception and of what caused it: their frames may hold it in a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        _TRACEBACK.__set__(error, None)
        error = _CAUSE.__get__(error) or _CONTEXT.__get__(error)


def readable_whole(text: str) -> str:
    """`readable`, of any length."""
    parts = (
        text[first : first + MESSAGE_LENGTH_MAX]
        for first in range(0, len(text), MESSAGE_LENGTH_MAX)
    )
    return "".join(map(readable, parts))


class _Cause(NamedTuple):
    error: BaseException
    joint: str


def _chain(error: BaseException, *, depth: int = 0) -> Iterator[str]:
    """The first cause first, as Python does."""
    for cause in reversed(list(_causes(error))):
        yield from _one(cause.error, depth)
        if cause.joint:
            yield f"\n{cause.joint}\n\n"


def _causes(error: BaseException, *, at_most: int = CHAIN_MAX) -> Iterator[_Cause]:
    seen: set[int] = set()
    joint, current = "", error
    for _ in range(at_most):
        seen.add(id(current))
        yield _Cause(current, joint)
        cause, context = _CAUSE.__get__(current), _CONTEXT.__get__(current)
        if cause is not None:
            current = cause
            joint = "The above exception was the direct cause of the following exception:"
        elif context is not None and not _SUPPRESSED.__get__(current):
            current = context
            joint = "During handling of the above exception, another exception occurred:"
        else:
            return
        if id(current) in seen:
            return


def _one(error: BaseException, depth: int) -> Iterator[str]:
    frames = _frames(error)
    if frames:
        yield "Traceback (most recent call last):\n"
        yield from StackSummary.from_list(frames).format()
    yield f"{type_of(error)}: {message_of(error)}\n"
    yield from _notes(error)
    if not issubclass(
        type(error), BaseExceptionGroup
    ):  # `isinstance` would ask the exception itself
        return
    grouped: tuple[BaseException, ...] = _GROUPED.__get__(error)
    if depth >= CHAIN_MAX:
        yield f"  [{len(grouped)} exceptions, each with others]\n"
        return
    for number, each in enumerate(grouped[:GROUP_MAX], start=1):
        lines = "".join(_chain(each, depth=depth + 1))
        yield f"  {number}. of {len(grouped)}:\n"
        yield from (f"    {line}\n" for line in lines.splitlines())


def _notes(error: BaseException) -> Iterator[str]:
    try:
        yield from [f"{str.__str__(note)}\n" for note in error.__notes__[:GROUP_MAX]]
    except _HOSTILE:  # none, as a rule
        return


def _frames(error: BaseException) -> list[FrameSummary]:
    """From the first one outside of the kernel on; of very many, the first and the last."""
    walked = list(walk_tb(frames_of(error)))
    names = [frame.f_globals.get("__name__") for frame, _ in walked]
    first = next((at for at, name in enumerate(names) if not _is_kernel(name)), len(walked))
    kept = walked[first:]
    if len(kept) > FRAMES_MAX:
        kept = [*kept[: FRAMES_MAX // 3], *kept[-2 * FRAMES_MAX // 3 :]]
    return list(StackSummary.extract(iter(kept), capture_locals=False))


def _is_kernel(module: object) -> bool:
    return isinstance(module, str) and module.startswith(_KERNEL)
