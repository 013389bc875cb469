"""One process that does what its input says: `random-program`, through public names only.

Every stage and step records its call before anything else, is handed what its scope has seen last, and
answers with the number of its call. So whoever reads the record afterwards can tell which call's result
was kept, and whether all that followed stands on that one.

And each is handed what all branches share: how much they have seen by then, whatever was seen last by any of them,
and a number from one iterator. A replay that came past the answers in another order than an earlier pass would ask
for other things than are recorded, and its run would be an incident, which is never predicted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from orchestrator import (
    ActivityFailed,
    Fail,
    Flow,
    PerennialError,
    Process,
    Registry,
    Retry,
    SignalTimedOut,
    process,
    seconds,
    stage,
    step,
)
from tests.oracle.effects import effects
from tests.oracle.programs import (
    FRAIL_ATTEMPTS,
    PATIENT_ATTEMPTS,
    Ask,
    Await,
    Beside,
    Block,
    EditOf,
    Forever,
    Gather,
    Inline,
    Instruction,
    Program,
    Raise,
    Repeat,
    Sleep,
    Stage,
    Step,
    Try,
    edited,
)

registry = Registry()


class Broken(Exception):
    """It may work the next time."""


class Hopeless(Exception):
    """It never will."""


TINY = {"delay_seconds": 0.02, "backoff": 1.0, "jitter": 0.0, "non_retryable": (Hopeless,)}
PATIENT = Retry(max_attempts=PATIENT_ATTEMPTS, **TINY)
FRAIL = Retry(max_attempts=FRAIL_ATTEMPTS, **TINY)
LATE = 5
TIMEOUT_SECONDS = 60.0
"""Of a timed stage. None is ever at work for so long: only a worker that hangs overruns it."""


# -- stages and steps ----------------------------------------------------------------------------


@stage(registry=registry, retry=PATIENT, timeout_seconds=None)
def patient(what: Stage, seen: str, _shared: list[Any]) -> str:
    """Succeeds in the end, or fails at once."""
    return do(what, seen)


@stage(registry=registry, retry=PATIENT, timeout_seconds=TIMEOUT_SECONDS)
def timed(what: Stage, seen: str, _shared: list[Any]) -> str:
    """The same, under a time limit."""
    return do(what, seen)


@stage(registry=registry, retry=FRAIL, timeout_seconds=None)
def frail(what: Stage, seen: str, _shared: list[Any]) -> str:
    """Has few attempts."""
    return do(what, seen)


def do(what: Stage, seen: str) -> str:
    """The body of every stage."""
    call = effects.begin(seen=seen)
    parts = [step(STEPS[each.name], each, call) for each in what.steps]
    end(what.key, what.failures, call, what.ending)
    return f"{what.key}@{call}" + (f"[{','.join(parts)}]" if parts else "")


def reserve(what: Step, body: int) -> str:
    """A step of a stage."""
    return do_step(what, body)


def charge(what: Step, body: int) -> str:
    """Another."""
    return do_step(what, body)


STEPS = {"reserve": reserve, "charge": charge}


def do_step(what: Step, body: int) -> str:
    """The body of every step of a stage."""
    call = effects.begin(body=body)
    end(what.name, what.failures, call, "done")
    return f"{what.name}@{call}"


def inline(what: Inline, seen: str, _shared: list[Any]) -> str:
    """A step of the flow itself."""
    call = effects.begin(seen=seen)
    end(what.key, what.failures, call, what.ending)
    return f"{what.key}@{call}"


def end(name: str, failures: int, call: int, ending: str) -> None:
    """Throw, if this call is to."""
    if call <= failures or ending == "exhausted":
        raise Broken(f"{name} at call {call}")
    if ending == "fails":
        raise Fail(f"{name} has failed")
    if ending == "hopeless":
        raise Hopeless(f"{name} is hopeless")


# -- the flow ------------------------------------------------------------------------------------


@process(version=1, registry=registry)
async def random_program(flow: Flow, program: Program) -> list[Any]:
    """Answers what each instruction came to, in order."""
    scope = scope_of(flow, program)
    await scope.run(program.body)
    return scope.told


# -- the same in other revisions ------------------------------------------------------------------


async def appended(flow: Flow, program: Program) -> list[Any]:
    """There is a stage more at the end."""
    scope = scope_of(flow, program)
    await scope.run(edited(program, "appended").body)
    return scope.told


async def inserted(flow: Flow, program: Program) -> list[Any]:
    """There is one more in the middle."""
    scope = scope_of(flow, program)
    await scope.run(edited(program, "inserted").body)
    return scope.told


async def prepended(flow: Flow, program: Program) -> list[Any]:
    """There is one more at the beginning."""
    scope = scope_of(flow, program)
    await scope.run(edited(program, "prepended").body)
    return scope.told


async def removed(flow: Flow, program: Program) -> list[Any]:
    """What came last is done no more."""
    scope = scope_of(flow, program)
    await scope.run(edited(program, "removed").body)
    return scope.told


def scope_of(flow: Flow, program: Program) -> Scope:
    """That of the program's family."""
    if program.family == "first":
        return Scope(flow)
    from tests.oracle.wide_flow import WideScope, WideShared

    return WideScope(flow, WideShared(flow=flow))


