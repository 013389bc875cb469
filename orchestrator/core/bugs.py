"""An exception that a flow raised, explained: its own line, and the remedy that its text doesn't have."""

from __future__ import annotations

from types import CoroutineType
from typing import Any

from orchestrator.core.failures import lines_of, message_of, package_of
from orchestrator.errors import PayloadError

_LOOPS = frozenset({"asyncio", "anyio", "trio", "sniffio", "curio"})
_NO_LOOP = ("no running event loop", "no current event loop", "unknown async library")
WHY_PARKED = (
    "An exception that a flow doesn't catch is taken for a bug, and parks its run: mend the flow, then resume. "
    'Where such runs are to fail instead: @process(version=…, on_error="fail")'
)
OWN_AWAITABLES = (
    "Await flow.stage, flow.step, flow.sleep, flow.signal, flow.approval or flow.gather"
)


def explain(error: BaseException, *, file: str) -> str:
    """The error, the line of `file`, the flow's, that it came through, and what to do where we know it."""
    line = line_of(error, file=file)
    place = f" (at {line})" if line else ""
    return f"{message_of(error)}{place}{_remedy_for(error)}"


def line_of(error: BaseException, *, file: str) -> str:
    """The line of `file` that it came through, or else the last one; as `file:line`."""
    lines = lines_of(error)
    own = [line for line in lines if line[0] == file]
    # PayloadErrors we raise ourselves, and say of what.
    elsewhere = [] if issubclass(type(error), PayloadError) else lines
    return "".join(f"{name}:{line}" for name, line in (own or elsewhere)[-1:])


def _remedy_for(error: BaseException) -> str:
    if not _wants_a_loop(error):
        return ""
    return (
        ". No event loop drives a flow: it rests in the record between two awaits. "
        f"{OWN_AWAITABLES}; what needs asyncio goes into a stage, under asyncio.run"
    )


def foreign(awaited: Any) -> str:
    """What is wrong with awaiting this."""
    if awaited is None:  # asyncio.sleep(0) and its like give way to a loop so
        return "a flow awaited something of an event loop's, which doesn't drive it"
    kind = type(awaited)
    if isinstance(awaited, CoroutineType):
        awaited.close()
    return f"a flow awaited a {kind.__module__}.{kind.__qualname__}, which is not one of flow's own"


def _wants_a_loop(error: BaseException) -> bool:
    message = message_of(error)
    return any(words in message for words in _NO_LOOP) or package_of(error) in _LOOPS
