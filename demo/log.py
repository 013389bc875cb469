"""An event log in the XES format, read as a stream: its requests, and how people decided them.

The rules, on the events of a trace in order of time (file order breaks ties):

- a trace with a `Permit ... by SUPERVISOR` decision is a request; others are not used;
- a decision is APPROVED, FINAL_APPROVED or REJECTED; SUBMITTED, SAVED and FOR_APPROVAL are not;
- the first such decision is the manager's, the first `Permit ... by ADMINISTRATION` decision is the
  security reviewer's; where that one is missing, the reviewer never answers;
- a person's delay is the time since the permit event (`Permit ...`) before the decision. A decision
  with none before it opens the trace: nobody was kept waiting, so its delay is zero.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import IO
from xml.parsers import expat

from orchestrator.errors import PerennialError

LOG_BYTES_MAX = 1024**3
"""The largest log that is read, unpacked."""

TRACES_MAX = 100_000
EVENTS_PER_TRACE_MAX = 10_000

_CHUNK_BYTES = 256 * 1024
_LOG_DEPTH, _TRACE_DEPTH, _EVENT_DEPTH, _ATTRIBUTE_DEPTH = 1, 2, 3, 4
_GZIP_MAGIC = b"\x1f\x8b"
_DECISIONS: Mapping[str, bool] = MappingProxyType(
    {"APPROVED": True, "FINAL_APPROVED": True, "REJECTED": False}
)


class LogError(PerennialError):
    """The event log can't be read; says which file, where and why."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a trace."""

    at: datetime
    name: str


@dataclass(frozen=True, slots=True)
class Trace:
    """One case of the log. `attributes` are its own, without its events'."""

    id: str
    attributes: Mapping[str, str]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class HumanDecision:
    """What a person decided, and how long it took them."""

    approved: bool
    delay: timedelta


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """A trace read as an access request. `security` None: the reviewer never answers."""

    trace_id: str
    attributes: Mapping[str, str]
    manager: HumanDecision
    security: HumanDecision | None


@dataclass(frozen=True, slots=True)
class ReadLog:
    """A whole log: its requests, and why the other traces are none (`unused`: reason -> count)."""

    source: str
    traces: int
    requests: tuple[DemoRequest, ...]
    unused: Mapping[str, int]


def read_log(path: Path | None) -> ReadLog:
    """The requests of the log at `path`, or of the bundled sample. Raises LogError."""
    if path is None:
        with (files("demo") / "sample.xes").open("rb") as sample:
            return _sort_out(
                stream_traces(sample, source="the bundled sample"), "the bundled sample"
            )
    try:
        with path.open("rb") as file:
            return _sort_out(stream_traces(file, source=str(path)), str(path))
    except OSError as error:
        raise LogError(f"{path} can't be read: {error.strerror or error}") from None


def request_of(trace: Trace) -> DemoRequest | None:
    """The trace as a request, by the rules at the top; None when no supervisor decided."""
    manager = _first_decision(trace, "SUPERVISOR")
    if manager is None:
        return None
    security = _first_decision(trace, "ADMINISTRATION")
    return DemoRequest(trace.id, trace.attributes, manager, security)


def stream_traces(file: IO[bytes], *, source: str) -> Iterator[Trace]:
    """Each trace of an XES document, gzipped or not, as soon as it is read whole.

    Raises LogError for what is not XES, holds a document type, or passes a bound of this module.
    """
    parser = _XesParser(source)
    unpacked_bytes = 0
    for chunk in _chunks(file, source):
        unpacked_bytes += len(chunk)
        if unpacked_bytes > LOG_BYTES_MAX:
            raise LogError(f"{source} is larger than {LOG_BYTES_MAX} bytes unpacked")
        yield from parser.feed(chunk)
    yield from parser.finish()


def _sort_out(traces: Iterator[Trace], source: str) -> ReadLog:
    requests: dict[str, DemoRequest] = {}
    unused: Counter[str] = Counter()
    count = 0
    for trace in traces:
        count += 1
        request = request_of(trace)
        if request is None:
            unused["no decision by a supervisor"] += 1
        elif trace.id in requests:
            unused["another trace has its name"] += 1
        else:
            requests[trace.id] = request
    return ReadLog(source, count, tuple(requests.values()), dict(unused))