def revision(edit: EditOf) -> tuple[Registry, Process]:
    """The code of workers that have that edit: the same stages, another content of the same version."""
    flows = {"appended": appended, "inserted": inserted, "prepended": prepended, "removed": removed}
    there = Registry()
    for each in registry.stages.values():
        there.add_stage(each)
    for other in registry.processes.values():
        if other.name != random_program.name:
            there.add_process(other)
    return there, process(version=1, name=random_program.name, registry=there)(flows[edit])


@dataclass
class Shared:
    """What all scopes of a run share, as plain objects of its flow."""

    answers: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    is_late: bool = False

    def look(self) -> list[Any]:
        """As it is now."""
        return [len(self.answers), self.answers[-1:], next(self.numbers), self.is_late]


@dataclass
class Scope:
    """The flow itself, or a branch of a gather: what it has to tell, and the result it saw last."""

    failures: ClassVar[tuple[type[PerennialError], ...]] = (ActivityFailed, SignalTimedOut, Fail)

    flow: Flow
    shared: Shared = field(default_factory=Shared)
    seen: str = ""
    told: list[Any] = field(default_factory=list)

    async def run(self, block: Block) -> None:
        """One instruction after the other."""
        for part in block:
            await self.do(part)

    async def do(self, part: Instruction) -> None:
        """One instruction. Raises what fails in it."""
        match part:
            case Repeat():
                for _ in range(part.times):
                    self.saw(
                        await self.flow.stage(patient, part.stage, self.seen, self.shared.look())
                    )
            case Await():
                for _ in range(part.times):
                    await self.answer(part, self.ask(part))
            case Beside():
                asked = self.ask(part.asked)
                await self.run(part.body)
                await self.answer(part.asked, asked)
            case Gather():
                await self.gather(part)
            case Try():
                try:
                    await self.run(part.body)
                except self.failures as error:
                    self.told.append(f"caught {describe(error)}")
                    await self.run(part.rescue)
            case Raise():
                raise Fail(part.message)
            case Forever():
                await self.flow.signal(part.name)
            case _:
                await self.answer(part, self.ask(part))

    def ask(self, part: Any) -> Any:
        """Schedule it."""
        flow = self.flow
        match part:
            case Stage():
                return flow.stage(stage_of(part), part, self.seen, self.shared.look(), key=part.key)
            case Inline():
                retry = FRAIL if part.ending == "exhausted" else PATIENT
                return flow.step(
                    inline, part, self.seen, self.shared.look(), key=part.key, retry=retry
                )
            case Sleep():
                return flow.sleep(part.seconds, key=part.key)
            case Await():
                return flow.signal(part.name, timeout=duration(part.timeout_seconds), type=int)
            case Ask():
                return flow.approval(
                    part.name,
                    assign=part.assign,
                    escalate=(
                        None
                        if part.escalate_after is None
                        else {seconds(part.escalate_after): part.escalate_to}
                    ),
                    timeout=duration(part.timeout_seconds),
                )

    async def answer(self, part: Any, asked: Any) -> None:
        """Wait for it."""
        answer = await asked
        self.shared.answers.append(str(answer))
        self.shared.is_late = len(self.shared.answers) > LATE
        match part:
            case Stage() | Inline():
                self.saw(answer)
            case Sleep():
                self.told.append(f"{part.key} is over")
            case Await():
                self.told.append(f"{part.name}: {answer}")
            case Ask():
                by = f" by {answer.by}: {answer.reason}" if answer.by else ""
                escalated = " after an escalation" if answer.by in part.escalate_to else ""
                assert answer.escalated or not escalated
                self.told.append(f"{part.name}: {answer.outcome}{by}{escalated}")

    def branch(self) -> Self:
        """It goes on from what was seen before."""
        return type(self)(self.flow, self.shared, self.seen)

    async def gather(self, part: Gather) -> None:
        """Branches go on from what was seen before; what follows goes on from the first branch."""
        branches = [self.branch() for _ in part.branches]
        await self.flow.gather(
            *(branch.run(block) for branch, block in zip(branches, part.branches, strict=True)),
            key=part.key,
        )
        self.told.append([branch.told for branch in branches])
        self.seen = branches[0].seen

    def saw(self, result: str) -> None:
        """A result of a stage or a step."""
        self.told.append(result)
        self.seen = result


def stage_of(part: Stage) -> Any:
    """Which of the stages does it."""
    if part.ending == "exhausted":
        return frail
    return timed if part.is_timed else patient


def describe(error: PerennialError) -> str:
    """What was caught, without what hangs on luck: how many attempts there were."""
    if isinstance(error, ActivityFailed):
        return f"ActivityFailed: {error.key} by {error.error_type}"
    return f"{type(error).__name__}: {error}"


def duration(of_seconds: float | None) -> Any:
    """None stays None."""
    return None if of_seconds is None else seconds(of_seconds)
