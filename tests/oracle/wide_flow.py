"""What the flow does of the wide family, through public names only; `flow.py` has the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from orchestrator import (
    ActivityFailed,
    Backoff,
    BlockTimedOut,
    CallbackToken,
    Fail,
    Flow,
    PerennialError,
    process,
    stage,
)
from orchestrator.errors import WaitTimedOut
from tests.oracle.effects import effects
from tests.oracle.flow import PATIENT, Scope, Shared, describe, do, duration, patient, registry
from tests.oracle.programs import (
    Await,
    Callback,
    Child,
    Contest,
    Deadline,
    Finally,
    Instruction,
    Many,
    Never,
    Part,
    Patched,
    Peek,
    Poll,
    Program,
    Race,
    Saga,
    Stage,
    Stream,
    Within,
)


class Item(Part):
    """What a stage of a map is handed."""

    what: Stage
    seen: str
    shared: list[Any]


@stage(registry=registry, retry=PATIENT, timeout_seconds=None)
def submit(token: CallbackToken, what: Stage, seen: str, _shared: list[Any]) -> str:
    """Hands a token to its partner, at each attempt the same one."""
    effects.hand(what.key, token.secret)
    return do(what, seen)


@stage(registry=registry, retry=PATIENT, timeout_seconds=None)
def look(what: Stage, _shared: list[Any], seen: str) -> str:
    """A poll's check, which is handed what the one before has found."""
    return do(what, seen)


@stage(registry=registry, retry=PATIENT, timeout_seconds=None)
def one(item: Item) -> str:
    """One item of a map."""
    return do(item.what, item.seen)


@stage(registry=registry, retry=PATIENT, timeout_seconds=None)
def put_back(result: str) -> str:
    """Undoes what has given that result."""
    return f"put-back@{effects.begin(seen=result)}"


@process(version=1, registry=registry)
async def random_child(flow: Flow, program: Program) -> list[Any]:
    """Does what its parent says."""
    scope = WideScope(flow, WideShared(flow=flow))
    await scope.run(program.body)
    return scope.told


@dataclass
class WideShared(Shared):
    """And ids and chance, drawn anew at each look."""

    flow: Flow = field(kw_only=True)

    def look(self) -> list[Any]:
        """As it is now, with what must come again at each replay."""
        flow = self.flow
        drawn = [str(flow.uuid()), flow.random(), str(flow.uuid("order")), flow.random("sample")]
        return [*super().look(), drawn]


