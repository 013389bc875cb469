"""What must become of a program. Pure, and not a line of it is the engine's or the flow's.

    Prediction = predict(program, is_cancelled=..., by_hand=...)

`is_cancelled`: somebody cancelled the run, and was told that it is done. From then on nothing must
happen that had not, and what had is anybody's guess; what could never happen still must not.
`by_hand`: what operators have given an end to, and were told that it has it. It comes to that end, whatever it
would have come to; whether it was called before is anybody's guess.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tests.oracle.programs import (
    FRAIL_ATTEMPTS,
    Ask,
    Await,
    Beside,
    Block,
    Forever,
    Gather,
    Inline,
    Instruction,
    Program,
    Raise,
    Repeat,
    Sleep,
    Stage,
    Try,
)


@dataclass(frozen=True, slots=True)
class Result:
    """In an output's place: whatever the record says that this activity came to."""

    key: str


@dataclass(frozen=True, slots=True)
class Hand:
    """An end that an operator has given: a `result`, or with `error` a failure of that type."""

    result: Any = None
    error: str = ""

    @property
    def state(self) -> Literal["done", "failed"]:
        """As the journal has it."""
        return "failed" if self.error else "done"


@dataclass(frozen=True, slots=True)
class Work:
    """A stage, a step of one (`parent`), or an inline step, that is called.

    `calls`: how often if no worker is ever lost, and that is how often it must be at least; only where
    attempts run out (`is_limited`) a lost worker may have taken one. `after`: whose result it is handed.
    """

    key: str
    label: str
    kind: Literal["stage", "step", "inline"]
    calls: int
    state: Literal["done", "failed"] = "done"
    error: str = ""
    after: str | None = None
    parent: str | None = None
    is_limited: bool = False
    is_certain: bool = True
    hand: Hand | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """A sleep, a signal or an approval, and how it ends."""

    key: str
    kind: str
    end: str
    by: str | None = None
    is_certain: bool = True
    hand: Hand | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """`failed_by`: what it fails by, of a gather all that fail.

    `output` where it completes, with a Result where a value hangs on which call was the last;
    `error` (its type, and what its message says) where it does not.
    """

    status: str
    output: Any = None
    error: tuple[str, tuple[str, ...]] | None = None
    work: dict[str, Work] = field(default_factory=dict)
    waits: dict[str, Wait] = field(default_factory=dict)
    failed_by: frozenset[str] = frozenset()


class Failure(Exception):
    """The flow meets this. `told` is how it describes it; `says`, what the run's error says."""

    def __init__(self, error_type: str, told: str, *says: str, key: str = "") -> None:
        super().__init__(told)
        self.error_type, self.told, self.says = error_type, told, says
        self.keys = frozenset([key] if key else ())


class _WaitsForEver(Exception):
    """Nothing follows."""


def predict(
    program: Program, *, is_cancelled: bool = False, by_hand: Mapping[str, Hand] | None = None
) -> Prediction:
    """What must become of the program's run."""
    reader = _reader_of(program)(program, by_hand or {})
    scope = Scope("")
    try:
        reader.block(program.body, scope)
    except Failure as failure:
        ended = Prediction(
            "failed", error=(failure.error_type, failure.says), failed_by=failure.keys
        )
    except _WaitsForEver:
        ended = Prediction("expired", error=("Expired", ()))
    else:
        ended = Prediction("completed", output=scope.told)
    work, waits = reader.with_hands()
    if is_cancelled:
        ended = Prediction("cancelled", error=("Cancelled", ()))
        work = {key: replace(each, is_certain=False) for key, each in work.items()}
        waits = {key: replace(each, is_certain=False) for key, each in waits.items()}
    return replace(ended, work=work, waits=waits)


def _reader_of(program: Program) -> type[Reader]:
    if program.family == "first":
        return Reader
    from tests.oracle.wide_predict import WideReader

    return WideReader


