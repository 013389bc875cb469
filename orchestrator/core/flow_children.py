"""`Flow`'s children: runs of their own, that it starts in its turn's transaction."""

from __future__ import annotations

from typing import Any, TypeVar, get_args, overload

from orchestrator.core.checks import KEY_LENGTH_MAX, check_delay, composed
from orchestrator.core.definition import Process, TypedProcess
from orchestrator.core.durations import Duration, seconds_or_none
from orchestrator.core.flow_part import FlowPart
from orchestrator.core.kinds.child import ChildCall, ChildHandle, OnParentEnd
from orchestrator.core.pending import Pending
from orchestrator.errors import DefinitionError

I = TypeVar("I")  # noqa: E741 - the input's
R = TypeVar("R")


class Children(FlowPart):
    """What a `Flow` starts as runs of their own."""

    @overload
    def child(
        self,
        process: TypedProcess[None, R],
        /,
        *,
        name: str | None = ...,
        key: str | None = ...,
        business_key: str | None = ...,
        on_parent_end: OnParentEnd = ...,
        expires_in: Duration | None = ...,
    ) -> Pending[R]: ...
    @overload
    def child(
        self,
        process: TypedProcess[I, R],
        input: I,
        /,
        *,
        name: str | None = ...,
        key: str | None = ...,
        business_key: str | None = ...,
        on_parent_end: OnParentEnd = ...,
        expires_in: Duration | None = ...,
    ) -> Pending[R]: ...
    @overload
    def child(
        self,
        process: str,
        input: Any = ...,
        /,
        *,
        name: str | None = ...,
        key: str | None = ...,
        business_key: str | None = ...,
        on_parent_end: OnParentEnd = ...,
        expires_in: Duration | None = ...,
    ) -> Pending[Any]: ...
    def child(
        self,
        process: Any,
        input: Any = None,  # noqa: A002 - the natural word
        /,
        *,
        name: str | None = None,
        key: str | None = None,
        business_key: str | None = None,
        on_parent_end: OnParentEnd = "cancel",
        expires_in: Duration | None = None,
    ) -> Pending[Any]:
        """Start a run of that process, in the transaction of this turn; awaiting gives its result.

        It is of the version that new runs take. `process`: a process, or the name of one that is deployed, whose result
        has no type here. `name` is what people read, by default the process', and `key` its name in the journal.
        `on_parent_end`: what the end of this run does to it, and a race or a block that is over without it: "cancel"
        it, "abandon" it to go on by itself, or "wait" for it before this flow ends.

        Raises InvalidInput here; at the await ChildFailed, where it failed, was cancelled or has expired, and
        ChildKeyTaken, where its `business_key` is another run's.
        """
        call = _call(process, input, business_key, on_parent_end, expires_in)
        return self._asked(_name(name, call), key, call)

    @overload
    def start_child(
        self,
        process: TypedProcess[None, Any] | str,
        /,
        *,
        name: str | None = ...,
        key: str | None = ...,
        business_key: str | None = ...,
        on_parent_end: OnParentEnd = ...,
        expires_in: Duration | None = ...,
    ) -> Pending[ChildHandle]: ...
    @overload
    def start_child(
        self,
        process: TypedProcess[I, Any],
        input: I,
        /,
        *,
        name: str | None = ...,
        key: str | None = ...,
        business_key: str | None = ...,
        on_parent_end: OnParentEnd = ...,
        expires_in: Duration | None = ...,
    ) -> Pending[ChildHandle]: ...
    @overload
    def start_child(
        self,
        process: str,
        input: Any,
        /,
        *,
        name: str | None = ...,
        key: str | None = ...,
        business_key: str | None = ...,
        on_parent_end: OnParentEnd = ...,
        expires_in: Duration | None = ...,
    ) -> Pending[ChildHandle]: ...
    def start_child(
        self,
        process: Any,
        input: Any = None,  # noqa: A002 - the natural word
        /,
        *,
        name: str | None = None,
        key: str | None = None,
        business_key: str | None = None,
        on_parent_end: OnParentEnd = "abandon",
        expires_in: Duration | None = None,
    ) -> Pending[ChildHandle]:
        """Start a run of that process, and don't wait for its end; awaiting gives its id, once it is there.

        As `child` does, but that it goes on by itself when this run ends, unless `on_parent_end` is "cancel". Raises
        InvalidInput here, and ChildKeyTaken at the await.
        """
        call = _call(process, input, business_key, on_parent_end, expires_in, started_at=self.now)
        if call.is_waited_for_at_the_end:
            raise DefinitionError(
                f"child {_name(name, call)} is started and not awaited, and yet to be waited for at the end",
                remedy='Use flow.child, or on_parent_end="cancel" or "abandon".',
            )
        return self._asked(_name(name, call), key, call)


def _call(
    process: Any,
    value: Any,
    business_key: str | None,
    on_parent_end: OnParentEnd,
    expires_in: Duration | None,
    **more: Any,
) -> ChildCall:
    if not isinstance(process, (Process, str)):
        raise DefinitionError(
            f"a child is given {process!r}, which is no process",
            remedy="Give what @process has made, or the name of a process that is deployed.",
        )
    if on_parent_end not in get_args(OnParentEnd):
        raise DefinitionError(
            f"a child is given on_parent_end={on_parent_end!r}",
            remedy=f"Give one of {', '.join(map(repr, get_args(OnParentEnd)))}.",
        )
    seconds = seconds_or_none(expires_in, what="expires_in of a child")
    if seconds is not None:
        check_delay(seconds, what="expires_in of a child")
    if business_key is not None:
        business_key = composed(business_key)
        if not (0 < len(business_key) <= KEY_LENGTH_MAX and business_key.isprintable()):
            raise DefinitionError(
                f"{business_key[:40]!r} can't be the business key of a child",
                remedy=f"Use 1 to {KEY_LENGTH_MAX} printable characters.",
            )
    return ChildCall(process, value, business_key, on_parent_end, seconds, **more)


def _name(name: str | None, call: ChildCall) -> str:
    if name is not None:
        return composed(name)
    return call.process.name if isinstance(call.process, Process) else call.process
