"""`Flow.poll`: ask again and again until the answer is there. Each pause is a timer, and holds no worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, overload

from orchestrator.core.callables import name_of
from orchestrator.core.checks import check_count, check_delay, composed
from orchestrator.core.definition import Stage
from orchestrator.core.durations import Duration, seconds_of
from orchestrator.core.flow_part import FlowPart
from orchestrator.core.flow_waits import end_of
from orchestrator.core.kinds.poll import PollPause
from orchestrator.errors import DefinitionError, PollTimedOut

R = TypeVar("R")

_NO_STATE = object()


@dataclass(frozen=True, slots=True)
class Backoff:
    """Growing pauses: the first, and each `factor` times the one before, up to the longest."""

    delay: Duration
    factor: float = 2.0
    max_delay: Duration = 3600.0

    def __post_init__(self) -> None:
        for what in ("delay", "max_delay"):
            seconds = seconds_of(getattr(self, what), what=f"Backoff({what})")
            check_delay(seconds, what=f"Backoff({what})")
        if not 1 <= self.factor <= 1000:  # noqa: PLR2004 - said in the message
            raise DefinitionError(
                f"Backoff is given factor={self.factor!r}", remedy="Give a factor from 1 to 1000."
            )

    def after(self, checks: int) -> float:
        """The seconds after that many checks."""
        first = seconds_of(self.delay, what="Backoff(delay)")
        longest = seconds_of(self.max_delay, what="Backoff(max_delay)")
        try:
            grown: float = first * self.factor ** (checks - 1)
        except OverflowError:
            return longest
        return min(grown, longest)


class Polls(FlowPart):
    """What a `Flow` asks again and again."""

    @overload
    async def poll(
        self,
        check: Stage[..., R],
        /,
        *args: Any,
        until: Callable[[R], bool],
        every: Duration | Backoff,
        attempts: int | None = ...,
        timeout: Duration | None = ...,  # noqa: ASYNC109 - it is durable
        state: Any = ...,
        name: str | None = ...,
    ) -> R: ...
    @overload
    async def poll(
        self,
        check: Callable[..., R],
        /,
        *args: Any,
        until: Callable[[R], bool],
        every: Duration | Backoff,
        attempts: int | None = ...,
        timeout: Duration | None = ...,  # noqa: ASYNC109 - it is durable
        state: Any = ...,
        name: str | None = ...,
    ) -> R: ...
    async def poll(
        self,
        check: Any,
        /,
        *args: Any,
        until: Callable[[Any], bool],
        every: Duration | Backoff,
        attempts: int | None = None,
        timeout: Duration | None = None,  # noqa: ASYNC109 - it is durable
        state: Any = _NO_STATE,
        name: str | None = None,
    ) -> Any:
        """Call `check` until its result satisfies `until`; that result.

        `check` is a stage, or a function, which is a step. `every`: the pause between two checks, or a Backoff.
        `state`: what the first check is given after `args`; each next one is given the result of the one before.
        `until` is the flow's own code, and pure. `name`: what people read, by default the check's.

        Raises PollTimedOut after `attempts` checks, or where `timeout` is over: with the number of checks and the last
        result. And ActivityFailed, where a check's own attempts are used up.
        """
        pause = every if isinstance(every, Backoff) else Backoff(every, 1.0, every)
        check_count(attempts, least=1, what="flow.poll", name="attempts")
        if not callable(until):
            raise DefinitionError(
                f"flow.poll is given until={until!r}",
                remedy="Give a function that takes a check's result, and says whether it is the answer.",
            )
        is_stage = isinstance(check, Stage)
        called = composed(name or (check.name if is_stage else name_of(check)))
        seconds = end_of(timeout, None, what=f"poll {called!r}")
        deadline = None if seconds is None else self.now + timedelta(seconds=seconds)
        ask = self.stage if is_stage else self.step
        checks, carried = 0, () if state is _NO_STATE else (state,)
        while True:
            found = await ask(check, *args, *carried)
            checks += 1
            if until(found):
                return found
            carried = () if state is _NO_STATE else (found,)
            next_at = self.now + timedelta(seconds=pause.after(checks))
            if attempts is not None and checks >= attempts:
                raise PollTimedOut(called, checks=checks, last=found)
            if deadline is not None and self.now >= deadline:
                raise PollTimedOut(called, checks=checks, last=found)
            last_one = deadline if deadline is not None and next_at > deadline else None
            await self._asked(called, None, PollPause(pause.after(checks), last_one, checks))
