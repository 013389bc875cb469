"""Exceptions that are hard to report, of every sort."""

from __future__ import annotations

from typing import Any, NoReturn


class Lazy:
    """Text that is none yet, as Django's lazy translations are."""

    def __str__(self) -> str:
        return "übersetzt"


class LazyText(Exception):
    def __str__(self) -> str:
        return Lazy()  # type: ignore[return-value]


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class TextIsNumber(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # noqa: PLE0307 - on purpose


class EndsTheProcess(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class AttributesRaise(Exception):
    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError(name)


class ClassRaises(Exception):
    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    @__class__.setter
    def __class__(self, value: Any) -> None: ...


class CauseRaises(Exception):
    @property
    def __cause__(self) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("no cause")

    @property
    def __traceback__(self) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("no traceback")


class NotesRaise(Exception):
    @property
    def __notes__(self) -> NoReturn:
        raise RuntimeError("no notes")


class Unpicklable(Exception):
    def __init__(self, one: object, *, two: object) -> None:
        super().__init__(one, lambda: two)

    def __reduce__(self) -> NoReturn:
        raise TypeError("not me")


class NoMessage(Exception): ...


class BadName(Exception): ...


BadName.__name__ = "BadName" * 10_000


def in_a_circle() -> Exception:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    return one


def of_many_causes() -> Exception:
    first: Exception = ValueError("the first")
    for number in range(3000):
        after = ValueError(f"after {number}")
        after.__cause__ = first
        first = after
    return first


def deep() -> Exception:
    group: Exception = ValueError("the innermost")
    for _ in range(200):
        group = ExceptionGroup("a group", [group, NoText()])
    return group


HOSTILE = {
    "lazy": LazyText,
    "no-text": NoText,
    "text-is-a-number": TextIsNumber,
    "ends-the-process": EndsTheProcess,
    "attributes-raise": AttributesRaise,
    "class-raises": ClassRaises,
    "cause-raises": CauseRaises,
    "notes-raise": NotesRaise,
    "unpicklable": lambda: Unpicklable(1, two=2),
    "no-message": NoMessage,
    "bad-name": BadName,
    "huge": lambda: ValueError("x" * 10_000_000),
    "nul-and-surrogates": lambda: ValueError("\x00\ud800"),
    "circle": in_a_circle,
    "many-causes": of_many_causes,
    "wide-group": lambda: ExceptionGroup("wide", [ValueError(each) for each in range(5000)]),
    "deep-group": deep,
}


def exception_of(sort: str) -> Exception:
    """A new one of that sort."""
    made: Exception = HOSTILE[sort]()
    return made
