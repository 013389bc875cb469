"""`Flow`'s callbacks: a token for a partner, and the answer that it comes back with."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar, cast, overload

from orchestrator.core.callback_token import CallbackToken
from orchestrator.core.checks import composed
from orchestrator.core.definition import Stage
from orchestrator.core.durations import Duration
from orchestrator.core.flow_part import FlowPart
from orchestrator.core.flow_waits import check_type, end_of
from orchestrator.core.kinds.callback import CallbackWait
from orchestrator.core.pending import Pending
from orchestrator.errors import DefinitionError

T = TypeVar("T")


class Callback(Pending[T]):
    """A promised answer. Await it for what the partner says; `token` is what a stage hands to the partner."""

    __slots__ = ()

    @property
    def token(self) -> CallbackToken:
        """For a stage whose parameter is declared `CallbackToken`."""
        return CallbackToken("", key=self.request.key)


class Callbacks(FlowPart):
    """What a `Flow` promises to partners."""

    @overload
    def callback(
        self,
        name: str,
        *,
        type: type[T],
        timeout: Duration | None = ...,
        until: datetime | None = ...,
        heartbeat: Duration | None = ...,
        key: str | None = ...,
    ) -> Callback[T]: ...
    @overload
    def callback(
        self,
        name: str,
        *,
        type: Any = ...,
        timeout: Duration | None = ...,
        until: datetime | None = ...,
        heartbeat: Duration | None = ...,
        key: str | None = ...,
    ) -> Callback[Any]: ...
    def callback(
        self,
        name: str,
        *,
        type: Any = Any,  # noqa: A002 - the natural word
        timeout: Duration | None = None,
        until: datetime | None = None,
        heartbeat: Duration | None = None,
        key: str | None = None,
    ) -> Callback[Any]:
        """Promise a partner's answer; awaiting gives it as `type`, whether it came before or comes later.

        Its `token` goes to a stage with a parameter declared `CallbackToken`, which hands `token.secret` to the
        partner. Whoever has that completes it, fails it or gives a sign of life (`client.complete`, `fail_callback`,
        `heartbeat`); it is answered once. `heartbeat`: how long the partner may be silent.

        Raises at the await CallbackTimedOut, HeartbeatTimedOut, and CallbackFailed, where the partner says so.
        """
        return self._promised(name, key, type, timeout, until, heartbeat)

    async def call_back(
        self,
        name: str,
        submit: Stage[..., Any],
        /,
        *args: Any,
        type: Any = Any,  # noqa: A002 - the natural word
        timeout: Duration | None = None,  # noqa: ASYNC109 - the partner's, and durable
        until: datetime | None = None,
        heartbeat: Duration | None = None,
        **kwargs: Any,
    ) -> Any:
        """Promise an answer, hand its token to the stage `submit`, and wait: what the partner says.

        The token is the stage's first argument; `args` and `kwargs` are its others. Raises what `callback` and `stage`
        do.
        """
        if next(iter(getattr(submit, "parameters", {}).values()), None) is not CallbackToken:
            raise DefinitionError(
                f"flow.call_back is given {submit!r}, which takes no token",
                remedy="Give it a @stage whose first parameter is declared CallbackToken.",
            )
        promised = self._promised(name, None, type, timeout, until, heartbeat)
        await self.stage(submit, promised.token, *args, **kwargs)
        return await promised

    def _promised(  # noqa: PLR0917 - its two callers' own
        self,
        name: str,
        key: str | None,
        declared: Any,
        timeout: Duration | None,
        until: datetime | None,
        heartbeat: Duration | None,
    ) -> Callback[Any]:
        what = f"callback {name!r}"
        check_type(declared, what=what)
        timeout_seconds = end_of(timeout, until, what=what)
        silent_seconds = end_of(heartbeat, None, what=f"the heartbeat of {what}")
        if silent_seconds is not None and silent_seconds <= 0:
            raise DefinitionError(
                f"{what} may be silent for no time at all", remedy="Give a longer heartbeat."
            )
        wait = CallbackWait(timeout_seconds, until, silent_seconds, declared)
        return cast("Callback[Any]", self._asked(composed(name), key, wait, Callback))
