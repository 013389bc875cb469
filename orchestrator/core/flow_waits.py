"""`Flow`'s waits for the world: signals; and what it may ask without waiting: chance, and whether a signal is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, Generic, TypeVar, overload
from uuid import UUID

from orchestrator.core import codec
from orchestrator.core.checks import check_count, check_moment, check_words, composed, due_in
from orchestrator.core.durations import Duration, seconds_or_none
from orchestrator.core.flow_part import FlowPart
from orchestrator.core.kinds.base import Ask
from orchestrator.core.kinds.signal import NO_DEFAULT, NoDefault, OnInvalid, SignalWait
from orchestrator.core.pending import Pending
from orchestrator.errors import DefinitionError, PayloadError, SignalTimedOut

T = TypeVar("T")
D = TypeVar("D")

_DOUBLES = 1 << 53
"""How many numbers `Flow.random` chooses from: as many as Python's own."""


class Waits(FlowPart):
    """What a `Flow` waits for from outside."""

    # -- signals -----------------------------------------------------------------------------

    @overload
    def signal(
        self,
        name: str,
        *,
        type: type[T],
        timeout: Duration | None = ...,
        until: datetime | None = ...,
        correlation: str | None = ...,
        on_invalid: OnInvalid | None = ...,
        on_unfit: OnInvalid | None = ...,
        key: str | None = ...,
    ) -> Pending[T]: ...
    @overload
    def signal(
        self,
        name: str,
        *,
        type: type[T],
        default: D,
        timeout: Duration | None = ...,
        until: datetime | None = ...,
        correlation: str | None = ...,
        on_invalid: OnInvalid | None = ...,
        on_unfit: OnInvalid | None = ...,
        key: str | None = ...,
    ) -> Pending[T | D]: ...
    @overload
    def signal(
        self,
        name: str,
        *,
        timeout: Duration | None = ...,
        until: datetime | None = ...,
        correlation: str | None = ...,
        default: Any = ...,
        type: Any = ...,
        on_invalid: OnInvalid | None = ...,
        on_unfit: OnInvalid | None = ...,
        key: str | None = ...,
    ) -> Pending[Any]: ...
    def signal(
        self,
        name: str,
        *,
        timeout: Duration | None = None,
        until: datetime | None = None,
        correlation: str | None = None,
        default: Any = NO_DEFAULT,
        type: Any = Any,  # noqa: A002 - the natural word
        on_invalid: OnInvalid | None = None,
        on_unfit: OnInvalid | None = None,
        key: str | None = None,
    ) -> Pending[Any]:
        """Wait for the next unconsumed signal of that name; awaiting gives its payload as `type`.

        A signal that came before the wait counts, also where `timeout` is over at once. `until`: a moment with a time
        zone, in place of a `timeout`. At either's end `default` is the answer; without one SignalTimedOut is raised at
        the await. A signal that does not fit `type` is set aside, in sight (`show`, `history`), and the next one is
        taken; with `on_invalid="raise"` it is taken, and PayloadError raised at the await, the same at each replay.
        `on_unfit` is the former name of `on_invalid`.

        `correlation`: the wait is for signals that were sent by this key and not to a run, also before the run began
        (`client.signal(correlation=…, name=…)`). One run at a time may wait for a name and key; CorrelationTaken is
        raised at the await of any other.
        """
        wait = _wait_of(
            name,
            timeout=timeout,
            until=until,
            default=default,
            declared=type,
            on_invalid=on_invalid,
            on_unfit=on_unfit,
            correlation=correlation,
        )
        return self._asked(wait.name_of(name), key, wait)

    @overload
    def signals(
        self,
        name: str,
        *,
        type: type[T],
        timeout: Duration | None = ...,
        until: datetime | None = ...,
        max: int | None = ...,
        on_invalid: OnInvalid | None = ...,
    ) -> Signals[T]: ...
    @overload
    def signals(
        self,
        name: str,
        *,
        type: Any = ...,
        timeout: Duration | None = ...,
        until: datetime | None = ...,
        max: int | None = ...,
        on_invalid: OnInvalid | None = ...,
    ) -> Signals[Any]: ...
    def signals(
        self,
        name: str,
        *,
        type: Any = Any,  # noqa: A002 - the natural word
        timeout: Duration | None = None,
        until: datetime | None = None,
        max: int | None = None,  # noqa: A002 - the natural word
        on_invalid: OnInvalid | None = None,
    ) -> Signals[Any]:
        """The signals of that name as they come: `async for change in flow.signals("change", until=deadline):`.

        It ends, without an error, when none has come for `timeout`, at the moment `until`, or after `max` of them.
        Each is a wait of its own, as `signal` makes it; none is open between two of them.
        """
        check_count(max, least=0, what="flow.signals", name="max")
        wait = _wait_of(name, timeout=timeout, until=until, declared=type, on_invalid=on_invalid)
        return Signals(self._asked, composed(name), wait, max)

    def peek(self, name: str) -> bool:
        """Whether a signal of that name is there already: it came before `flow.now`, and no wait has taken it.

        It is not taken. What is answered is recorded, so that it is the same at each replay; so don't ask in a loop
        that awaits nothing else.
        """
        name = composed(name)
        check_words(name, what="a signal's name", where="flow.peek")
        return self._recorder.peek(name)

    # -- chance ------------------------------------------------------------------------------

    def uuid(self, name: str = "") -> UUID:
        """A UUID, another one at each call and the same at each replay: an id of an order, or of a request.

        It is derived from the run's id and from how many were asked for before in this branch, and nothing is
        recorded. It is of version 8 (RFC 9562). With a `name` it counts those of that name alone, so that calls
        which are added elsewhere don't change it. Not for secrets: whoever knows the run's id can compute it. A
        secret is made in a step or a stage.
        """
        drawn = bytearray(self._recorder.draw(f"uuid {composed(name)}")[:16])
        drawn[6], drawn[8] = drawn[6] & 0x0F | 0x80, drawn[8] & 0x3F | 0x80
        return UUID(bytes=bytes(drawn))

    def random(self, name: str = "") -> float:
        """A number from 0 up to 1, another one at each call and the same at each replay: for samples and jitter.

        As `uuid` in all else; never for a secret, which is made in a step or a stage.
        """
        drawn = int.from_bytes(self._recorder.draw(f"random {composed(name)}")[:8], "big")
        return (drawn >> 11) / _DOUBLES


