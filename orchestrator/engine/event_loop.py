"""The event loop of this process: one, on a thread of its own, where every `async def` stage and step runs.

    awaited(value, …)        what a call came to; of a coroutine its result, which this thread waits for
    EVENT_LOOP.begin(…)      a coroutine, for whose end nobody waits: a function is called then
    EVENT_LOOP.aside(…)      from a coroutine: a call that blocks, on a thread that may

It begins with the first coroutine, and stays: what an author makes on it once (an httpx.AsyncClient, an engine of
SQLAlchemy's asyncio) works over stages. A forked child has none until it needs one. Under gevent its thread is a
native one, so that no greenlet finds itself on a running loop; what blocks is called on the side of the pool, and
the two sides meet through a socket alone. (docs/adr/0053)
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from types import CoroutineType
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

THREADS_ASIDE = 4
"""So many threads do what blocks: as the record is written to, most of all."""

CLEAN_UP_SECONDS = 5.0
"""So long a cancelled coroutine has for its `finally`, where a thread waits for it."""

_WAKE = b"\0"


class StageTimedOut(Exception):
    """A coroutine overran its time, and was cancelled."""


class Call:
    """A coroutine on the loop, until its end; then what it came to."""

    __slots__ = ("_error", "_value", "is_begun", "is_cancelled", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self.is_begun = False
        self.is_cancelled = False
        """Whether `cancel` was called, which nobody does for what its author has written."""

    def result(self) -> Any:
        """Its result. Raises what it raised. Once."""
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise error
        finally:
            del error  # its traceback leads here

    async def run(self, coroutine: Coroutine[Any, Any, Any], seconds: float | None) -> None:
        """Nothing is raised here: Python ends a loop on which a task raises SystemExit."""
        try:
            self._value = await _within(coroutine, seconds)
        except BaseException as error:  # noqa: BLE001 - it is its caller's to judge
            self._error = error


async def _within(coroutine: Coroutine[Any, Any, T], seconds: float | None) -> T:
    bound = asyncio.timeout(seconds)
    try:
        async with bound:
            return await coroutine
    except TimeoutError as error:
        if not bound.expired():
            raise
        cancelled = error.__cause__  # its traceback leads to the author's line
        late = StageTimedOut(f"it overran its timeout of {seconds:g} s")
        raise late.with_traceback(None if cancelled is None else cancelled.__traceback__) from None


class EventLoop:
    """The loop, its thread, and the threads aside. `begin` and `run` are for threads of the pool."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child, what the parent had is not ours."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._aside: _Aside | None = None

    def begin(
        self,
        coroutine: Coroutine[Any, Any, Any],
        *,
        timeout_seconds: float | None,
        on_end: Callable[[Call], None],
    ) -> Call:
        """Start it in a copy of the caller's context. At its end `on_end(call)` is called, on the loop: briefly.

        Overrunning `timeout_seconds`, it is cancelled, and ends as StageTimedOut.
        """
        call = Call()
        self._begin(call, coroutine, timeout_seconds, on_end)
        return call

    def _begin(
        self,
        call: Call,
        coroutine: Coroutine[Any, Any, Any],
        timeout_seconds: float | None,
        on_end: Callable[[Call], None],
    ) -> None:
        loop = self._running()

        def start() -> None:
            call.task = task = loop.create_task(
                call.run(coroutine, timeout_seconds),
            )
            task.add_done_callback(ended)

        def ended(_task: object) -> None:
            coroutine.close()  # one that was cancelled before it began has never been awaited
            on_end(call)

        call.is_begun = True  # below, asyncio takes a copy of the caller's context
        loop.call_soon_threadsafe(start)

    def cancel(self, call: Call) -> None:
        """Cancel it, from any thread. Its end comes as ever."""
        call.is_cancelled = True
        loop = self._running()

        def cancel() -> None:
            if call.task is not None:
                call.task.cancel()

        loop.call_soon_threadsafe(cancel)

    def run(self, coroutine: Coroutine[Any, Any, T], *, timeout_seconds: float | None = None) -> T:
        """Its result. This thread waits; whatever ends that wait (Celery's time limit, Ctrl-C) cancels it."""
        ours, theirs = socket.socketpair()
        number = theirs.detach()  # the loop's to close, which may be later than the wait
        with ours:
            call = Call()
            try:
                self._begin(call, coroutine, timeout_seconds, lambda _call: os.close(number))
                ours.recv(1)
            except BaseException:
                if not call.is_begun:
                    coroutine.close()
                    os.close(number)
                    raise
                self.cancel(call)  # guard: who ends a wait cancels what it waits for
                ours.settimeout(CLEAN_UP_SECONDS)
                with suppress(TimeoutError):
                    ours.recv(1)
                raise
        result: T = call.result()
        return result

    async def aside(self, function: Callable[[], T]) -> T:
        """Its result, from a thread that may block. Only in what `begin` or `run` was given."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = copy_context()

        def call() -> None:
            try:
                value = context.run(function)
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to judge
                loop.call_soon_threadsafe(_settle, done, None, error)
            else:
                loop.call_soon_threadsafe(_settle, done, value, None)

        self.do_aside(call)
        return await done

    def do_aside(self, function: Callable[[], object]) -> None:
        """Have it called on a thread that may block."""
        assert self._aside is not None  # noqa: S101 - there are threads aside before there is a loop
        self._aside.do(function)

    def _running(self) -> asyncio.AbstractEventLoop:
        loop = self._loop
        if loop is None:
            with self._lock:
                loop = self._loop
                if loop is None:
                    self._aside = _Aside()
                    loop = self._loop = _new_loop(self._aside)
                    _start_native(loop.run_forever)
        return loop


def _settle(done: asyncio.Future[Any], value: object, error: BaseException | None) -> None:
    if done.done():  # its stage was cancelled
        return
    if error is None:
        done.set_result(value)
    else:
        done.set_exception(error)


class _Aside:
    """Threads that may block; under gevent greenlets of the pool's side."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(THREADS_ASIDE, thread_name_prefix="perennial-aside")
        self._asked: deque[Callable[[], object]] | None = None
        if _gevent_has_patched():
            self._asked = deque()
            self._ours, self._theirs = socket.socketpair()
            self._number = self._theirs.fileno()
            threading.Thread(target=self._pass_on, daemon=True, name="perennial-pass-on").start()

    def do(self, function: Callable[[], object]) -> None:
        if self._asked is None:
            self._executor.submit(_said, function)
            return
        self._asked.append(function)
        _wake(self._number)

    def _pass_on(self) -> None:
        asked = self._asked
        while asked is not None and self._ours.recv(4096):
            while asked:
                self._executor.submit(_said, asked.popleft())


