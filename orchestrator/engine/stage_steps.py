"""Steps inside a stage: the result from the journal, or a call that is recorded before it returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy.exc import DataError, SQLAlchemyError

from orchestrator.core import codec
from orchestrator.core.annotations import result_type_of
from orchestrator.core.callables import is_asynchronous, name_of
from orchestrator.core.hooks import AttemptInfo
from orchestrator.core.journal import ActivityKind
from orchestrator.core.steps import key_at_first, working_on_step
from orchestrator.engine.context import EngineContext
from orchestrator.engine.event_loop import EVENT_LOOP
from orchestrator.engine.hooks import attempt_info
from orchestrator.engine.refusal import refused
from orchestrator.store.reads.steps import steps_of_rounds
from orchestrator.store.transitions.claim import Claim, remember_step_if_claimed


class AttemptLost(BaseException):
    """This attempt was handed out again while it ran: stop, write nothing. Not for stages to catch."""


class RecordUnavailable(BaseException):
    """A step was done and could not be recorded: no fault of its stage's, and not for it to catch.

    The claim is abandoned, so the attempt is handed out again as a dead worker's is.
    """

    def __init__(self, cause: SQLAlchemyError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True, slots=True)
class _StepPlace:
    """Where a step stands in its stage."""

    key: str
    name: str
    ordinal: int


@dataclass
class StepsOfStage:
    """`step` inside a stage: the result from the journal, or a call that is recorded before it returns."""

    context: EngineContext
    claim: Claim
    names: Counter[str] = field(default_factory=Counter)
    ordinal: int = 0
    first_key: str = field(init=False)
    """Under which its steps stand, in whichever round of its attempts they are done."""
    may_lack_steps: bool = field(init=False)
    """A claim has read none of former rounds."""

    def __post_init__(self) -> None:
        self.first_key = key_at_first(self.claim.key)
        self.may_lack_steps = self.first_key != self.claim.key

    def __call__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The step's result, done once in the life of the activity."""
        name = name_of(function)
        self.names[name] += 1
        self.ordinal += 1
        count = self.names[name]
        key = f"{self.first_key}/{name}" + (f"#{count}" if count > 1 else "")
        declared, what = result_type_of(function), f"result of step {key}"
        place = _StepPlace(key, name, self.ordinal)
        if is_asynchronous(function):
            call = partial(self.context.call_step, function, args, kwargs)
            return self._await(place, declared, what, call)
        self._read_former_rounds()  # guard: steps of former rounds
        if key in self.claim.steps:  # guard: step memory
            return codec.decode_recorded(self.claim.steps[key], declared, what=what)
        codec.check_declared(declared, what=what)
        run_id = self.claim.run.context.id
        hooks = self.context.reports.hooks
        with working_on_step(f"{run_id}/{key}"):
            if hooks is None:
                value = self.context.call_step(function, args, kwargs)
                kept = codec.keep(value, declared, what=what)
            else:

                def work() -> codec.Kept:
                    value = self.context.call_step(function, args, kwargs)
                    return codec.keep(value, declared, what=what)

                kept = hooks.around(self._info_of(place), work)
        self._remember(place, kept.text)
        return kept.value  # what every later attempt will get

    async def _await(
        self,
        place: _StepPlace,
        declared: Any,
        what: str,
        call: Callable[[], Awaitable[Any]],
    ) -> Any:
        """As above. It is recorded aside: the loop waits for no Postgres."""
        if self.may_lack_steps:
            await EVENT_LOOP.aside(self._read_former_rounds)
        if place.key in self.claim.steps:  # guard: step memory of an async stage
            return codec.decode_recorded(self.claim.steps[place.key], declared, what=what)
        codec.check_declared(declared, what=what)
        run_id = self.claim.run.context.id
        hooks = self.context.reports.hooks
        with working_on_step(f"{run_id}/{place.key}"):
            if hooks is None:
                kept = codec.keep(await call(), declared, what=what)
            else:

                async def work() -> codec.Kept:
                    return codec.keep(await call(), declared, what=what)

                kept = await hooks.around_awaited(self._info_of(place), work)
        await EVENT_LOOP.aside(partial(self._remember, place, kept.text))
        return kept.value

    def _info_of(self, place: _StepPlace) -> AttemptInfo:
        claim = self.claim
        return attempt_info(
            claim.run.context,
            ActivityKind.STEP,
            key=place.key,
            name=place.name,
            attempt=claim.attempt,
        )

    def _read_former_rounds(self) -> None:
        if not self.may_lack_steps:
            return
        try:
            with self.context.connection() as connection:
                run_id = self.claim.run.context.id
                self.claim.steps.update(steps_of_rounds(connection, run_id, self.first_key))
        except SQLAlchemyError as error:
            raise RecordUnavailable(error) from error
        self.may_lack_steps = False

    def _remember(self, place: _StepPlace, result: str) -> None:
        key = place.key
        try:
            with self.context.connection() as connection:
                is_ours = remember_step_if_claimed(
                    connection,
                    self.claim.run.context.id,
                    parent_key=self.claim.key,
                    parent_attempt=self.claim.attempt,
                    key=key,
                    ordinal=place.ordinal,
                    name=place.name,
                    result=result,
                )
        except DataError as refusal:  # and it always will: no attempt is to call the step again
            raise refused(f"result of step {key}", refusal) from None
        except SQLAlchemyError as error:  # guard: errors of the record are no stage's
            raise RecordUnavailable(error) from error
        if not is_ours:  # guard: stop of a lost attempt
            raise AttemptLost(key)
