"""What a stage or a step does in a test, in place of what it does: it returns, fails, dies, or runs over its time.

    tester.returns(charge, "receipt-7")        it isn't called: that is its result
    tester.fail(charge, times=2)               its next two attempts fail; then it is itself again
    tester.does(charge, lambda amount: …)      another function is called with its arguments
    tester.crash(during=charge)                it does its work, and its worker dies before that is recorded
    tester.time_out(charge)                    its next attempt runs over its timeout
    tester.calls(charge)                       with what it was called, also if something stands in for it

Each holds until `times` attempts are made, then the one that was there before. What isn't a stage's or a step's code
is as in a fleet: arguments are read from the record, results written to it, failures tried again.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, overload
from uuid import UUID

from orchestrator.core import codec
from orchestrator.core.callables import is_asynchronous, name_of
from orchestrator.core.definition import Registry, Stage
from orchestrator.engine.event_loop import StageTimedOut
from orchestrator.fleet.existing_tasks import call_stage
from orchestrator.store.transitions.claim import Claim
from orchestrator.testing.errors import StandInFailed, TesterError, WorkerDied, short

R = TypeVar("R")

Error = BaseException | type[BaseException]


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt of a stage, or one call of a step. `arguments` by parameter.

    `run_id`, `key` and `attempt` are known of a stage: a step's are its stage's or its flow's.
    """

    arguments: Mapping[str, Any]
    run_id: UUID | None = None
    key: str = ""
    attempt: int = 1


Doing = Callable[[Callable[[], Any], Mapping[str, Any]], Any]
"""What stands in: given the real call, and its arguments."""


@dataclass(slots=True)
class _StandIn:
    doing: Doing
    times: int | None