def _said(function: Callable[[], object]) -> None:
    """Call it. Nobody waits for what it raises."""
    try:
        function()
    except BaseException:
        log.exception("what was done aside failed")


def _wake(number: int) -> None:
    """By the number of its file: gevent's sockets are one thread's."""
    with suppress(BlockingIOError):  # full of wakes: one of them will do
        os.write(number, _WAKE)


def _gevent_has_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


class _OnThePoolsSide(ThreadPoolExecutor):
    """The loop's executor under gevent, whose greenlets have no hub on the loop's thread: names are resolved so."""

    def __init__(self, aside: _Aside) -> None:
        super().__init__(1)
        self._its_aside = aside

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        done: Future[T] = Future()

        def call() -> None:
            try:
                value = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to judge
                done.set_exception(error)
            else:
                done.set_result(value)

        self._its_aside.do(call)
        return done


def _new_loop(aside: _Aside) -> asyncio.AbstractEventLoop:
    if not _gevent_has_patched():
        return asyncio.new_event_loop()
    selector: Any = sys.modules["gevent.monkey"].get_original("selectors", "DefaultSelector")
    loop = asyncio.SelectorEventLoop(selector())
    loop.set_default_executor(_OnThePoolsSide(aside))
    return loop


def _start_native(function: Callable[[], None]) -> None:
    if _gevent_has_patched():
        start: Any = sys.modules["gevent.monkey"].get_original("_thread", "start_new_thread")
        start(function, ())
        return
    threading.Thread(target=function, daemon=True, name="perennial-event-loop").start()


EVENT_LOOP = EventLoop()
"""This process'."""

os.register_at_fork(after_in_child=EVENT_LOOP.forget)


def awaited(value: Any, *, timeout_seconds: float | None = None) -> Any:
    """What was returned; where that is a coroutine, its result, for which this thread waits."""
    if type(value) is CoroutineType:
        return EVENT_LOOP.run(value, timeout_seconds=timeout_seconds)
    return value
