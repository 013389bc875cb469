"""Sees a flow read a clock, roll dice, sleep, start a thread or open a file, while a turn decides; with its line.

Only what a line of the author's own calls counts: what Perennial does itself, the standard library and packages is
passed over. The profiler's hook of this thread sees each call; so it is for tests, and costs a fleet nothing.
"""

from __future__ import annotations

import linecache
import os
import random
import sys
import sysconfig
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import orchestrator
from orchestrator.core.lint.module import is_allowed
from orchestrator.core.lint.rules import ADVICE, Rule
from orchestrator.testing.errors import FlowNotPure

_COMPILED: dict[Any, tuple[str, Rule]] = {
    datetime.now: ("datetime.now", Rule.CLOCK),
    datetime.utcnow: ("datetime.utcnow", Rule.CLOCK),
    datetime.today: ("datetime.today", Rule.CLOCK),
    date.today: ("date.today", Rule.CLOCK),
    **{
        getattr(time, name): (f"time.{name}", Rule.CLOCK)
        for name in (
            "time",
            "time_ns",
            "monotonic",
            "monotonic_ns",
            "perf_counter",
            "perf_counter_ns",
        )
    },
    time.sleep: ("time.sleep", Rule.SLEEP),
    random.random: ("random.random", Rule.CHANCE),
    os.urandom: ("os.urandom", Rule.CHANCE),
    open: ("open", Rule.OUTSIDE),
}
"""What is compiled: the hook is given it."""

_GLOBAL_DICE: Any = random.random.__self__  # type: ignore[attr-defined]  # behind the functions of the module

_WRITTEN: dict[CodeType, tuple[str, Rule]] = {
    uuid.uuid1.__code__: ("uuid.uuid1", Rule.CHANCE),
    uuid.uuid4.__code__: ("uuid.uuid4", Rule.CHANCE),
    threading.Thread.start.__code__: ("threading.Thread.start", Rule.THREAD),
    **{
        function.__code__: (f"random.{name}", Rule.CHANCE)
        for name, function in vars(random.Random).items()
        if hasattr(function, "__code__") and not name.startswith("_")
    },
}
"""What is written in Python: the hook is given its frame."""

_OTHERS = tuple(
    f"{Path(path).resolve()}{os.sep}"
    for path in (
        str(Path(orchestrator.__file__).parent),
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
    )
)


class Watch:
    """While the block runs, this thread's calls are seen. `seen`: by file and line."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], tuple[str, Rule]] = {}
        self._before: Callable[..., Any] | None = None

    def __enter__(self) -> None:
        self._before = sys.getprofile()
        sys.setprofile(self._see)

    def __exit__(self, *_error: object) -> None:
        sys.setprofile(self._before)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is called in the block is no flow's: a step."""
        sys.setprofile(self._before)
        try:
            yield
        finally:
            sys.setprofile(self._see)

    def refuse_what_was_seen(self) -> None:
        """Raises FlowNotPure, with the first line and what to write there."""
        for (file, line), (what, rule) in self.seen.items():
            raise FlowNotPure(
                f"{file}:{line}: the flow calls {what}: {ADVICE[rule].why}. Instead: {ADVICE[rule].instead}. If it is "
                "fine all the same, say so on its line: `# perennial: allow <the reason>`"
            )

    def _see(self, frame: FrameType, event: str, called: Any) -> None:
        caller: FrameType | None = frame
        if event == "c_call":
            found = _COMPILED.get(called)
        elif event == "call":
            found, caller = _WRITTEN.get(frame.f_code), frame.f_back
            if found is not None and frame.f_locals.get("self", _GLOBAL_DICE) is not _GLOBAL_DICE:
                found = found if found[1] is Rule.THREAD else None  # dice of one's own seed
        else:
            return
        if found is None or caller is None or not _is_authors(caller.f_code.co_filename):
            return
        file, line = caller.f_code.co_filename, caller.f_lineno
        if not is_allowed(linecache.getline(file, line)):
            self.seen.setdefault((file, line), found)


@cache
def _is_authors(file: str) -> bool:
    return not file.startswith("<") and not str(Path(file).resolve()).startswith(_OTHERS)