class Signals(Generic[T]):
    """Signals of one name, one after the other; made by `Flow.signals`."""

    def __init__(
        self,
        asks: Callable[[str, str | None, Ask], Pending[Any]],
        name: str,
        wait: SignalWait,
        most: int | None,
    ) -> None:
        self._asks, self._name, self._wait, self._left = asks, name, wait, most

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        if self._left is not None:
            if self._left == 0:
                raise StopAsyncIteration
            self._left -= 1
        try:
            came: T = await self._asks(self._name, None, self._wait)
        except SignalTimedOut:
            self._left = 0
            raise StopAsyncIteration from None
        return came


def _wait_of(
    name: str,
    *,
    timeout: Duration | None,
    until: datetime | None,
    declared: Any,
    on_invalid: OnInvalid | None,
    default: Any = NO_DEFAULT,
    on_unfit: OnInvalid | None = None,
    correlation: str | None = None,
) -> SignalWait:
    """What is asked for. Raises DefinitionError."""
    if on_invalid is not None and on_unfit is not None:
        raise DefinitionError(
            "flow.signal is given on_invalid and on_unfit, which are one thing",
            remedy="Leave out on_unfit, its former name.",
        )
    on_invalid = on_invalid or on_unfit or "set_aside"
    if on_invalid not in ("set_aside", "raise"):
        raise DefinitionError(
            f'flow.signal(on_invalid) is "set_aside" or "raise", not {on_invalid!r}'
        )
    check_type(declared, what=f"signal {name!r}")
    timeout_seconds = end_of(timeout, until, what=f"signal {name!r}")
    if not isinstance(default, NoDefault):
        _check_default(name, default, ends=timeout is not None or until is not None)
    return SignalWait(timeout_seconds, declared, on_invalid, until, default, correlation)


def check_type(declared: Any, *, what: str) -> None:
    """What an answer is to be. Raises DefinitionError: no value of that type can be read."""
    try:
        codec.check_declared(declared, what=what)
    except PayloadError as error:
        raise DefinitionError(str(error)) from None


def end_of(timeout: Duration | None, until: datetime | None, *, what: str) -> float | None:
    """The seconds of a timeout, if there is one; the moment is looked at too. Raises DefinitionError."""
    if timeout is not None and until is not None:
        raise DefinitionError(
            f"the wait for {what} is given a timeout and until", remedy="Give one of the two."
        )
    if until is not None:
        if not isinstance(until, datetime):
            raise DefinitionError(
                f"the wait for {what} is given until={until!r}, a {type(until).__name__}",
                remedy="Give a datetime with a time zone, or a timeout.",
            )
        check_moment(until, what=f"until of the wait for {what}")
    seconds = seconds_or_none(timeout, what=f"the timeout of {what}")
    return None if seconds is None else due_in(seconds, what=f"the timeout of {what}")


def _check_default(name: str, default: Any, *, ends: bool) -> None:
    if not ends:
        raise DefinitionError(
            f"the wait for signal {name!r} has a default, and never ends without a signal",
            remedy="Give a timeout or until.",
        )
    try:
        codec.encode(default, type(default), what=f"the default of signal {name!r}")
    except PayloadError as error:
        raise DefinitionError(
            str(error).removesuffix("."),
            remedy="A default is a value that a signal could have brought: plain data or a model.",
        ) from None