@dataclass
class WideScope(Scope):
    """As a Scope, of more instructions."""

    failures: ClassVar[tuple[type[PerennialError], ...]] = (ActivityFailed, WaitTimedOut, Fail)

    async def do(self, part: Instruction) -> None:  # noqa: PLR0912 - a case for each
        match part:
            case Callback():
                await self.callback(part)
            case Poll():
                await self.poll(part)
            case Stream():
                waits = self.flow.signals(
                    part.name,
                    type=int,
                    max=part.times or None,
                    timeout=duration(part.timeout_seconds),
                )
                self.tell([self.noted(each) async for each in waits])
            case Peek():
                self.noted(self.flow.peek(part.name))
                self.tell("looked")
            case Patched():
                self.tell(self.flow.patched(part.name))
            case Never():
                await self.ask(part)
            case Finally():
                try:
                    await self.run(part.body)
                finally:
                    await self.run(part.cleanup)
            case Race():
                await self.race(part)
            case Contest():
                asked = [self.ask(each) for each in part.stages]
                result = await self.flow.first(*asked, count=part.count, key=part.key)
                self.noted([result.index, *result.values])
                self.tell(f"{len(result.winners)} of {len(asked)}")
            case Many():
                await self.many(part)
            case Within():
                await self.within(part)
            case Deadline():
                await self.deadline(part)
            case Child():
                program = Program(family="deep", body=part.body)
                started = self.flow.child(
                    random_child, program, key=part.name, on_parent_end=part.on_parent_end
                )
                told = self.noted(await started)
                self.tell(f"{part.name} has told {len(told)}")
            case Saga():
                await self.saga(part)
            case _:
                await super().do(part)

    def ask(self, part: Any) -> Any:
        flow = self.flow
        match part:
            case Await():
                ends: dict[str, Any] = {"timeout": duration(part.timeout_seconds)}
                if part.is_until:
                    ends = {"until": flow.now + duration(part.timeout_seconds)}
                if part.default is not None:
                    ends["default"] = part.default
                if part.by_key:
                    ends["correlation"] = f"{part.name} of {flow.run_id}"
                return flow.signal(part.name, type=int, **ends)
            case Never(form="signal"):
                return flow.signal(part.name)
            case Never(form="sleep"):
                return flow.sleep(duration(100 * 86_400), key=part.name)
            case Never(form="approval"):
                return flow.approval(part.name, assign=["ann"])
            case Never(form="callback"):
                return flow.callback(part.name)
            case _:
                return super().ask(part)

    async def callback(self, part: Callback) -> None:
        promised = self.flow.callback(
            part.name,
            type=int,
            timeout=duration(part.timeout_seconds),
            heartbeat=duration(part.heartbeat_seconds),
        )
        handed = self.flow.stage(
            submit, promised.token, part.submit, self.seen, self.shared.look(), key=part.submit.key
        )
        self.saw(self.noted(await handed))
        await self.run(part.body)
        self.tell(f"{part.name}: {self.noted(await promised)}")

    async def poll(self, part: Poll) -> None:
        checks = iter(range(1, part.found_at + 1))
        found = await self.flow.poll(
            look,
            part.check,
            self.shared.look(),
            state=self.seen,
            until=lambda _found: next(checks) == part.found_at,
            every=Backoff(part.every_seconds, part.factor),
            attempts=part.attempts,
        )
        self.saw(self.noted(found))

    async def race(self, part: Race) -> None:
        if part.is_bare:
            branches = [self.ask(block[0]) for block in part.branches]
            result = await self.flow.first(*branches, key=part.key)
            self.noted(result.value)
            self.tell(f"{part.key} is won by {result.index}")
            return
        scopes = [self.branch() for _ in part.branches]
        result = await self.flow.first(
            {
                f"b{number}": scope.run(block)
                for number, (scope, block) in enumerate(zip(scopes, part.branches, strict=True))
            },
            key=part.key,
        )
        winner = scopes[result.index]
        self.tell([result.name, *winner.told])
        self.seen = winner.seen

    async def many(self, part: Many) -> None:
        how: dict[str, Any] = {
            "max_concurrency": part.max_concurrency,
            "min_successful": part.min_successful,
            "tolerated_failures": part.tolerated_failures,
            "key": part.key,
        }

        async def do_one(what: Stage) -> str:
            return str(await self.flow.stage(patient, what, self.seen, self.shared.look()))

        match part.form:
            case "stage":
                items = [Item(what=each, seen=self.seen, shared=[]) for each in part.items]
                results = await self.flow.map(one, items, **how)
            case "own":
                results = await self.flow.map(do_one, part.items, **how)
            case "parallel":
                starts = [lambda each=each: do_one(each) for each in part.items]
                results = await self.flow.parallel(starts, **how)
        told = [
            each.value or (describe(each.error) if each.error else str(each.state))
            for each in results
        ]
        self.tell([str(results.why), *told])

    async def within(self, part: Within) -> None:
        if part.is_recorded:
            told, seen = await self.flow.scope(
                part.name, self.apart, list(part.body), self.seen, record=True
            )
        else:
            with self.flow.scope(part.name):
                inner = self.branch()
                await inner.run(part.body)
                told, seen = inner.told, inner.seen
        self.tell(told)
        self.seen = seen

    async def apart(self, body: list[Instruction], seen: str) -> tuple[list[Any], str]:
        """It shares nothing with the rest: from the next replay on it isn't run."""
        inner = WideScope(self.flow, WideShared(flow=self.flow), seen)
        await inner.run(tuple(body))
        return inner.told, inner.seen

    async def deadline(self, part: Deadline) -> None:
        try:
            with self.flow.timeout(duration(part.seconds), key=part.key):
                await self.run(part.body)
        except BlockTimedOut as error:
            if error.key.rpartition("/")[2] != part.key:
                raise
            self.tell(f"caught {describe(error)}")

    async def saga(self, part: Saga) -> None:
        try:
            async with self.flow.undo():
                for each in part.works:
                    done = self.flow.stage(
                        patient,
                        each,
                        self.seen,
                        self.shared.look(),
                        key=each.key,
                        compensate=put_back,
                    )
                    self.saw(self.noted(await done))
                if part.by == "fail":
                    raise Fail(part.name)  # noqa: TRY301 - that is what leaves the block
                flop = Stage(key=f"{part.name}-flop", ending="fails")
                await self.ask(flop)
        except (Fail, ActivityFailed) as error:
            self.tell(f"undone {describe(error)}")

    def noted(self, answer: Any) -> Any:
        """All branches know of it."""
        self.shared.answers.append(str(answer))
        return answer

    def tell(self, what: Any) -> None:
        self.told.append(what)