class StandIns:
    """All of one tester, by what they stand for."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._there: defaultdict[str, list[_StandIn]] = defaultdict(list)
        self._calls: defaultdict[str, list[Call]] = defaultdict(list)

    def put(self, target: Any, doing: Doing, *, times: int | None) -> None:
        """It stands in from now on, or as often as that."""
        if times is not None and times < 1:
            raise TesterError(
                f"times={times} would never happen: give 1 or more, or None for always"
            )
        self._there[self.mark_of(target)].append(_StandIn(doing, times))

    def remove(self, target: Any) -> None:
        """What it stands for is itself again."""
        self._there.pop(self.mark_of(target), None)

    def calls_of(self, target: Any) -> list[Call]:
        """In the order in which they were made."""
        return list(self._calls[self.mark_of(target)])

    def stage_of(self, target: Any) -> Stage[..., Any] | None:
        """The stage that is meant, if one is."""
        if isinstance(target, str):
            if target not in self._registry.stages:
                known = ", ".join(sorted(self._registry.stages)) or "none"
                raise TesterError(
                    f"no stage is called {target!r}; there are: {known}. Give a step as its function"
                )
            return self._registry.stages[target]
        return target if isinstance(target, Stage) else None

    def mark_of(self, target: Any) -> str:
        """Stages and steps are known by their names."""
        stage = self.stage_of(target)
        if stage is not None:
            return f"stage {stage.name}"
        if not callable(target):
            raise TesterError(
                f"{short(target)} is neither a stage nor a step: give the @stage, its name, or a step's function"
            )
        return f"step {name_of(target)}"

    # -- for the engine ----------------------------------------------------------------------

    def call_stage(self, stage: Stage[..., Any], claim: Claim, arguments: dict[str, Any]) -> Any:
        """As the fleet does, unless something stands in."""
        mark = f"stage {stage.name}"
        run_id = claim.run.context.id
        self._calls[mark].append(Call(dict(arguments), run_id, claim.key, claim.attempt))

        def real() -> Any:
            return call_stage(stage, claim, arguments)

        doing = self._next(mark)
        return real() if doing is None else doing(real, arguments)

    def call_step(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """As the engine does, unless something stands in."""
        mark = f"step {name_of(function)}"
        arguments = _by_name(function, args, kwargs)
        self._calls[mark].append(Call(arguments))
        doing = self._next(mark)
        if doing is None:
            return function(*args, **kwargs)
        if is_asynchronous(function):
            return _awaited(doing, lambda: function(*args, **kwargs), arguments)
        return doing(lambda: function(*args, **kwargs), arguments)

    def _next(self, mark: str) -> Doing | None:
        there = self._there.get(mark)
        if not there:
            return None
        one = there[-1]
        if one.times is not None:
            one.times -= 1
            if not one.times:
                there.pop()
        return one.doing


async def _awaited(
    doing: Doing, real: Callable[[], Awaitable[Any]], arguments: Mapping[str, Any]
) -> Any:
    found = doing(real, arguments)
    return await found if inspect.isawaitable(found) else found


async def _die_after(work: Awaitable[Any]) -> NoReturn:
    await work
    raise WorkerDied


def _by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        return dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):  # one of C's that says of itself nothing
        return {str(place): value for place, value in enumerate(args)} | dict(kwargs)


class StandInVerbs:
    """What a tester may say of stages and steps. A target is the stage, its name, or a step's function."""

    _stand_ins: StandIns

    @overload
    def returns(self, target: Stage[..., R], value: R, *, times: int | None = None) -> None: ...
    @overload
    def returns(
        self, target: Callable[..., Any] | str, value: Any, *, times: int | None = None
    ) -> None: ...
    def returns(self, target: Any, value: Any, *, times: int | None = None) -> None:
        """It isn't called any more, or not the next `times` times: `value` is its result.

        Raises PayloadError where a stage's declared result can't hold that value.
        """
        stage = self._stand_ins.stage_of(target)
        if stage is not None:
            codec.encode(value, stage.result_type, what=f"result of stage {stage.name}")
        self._stand_ins.put(target, lambda _real, _arguments: value, times=times)

    def fail(
        self,
        target: Stage[..., Any] | Callable[..., Any] | str,
        error: Error | None = None,
        *,
        times: int | None = None,
    ) -> None:
        """Its attempts fail, all or the next `times`: with `error`, or with a StandInFailed.

        It is tried again as its Retry says, once time has moved on; a `Fail` isn't.
        """
        raised = StandInFailed("the test lets it fail") if error is None else error

        def doing(_real: object, _arguments: object) -> Any:
            raise raised

        self._stand_ins.put(target, doing, times=times)

    def does(
        self,
        target: Stage[..., Any] | Callable[..., Any] | str,
        function: Callable[..., Any],
        *,
        times: int | None = None,
    ) -> None:
        """`function` is called in its place, with the same arguments by name."""
        self._stand_ins.put(target, lambda _real, arguments: function(**arguments), times=times)

    def crash(self, *, during: Stage[..., Any] | Callable[..., Any] | str, times: int = 1) -> None:
        """Its worker dies in it: the work is done, and not recorded. Then it goes on as in a fleet.

        The clock moves by what a fleet takes to see it (`PERENNIAL_DEAD_AFTER_SECONDS`), and the work is handed out
        again: as another attempt, so far as its Retry allows one. What its steps have recorded isn't done again.
        """

        def doing(real: Callable[[], Any], _arguments: object) -> Any:
            done = real()
            if inspect.isawaitable(done):
                return _die_after(done)
            raise WorkerDied

        self._stand_ins.put(during, doing, times=times)

    def time_out(self, target: Stage[..., Any] | str, *, times: int = 1) -> None:
        """Its next attempts run over the stage's `timeout_seconds`: they fail so, and nothing of them is done.

        Raises TesterError for a stage without a timeout. A wait's timeout comes when time does: `advance_time`,
        `advance_to_next`.
        """
        stage = self._stand_ins.stage_of(target)
        if stage is None or stage.timeout_seconds is None:
            what = self._stand_ins.mark_of(target)
            raise TesterError(
                f"{what} has no timeout to run over: say @stage(timeout_seconds=…), or let it `fail`"
            )
        seconds = stage.timeout_seconds

        def doing(_real: object, _arguments: object) -> Any:
            raise StageTimedOut(f"it overran its timeout of {seconds:g} s")

        self._stand_ins.put(stage, doing, times=times)

    def real(self, target: Stage[..., Any] | Callable[..., Any] | str) -> None:
        """Nothing stands in for it any more."""
        self._stand_ins.remove(target)

    def calls(self, target: Stage[..., Any] | Callable[..., Any] | str) -> list[Call]:
        """The attempts that were made of it, oldest first, whoever has answered them."""
        return self._stand_ins.calls_of(target)