@dataclass
class Scope:
    """The flow itself, or a branch of it: what it has to tell, and the key of the result that it saw last."""

    path: str
    seen: str | None = None
    told: list[Any] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)

    def key(self, name: str) -> str:
        """`name`, `name#2`, … under the scope's path."""
        self.names[name] += 1
        number = f"#{self.names[name]}" if self.names[name] > 1 else ""
        return f"{self.path}{name}{number}"


class Reader:
    """Reads a program as its flow does, and notes what must come of each part."""

    def __init__(self, program: Program, by_hand: Mapping[str, Hand]) -> None:
        self.by_hand = by_hand
        self.payloads = {
            name: [send.payload for send in program.sends if send.name == name]
            for name in {send.name for send in program.sends}
        }
        self.work: dict[str, Work] = {}
        self.waits: dict[str, Wait] = {}

    def with_hands(self) -> tuple[dict[str, Work], dict[str, Wait]]:
        """What they have ended has their end; what was done within it, or for it, nobody knows."""
        work, waits = dict(self.work), dict(self.waits)
        for key, each in self.work.items():
            hand = self.by_hand.get(key)
            if hand is not None:
                work[key] = replace(each, state=hand.state, error=hand.error, hand=hand)
            elif each.parent in self.by_hand:
                work[key] = replace(each, is_certain=False)
        for key, wait in self.waits.items():
            hand = self.by_hand.get(key)
            if hand is not None:
                waits[key] = replace(wait, end=hand.state, hand=hand)
        return work, waits

    def block(self, block: Block, scope: Scope) -> None:
        for part in block:
            self.part(part, scope)

    def part(self, part: Instruction, scope: Scope) -> None:
        match part:
            case Repeat():
                for _ in range(part.times):
                    self.answer(part.stage, self.ask(part.stage, scope), scope)
            case Await():
                for _ in range(part.times):
                    self.answer(part, self.ask(part, scope), scope)
            case Beside():
                self.beside(part, scope)
            case Gather():
                self.gather(part, scope)
            case Try():
                try:
                    self.block(part.body, scope)
                except Failure as failure:
                    scope.told.append(f"caught {failure.told}")
                    self.block(part.rescue, scope)
            case Raise():
                raise Failure("Fail", f"Fail: {part.message}", part.message)
            case Forever():
                key = scope.key(part.name)
                self.waits[key] = Wait(key, "signal", "cancelled")
                if key not in self.by_hand:
                    raise _WaitsForEver
                self.answer(part, key, scope)
            case _:
                self.answer(part, self.ask(part, scope), scope)

    def beside(self, part: Beside, scope: Scope) -> None:
        """What was asked for is done anyhow, unless the body fails: then nobody waits for it."""
        asked = self.ask(part.asked, scope)
        try:
            self.block(part.body, scope)
        except Failure:
            self.doubt(asked)
            raise
        self.answer(part.asked, asked, scope)

    def doubt(self, key: str) -> None:
        if key in self.waits:
            self.waits[key] = replace(self.waits[key], is_certain=False)
        for each in [work for work in self.work.values() if key in (work.key, work.parent)]:
            self.work[each.key] = replace(each, is_certain=False)

    def gather(self, part: Gather, scope: Scope) -> None:
        """All branches go to their ends; then the first that failed is raised."""
        path, failures, branches = scope.key(part.key), [], []
        for number, block in enumerate(part.branches):
            branch = Scope(f"{path}/{number}/", scope.seen)
            branches.append(branch)
            try:
                self.block(block, branch)
            except Failure as failure:
                failures.append(failure)
        if failures:
            failures[0].keys = frozenset().union(*(each.keys for each in failures))
            raise failures[0]
        scope.told.append([branch.told for branch in branches])
        scope.seen = branches[0].seen

    # -- one thing -------------------------------------------------------------------------------

    def ask(self, part: Any, scope: Scope) -> str:
        """Note what will come of it; its key."""
        match part:
            case Stage():
                key = scope.key(part.key)
                self.stage(part, key, scope)
            case Inline():
                key = scope.key(part.key)
                self.note(part, key, scope, "inline", part.failures)
            case Sleep():
                key = scope.key(part.key)
                self.waits[key] = Wait(key, "sleep", "done")
            case Await():
                key = scope.key(part.name)
                self.waits[key] = Wait(key, "signal", "done" if part.comes else "timed_out")
            case Ask():
                key = scope.key(part.name)
                verdict = part.verdict
                self.waits[key] = (
                    Wait(key, "approval", "timed_out")
                    if verdict is None
                    else Wait(key, "approval", verdict.outcome, verdict.by)
                )
            case _:
                raise AssertionError(part)
        return key

    def stage(self, part: Stage, key: str, scope: Scope) -> None:
        names: Counter[str] = Counter()
        for each in part.steps:
            names[each.name] += 1
            number = f"#{names[each.name]}" if names[each.name] > 1 else ""
            step_key = f"{key}/{each.name}{number}"
            self.work[step_key] = Work(step_key, each.name, "step", each.failures + 1, parent=key)
        failures = part.failures + sum(each.failures for each in part.steps)
        self.note(part, key, scope, "stage", failures)

    def note(
        self,
        part: Stage | Inline,
        key: str,
        scope: Scope,
        kind: Literal["stage", "inline"],
        failures: int,
    ) -> None:
        runs_out = part.ending == "exhausted"
        self.work[key] = Work(
            key,
            part.key,
            kind,
            FRAIL_ATTEMPTS if runs_out else failures + 1,
            state="done" if part.ending == "done" else "failed",
            error={"fails": "Fail", "hopeless": "Hopeless", "exhausted": "Broken"}.get(
                part.ending, ""
            ),
            after=scope.seen,
            is_limited=runs_out and kind == "stage",
        )

    def answer(self, part: Any, key: str, scope: Scope) -> None:
        """What the flow learns of it. Raises Failure."""
        hand = self.by_hand.get(key)
        if hand is not None:
            self.answer_by_hand(part, key, hand, scope)
            return
        match part:
            case Stage() | Inline():
                work = self.work[key]
                if work.state == "failed":
                    raise Failure(
                        "ActivityFailed",
                        f"ActivityFailed: {key} by {work.error}",
                        f"{key} failed after ",
                        f" attempt(s): {work.error}: ",
                        key=key,
                    )
                scope.told.append(Result(key))
                scope.seen = key
            case Sleep():
                scope.told.append(f"{part.key} is over")
            case Await():
                if not part.comes:
                    words = f"no signal {part.name!r} arrived in time (activity {key})"
                    raise Failure("SignalTimedOut", f"SignalTimedOut: {words}", words, key=key)
                scope.told.append(f"{part.name}: {self.payloads[part.name].pop(0)}")
            case Ask():
                scope.told.append(f"{part.name}: {_verdict_of(part)}")

    def answer_by_hand(self, part: Any, key: str, hand: Hand, scope: Scope) -> None:
        """The same, of what an operator has ended."""
        if hand.error:
            raise Failure(
                "ActivityFailed",
                f"ActivityFailed: {key} by {hand.error}",
                f"{key} failed after ",
                f" attempt(s): {hand.error}: ",
                key=key,
            )
        match part:
            case Stage() | Inline():
                scope.told.append(Result(key))
                scope.seen = key
            case Sleep():
                scope.told.append(f"{part.key} is over")
            case Await():
                scope.told.append(f"{part.name}: {hand.result}")


def _verdict_of(part: Ask) -> str:
    verdict = part.verdict
    if verdict is None:
        return "timed_out"
    after = " after an escalation" if verdict.by in part.escalate_to else ""
    return f"{verdict.outcome} by {verdict.by}: {verdict.reason}{after}"