def _first_decision(trace: Trace, role: str) -> HumanDecision | None:
    before: datetime | None = None
    for event in sorted(trace.events, key=lambda event: event.at):
        words = event.name.split()
        if not words or words[0] != "Permit":
            continue
        if words[2:] == ["by", role] and words[1] in _DECISIONS:
            return HumanDecision(_DECISIONS[words[1]], event.at - (before or event.at))
        before = event.at
    return None


def _chunks(file: IO[bytes], source: str) -> Iterator[bytes]:
    head = file.read(len(_GZIP_MAGIC))
    file.seek(0)
    stream = gzip.GzipFile(fileobj=file) if head == _GZIP_MAGIC else file
    try:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise LogError(f"{source} is not whole: {error}") from None


@dataclass(slots=True)
class _OpenTrace:
    attributes: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)


class _XesParser:
    """Expat's callbacks, gathered into traces. Nested attributes are passed over."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._depth = 0
        self._traces = 0
        self._trace: _OpenTrace | None = None
        self._event: dict[str, str] | None = None
        self._whole: list[Trace] = []
        self._expat = expat.ParserCreate(namespace_separator=" ")
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.StartDoctypeDeclHandler = self._refuse_doctype

    def feed(self, chunk: bytes) -> list[Trace]:
        return self._parse(chunk, last=False)

    def finish(self) -> list[Trace]:
        return self._parse(b"", last=True)

    def _parse(self, chunk: bytes, *, last: bool) -> list[Trace]:
        try:
            self._expat.Parse(chunk, last)
        except expat.ExpatError as error:
            raise LogError(f"{self._source} is not well-formed XML: {error}") from None
        whole, self._whole = self._whole, []
        return whole

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        tag = name.rpartition(" ")[2]
        if self._depth == _LOG_DEPTH and tag != "log":
            raise self._error(f"its root is <{tag}>, and that of an XES log is <log>")
        if self._depth == _TRACE_DEPTH and tag == "trace":
            self._trace = _OpenTrace()
        elif self._depth == _EVENT_DEPTH and self._trace is not None:
            if tag == "event":
                self._event = {}
            else:
                _keep(self._trace.attributes, attributes)
        elif self._depth == _ATTRIBUTE_DEPTH and self._event is not None:
            _keep(self._event, attributes)

    def _end(self, _name: str) -> None:
        if self._depth == _TRACE_DEPTH and self._trace is not None:
            self._whole.append(self._close_trace(self._trace))
            self._trace = None
        elif self._depth == _EVENT_DEPTH and self._event is not None and self._trace is not None:
            self._trace.events.append(self._close_event(self._event))
            self._event = None
            if len(self._trace.events) > EVENTS_PER_TRACE_MAX:
                raise self._error(f"a trace has more than {EVENTS_PER_TRACE_MAX} events")
        self._depth -= 1

    def _close_trace(self, trace: _OpenTrace) -> Trace:
        self._traces += 1
        if self._traces > TRACES_MAX:
            raise self._error(f"it has more than {TRACES_MAX} traces")
        name = trace.attributes.get("concept:name")
        if not name:
            raise self._error("a trace has no concept:name")
        return Trace(name, MappingProxyType(trace.attributes), tuple(trace.events))

    def _close_event(self, event: dict[str, str]) -> Event:
        try:
            at = datetime.fromisoformat(event["time:timestamp"])
            name = event["concept:name"]
        except KeyError as missing:
            raise self._error(f"an event has no {missing.args[0]}") from None
        except ValueError:
            raise self._error(f"{event['time:timestamp']!r} is not an ISO 8601 time") from None
        return Event(at if at.tzinfo else at.replace(tzinfo=UTC), name)

    def _refuse_doctype(self, *_declared: object) -> None:
        raise self._error(
            "it declares a document type, which XES does not use and which may hide a bomb"
        )

    def _error(self, problem: str) -> LogError:
        return LogError(f"{self._source}, line {self._expat.CurrentLineNumber}: {problem}")


def _keep(into: dict[str, str], attributes: dict[str, str]) -> None:
    key, value = attributes.get("key"), attributes.get("value")
    if key is not None and value is not None:
        into[key] = value
