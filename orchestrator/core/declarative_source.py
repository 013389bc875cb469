"""YAML text in; plain values out, with the line that each of them stands on.

`read_yaml` is the whole of it. It builds values from the parser's events and not with the YAML
library's constructors, so that the file says what a reader thinks it says: scalars follow the core
schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), by which `on`, `NO` and `9:30`
are text; no tag can make an object; and a file is refused as soon as it passes a bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from orchestrator.errors import DefinitionError

TEXT_CHARACTERS_MAX = 256 * 1024
"""The longest file. The pure parser reads about 300,000 characters a second at worst."""

VALUES_MAX = 10_000
"""The most values of a file, with those that an alias repeats counted each time."""

DEPTH_MAX = 32
"""How deep lists and mappings may nest."""

YamlPath = tuple[str | int, ...]
"""Where a value stands: `("process", "stages", 2)`."""

_CORE_SCHEMA: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"~|null|Null|NULL|"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]{1,18}"), int),  # a longer one is a float: no bignum, no limit to hit
    (re.compile(r"0o[0-7]{1,18}"), lambda text: int(text, 0)),
    (re.compile(r"0x[0-9a-fA-F]{1,15}"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (
        re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
        lambda text: float(text.replace(".", "")),
    ),
)


@dataclass(frozen=True, slots=True)
class Source:
    """A file's value as dicts, lists and scalars, and the lines (from 1) of its keys and items."""

    name: str
    value: Any
    lines: Mapping[YamlPath, int]

    def line_of(self, path: YamlPath) -> int:
        """The line of what stands at `path`, or of the nearest thing around it."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)

    def where(self, path: YamlPath) -> str:
        """`access.yaml:4`."""
        return f"{self.name}:{self.line_of(path)}"


def read_yaml(text: str, *, source: str) -> Source:
    """Read one YAML document. `source` names it in errors.

    Raises DefinitionError, with `source:line`: it can't be parsed, has a key twice, an alias
    without its anchor, a tag, a second document, or passes one of the bounds above.
    """
    if len(text) > TEXT_CHARACTERS_MAX:
        raise DefinitionError(
            f"the file has {len(text)} characters; the bound is {TEXT_CHARACTERS_MAX}",
            where=f"{source}:1",
            remedy="Split it into several processes.",
        )
    reader = _Reader(_events_of(text, source), source)
    return Source(source, reader.read_document(), reader.lines)


def _events_of(text: str, source: str) -> Iterator[Event]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        mark, began = error.problem_mark or error.context_mark, error.context_mark
        since = f" ({error.context}, line {began.line + 1})" if began else ""
        where = f"{source}:{mark.line + 1 if mark else 1}"
        raise _not_yaml(f"{error.problem or error.context}{since}", where) from None
    except ReaderError as error:
        where = f"{source}:{text.count(chr(10), 0, error.position) + 1}"
        raise _not_yaml(f"character U+{error.character:04X} is not allowed", where) from None
    except (ValueError, OverflowError) as error:  # an escape or a %YAML version past any bound
        raise _not_yaml(str(error), f"{source}:1") from None


def _not_yaml(problem: str, where: str) -> DefinitionError:
    return DefinitionError(
        f"this is not YAML: {problem}",
        where=where,
        remedy="Mend it there or just above: indent with spaces, close brackets and quotes, "
        "and quote text that holds ': ' or ' #'.",
    )


_Node = ScalarEvent | SequenceStartEvent | MappingStartEvent | AliasEvent


@dataclass
class _Reader:
    """Builds the value of the one document. The parser pairs every start event with its end."""

    events: Iterator[Any]
    source: str
    lines: dict[YamlPath, int] = field(default_factory=dict)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)
    values: int = 0

    def read_document(self) -> Any:
        value, documents = None, 0
        for event in self.events:
            documents += isinstance(event, DocumentStartEvent)
            if documents > 1:
                raise self._refused(
                    event, "a second document begins here", "Give each process its own file."
                )
            if isinstance(event, _Node):
                value = self._read(event, ())
        return value

    def _read(self, event: _Node, path: YamlPath) -> Any:
        self.lines.setdefault(path, _line(event))
        if isinstance(event, AliasEvent):
            return self._read_alias(event)
        if event.tag is not None:
            raise self._refused(event, f"the tag {event.tag!r} means nothing here", "Take it away.")
        if len(path) > DEPTH_MAX:
            raise self._refused(event, f"this nests deeper than {DEPTH_MAX} levels", "Flatten it.")
        before = self.values
        self._count(event, 1)
        if isinstance(event, MappingStartEvent):
            value: Any = self._read_mapping(path)
        elif isinstance(event, SequenceStartEvent):
            value = self._read_sequence(path)
        else:
            value = _scalar(event)
        if event.anchor:
            self.anchors[event.anchor] = (value, self.values - before)
        return value

    def _read_mapping(self, path: YamlPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            if not isinstance(event, ScalarEvent) or event.tag is not None:
                raise self._refused(
                    event, "a key is a list, a mapping, an alias or tagged", "Write a plain word."
                )
            key = str(event.value)
            if key in mapping:
                first = self.lines[*path, key]
                raise self._refused(
                    event, f"key {key!r} stands here twice, first on line {first}", "Keep one."
                )
            self.lines[*path, key] = _line(event)
            mapping[key] = self._read(next(self.events), (*path, key))
        return mapping

    def _read_sequence(self, path: YamlPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            items.append(self._read(event, (*path, len(items))))
        return items

    def _read_alias(self, event: AliasEvent) -> Any:
        if event.anchor not in self.anchors:
            raise self._refused(
                event,
                f"alias *{event.anchor} has no anchor above it",
                f"Write &{event.anchor} before the value.",
            )
        value, values = self.anchors[event.anchor]
        self._count(event, values)
        return value

    def _count(self, event: Event, values: int) -> None:
        self.values += values
        if self.values > VALUES_MAX:
            raise self._refused(
                event,
                f"the file holds more than {VALUES_MAX} values",
                "Split it into several processes.",
            )

    def _refused(self, event: Event, problem: str, remedy: str) -> DefinitionError:
        return DefinitionError(problem, where=f"{self.source}:{_line(event)}", remedy=remedy)


def _line(event: Event) -> int:
    return int(event.start_mark.line) + 1


def _scalar(event: ScalarEvent) -> Any:
    text = str(event.value)
    is_plain = event.implicit[0]
    meanings = (
        convert for pattern, convert in _CORE_SCHEMA if is_plain and pattern.fullmatch(text)
    )
    return next(meanings, str)(text)
