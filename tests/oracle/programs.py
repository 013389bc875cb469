"""Random programs: what a flow does, and what the world does to it, as small plain data.

    Program = generate(seed)                      the first family: stages, steps, waits, approvals, gathers
    Program = generate(seed, family="wide")       all else that one run may await (tests/oracle/wide.py makes them)
    Program = generate(seed, family="deep")       and children and sagas

A program's outcome must not hang on timing. So: names are unique, except in a row of waits that run
one after the other; what the world will do has deadlines of weeks, and what never comes has deadlines
of minutes; what succeeds in the end has attempts enough for any number of lost workers.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SHORT_SECONDS = (20.0, 600.0)
"""What ends by itself ends within this; random to the microsecond, so that no two end at once."""

LONG_SECONDS = 30 * 86_400.0
"""The deadline of what the world will do."""

EXPIRY_SECONDS = 5 * 86_400.0
"""A run that waits for ever is given this long."""

PATIENT_ATTEMPTS = 60
FRAIL_ATTEMPTS = 2


class Part(BaseModel):
    """Frozen; JSON there and back."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# -- instructions --------------------------------------------------------------------------------

Ending = Literal["done", "fails", "hopeless", "exhausted"]
"""`done`; `fails` by Fail; `hopeless`: by an error that is not retried; `exhausted`: at each attempt."""


class Step(Part):
    """A step of a stage. It throws at its first `failures` calls."""

    name: Literal["reserve", "charge"]
    failures: int = 0


class Stage(Part):
    """A stage with its steps. It throws at its first `failures` calls, then ends as it is told."""

    kind: Literal["stage"] = "stage"
    key: str
    failures: int = 0
    ending: Ending = "done"
    steps: tuple[Step, ...] = ()
    is_timed: bool = False


class Inline(Part):
    """A step of the flow itself."""

    kind: Literal["inline"] = "inline"
    key: str
    failures: int = 0
    ending: Ending = "done"


class Sleep(Part):
    kind: Literal["sleep"] = "sleep"
    key: str
    seconds: float


class Await(Part):
    """`times` waits for a signal, one after the other. `comes`: the world sends as many; else it ends as `default`, if
    it has one. `is_until`: it ends at a moment. `by_key`: what comes is sent by a correlation key.
    """

    kind: Literal["await"] = "await"
    name: str
    times: int = 1
    comes: bool = True
    timeout_seconds: float | None = None
    default: int | None = None
    is_until: bool = False
    by_key: bool = False


class Verdict(Part):
    by: str
    outcome: Literal["approved", "rejected"]
    reason: str


class Ask(Part):
    """An approval. `verdict` None: nobody decides, and it times out."""

    kind: Literal["ask"] = "ask"
    name: str
    assign: tuple[str, ...]
    escalate_after: float | None = None
    escalate_to: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    verdict: Verdict | None = None


class Repeat(Part):
    """The same stage over and over, told apart by the engine: `patient`, `patient#2`, …"""

    kind: Literal["repeat"] = "repeat"
    times: int
    stage: Stage


class Beside(Part):
    """Something asked for now and awaited after the body."""

    kind: Literal["beside"] = "beside"
    asked: Stage | Sleep | Await | Ask = Field(discriminator="kind")
    body: Block


class Gather(Part):
    """Branches side by side."""

    kind: Literal["gather"] = "gather"
    key: str
    branches: tuple[Block, ...]


class Try(Part):
    """If the body fails, the rescue is done."""

    kind: Literal["try"] = "try"
    body: Block
    rescue: Block


class Raise(Part):
    """The flow raises Fail."""

    kind: Literal["raise"] = "raise"
    message: str


class Forever(Part):
    """A wait for what never comes and has no deadline: the run expires."""

    kind: Literal["forever"] = "forever"
    name: str


# -- of the wide family ----------------------------------------------------------------------------


class Callback(Part):
    """A promise; its token goes to a stage, and it is awaited after the body. `answer`: what its partner says, or
    `silent`: it times out; `unheard`: no heartbeat comes.
    """

    kind: Literal["callback"] = "callback"
    name: str
    submit: Stage
    body: Block = ()
    answer: Literal["done", "failed", "silent", "unheard"] = "done"
    payload: int = 0
    timeout_seconds: float | None = None
    heartbeat_seconds: float | None = None


class Poll(Part):
    """Checks by one stage, each with what the one before has found. The answer is there at check `found_at`."""

    kind: Literal["poll"] = "poll"
    check: Stage
    found_at: int
    attempts: int | None = None
    every_seconds: float
    factor: float = 1.0


class Stream(Part):
    """Signals by `async for`: so many that come, or none in the time."""

    kind: Literal["stream"] = "stream"
    name: str
    times: int
    timeout_seconds: float | None = None


class Peek(Part):
    """Whether a signal is there: whatever is answered, it is the same at each replay."""

    kind: Literal["peek"] = "peek"
    name: str


class Patched(Part):
    """The mark of changed code."""

    kind: Literal["patched"] = "patched"
    name: str


class Never(Part):
    """A wait for what never comes: what awaits it is cancelled."""

    kind: Literal["never"] = "never"
    name: str
    form: Literal["signal", "sleep", "approval", "callback"]


class Finally(Part):
    """The clean-up is done however the body ends."""

    kind: Literal["finally"] = "finally"
    body: Block
    cleanup: Block


class Race(Part):
    """Of branches of which one alone can end. `is_bare`: each is one thing asked for; else each is a coroutine."""

    kind: Literal["race"] = "race"
    key: str
    branches: tuple[Block, ...]
    winner: int
    is_bare: bool = False


class Contest(Part):
    """A race that anybody may win: what is told is that somebody has."""

    kind: Literal["contest"] = "contest"
    key: str
    stages: tuple[Stage, ...]
    count: int


class Many(Part):
    """Items under a completion policy: one at a time, or to the end of all, so that what comes of it is certain."""

    kind: Literal["many"] = "many"
    key: str
    form: Literal["stage", "own", "parallel"]
    items: tuple[Stage, ...]
    max_concurrency: int | None = None
    min_successful: int | None = None
    tolerated_failures: int | None = None


class Within(Part):
    """A scope, whose end is recorded or not."""

    kind: Literal["within"] = "within"
    name: str
    body: Block
    is_recorded: bool


class Deadline(Part):
    """A block under a deadline. `is_over`: its body never ends."""

    kind: Literal["deadline"] = "deadline"
    key: str
    seconds: float
    body: Block
    is_over: bool


# -- of the deep family ----------------------------------------------------------------------------


class Child(Part):
    """A run of its own, whose program needs nobody outside."""

    kind: Literal["child"] = "child"
    name: str
    body: Block
    on_parent_end: Literal["cancel", "wait"] = "cancel"


class Saga(Part):
    """Works that can be undone, one after the other; then it fails, and they are, the last first."""

    kind: Literal["saga"] = "saga"
    name: str
    works: tuple[Stage, ...]
    by: Literal["fail", "stage"]


Instruction = Annotated[
    Stage
    | Inline
    | Sleep
    | Await
    | Ask
    | Repeat
    | Beside
    | Gather
    | Try
    | Raise
    | Forever
    | Callback
    | Poll
    | Stream
    | Peek
    | Patched
    | Never
    | Finally
    | Race
    | Contest
    | Many
    | Within
    | Deadline
    | Child
    | Saga,
    Field(discriminator="kind"),
]
Block = tuple[Instruction, ...]


# -- the world -----------------------------------------------------------------------------------


class Send(Part):
    """A signal, sent `copies` times under one id. Those of one name go in the order they stand."""

    name: str
    payload: int
    signal_id: str
    copies: int = 1
    by_key: bool = False


class Objection(Part):
    """A decision that must be refused.

    `stranger`: by a person who is never asked. `late`: by one who is, after another has decided or the
    deadline has passed.
    """

    approval: str
    by: str
    outcome: Literal["approved", "rejected"]
    why: Literal["stranger", "late"]


Family = Literal["first", "wide", "deep"]


class Program(Part):
    """A flow, and the script of its world. `is_cancelled`: somebody tries, at any moment."""

    family: Family = "first"
    body: Block
    sends: tuple[Send, ...] = ()
    objections: tuple[Objection, ...] = ()
    is_cancelled: bool = False
    expires_after: float | None = None

    @property
    def asks(self) -> tuple[Ask, ...]:
        """Every approval that it may ask for."""
        return tuple(part for part in parts_of(self.body) if isinstance(part, Ask))

    @property
    def callbacks(self) -> tuple[Callback, ...]:
        """Every callback that it may promise."""
        return tuple(part for part in parts_of(self.body) if isinstance(part, Callback))


# -- edits ---------------------------------------------------------------------------------------

EditOf = Literal["appended", "inserted", "prepended", "removed"]
"""What a new revision of the code does to every program: a stage more, or its last instruction less."""


def edited(program: Program, edit: EditOf | None) -> Program:
    """The program as that code plays it."""
    if edit is None:
        return program
    body, place = program.body, place_of(program, edit)
    more = () if edit == "removed" else (Stage(key=edit),)
    rest = body[place + 1 :] if edit == "removed" else body[place:]
    return program.model_copy(update={"body": (*body[:place], *more, *rest)})


def place_of(program: Program, edit: EditOf) -> int:
    """So many instructions are as they were; what comes from there on is not."""
    size = len(program.body)
    return {"appended": size, "inserted": size // 2, "prepended": 0, "removed": size - 1}[edit]


def parts_of(block: Block) -> list[Instruction]:
    """Every instruction, those inside others too."""
    found: list[Instruction] = []
    for part in block:
        found.append(part)
        match part:
            case Beside():
                found += parts_of((part.asked, *part.body))
            case Gather():
                found += [inner for branch in part.branches for inner in parts_of(branch)]
            case Try():
                found += parts_of((*part.body, *part.rescue))
            case Repeat():
                found.append(part.stage)
            case Callback():
                found += parts_of((part.submit, *part.body))
            case Finally():
                found += parts_of((*part.body, *part.cleanup))
            case Race():
                found += [inner for branch in part.branches for inner in parts_of(branch)]
            case Within() | Deadline():
                found += parts_of(part.body)
            case Saga():
                found += part.works
            case _:
                pass
    return found


# -- the generator -------------------------------------------------------------------------------


def generate(seed: int | str, *, family: Family = "first") -> Program:
    """The program of a seed: the same for ever, on any machine."""
    if family == "first":
        return Generator(random.Random(f"program {seed}")).program()
    from tests.oracle.wide import DeepGenerator, WideGenerator

    generator = WideGenerator if family == "wide" else DeepGenerator
    return generator(random.Random(f"{family} program {seed}")).program()


def _failing_by_a_stage(part: Instruction) -> Instruction:
    """In place of an author's own error, which may skip an await unseen: that would be an incident."""
    match part:
        case Raise():
            return Stage(key=part.message.replace(" ", "-"), ending="fails")
        case Try():
            rescue = tuple(map(_failing_by_a_stage, part.rescue))
            return part.model_copy(update={"rescue": rescue})
        case _:
            return part


class Generator:
    """Of the first family."""

    family: Family = "first"

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.count = 0
        self.sends: list[Send] = []
        self.objections: list[Objection] = []

    def program(self) -> Program:
        chance = self.chance
        body = self.block(chance.randint(2, 5), depth=0)
        expires_after = None
        if chance.random() < 0.08:
            body, expires_after = (*body, Forever(name=self.name("never"))), EXPIRY_SECONDS
        elif chance.random() < 0.15:
            expires_after = LONG_SECONDS
        for _ in range(chance.choice([0, 0, 0, 1])):
            self.sends.append(self.send(self.name("unheard")))
        return Program(
            family=self.family,
            body=body,
            sends=tuple(self.sends),
            objections=tuple(self.objections),
            is_cancelled=chance.random() < 0.15,
            expires_after=expires_after,
        )

    def block(self, size: int, *, depth: int) -> Block:
        return tuple(self.instruction(depth=depth) for _ in range(size))

    def instruction(self, *, depth: int) -> Instruction:
        simple = [
            (self.stage, 6),
            (self.stage_with_steps, 4),
            (self.inline, 4),
            (self.sleep, 2),
            (self.wait, 3),
            (self.ask, 3),
            (self.repeat, 1),
        ]
        nested = [(self.gather, 2), (self.beside, 2), (self.attempt, 3)]
        makers = simple if depth >= 2 else [*simple, *nested]
        if self.chance.random() < 0.12:
            return self.failing(depth=depth)
        return self.pick([(partial(make, depth=depth), weight) for make, weight in makers])

    # -- what succeeds ---------------------------------------------------------------------------

    def stage(self, **_: int) -> Stage:
        failures = self.chance.choice([0, 0, 0, 1, 2])
        return Stage(key=self.name("work"), failures=failures, is_timed=self.chance.random() < 0.2)

    def stage_with_steps(self, **_: int) -> Stage:
        steps = tuple(
            Step(
                name=self.chance.choice(["reserve", "charge"]),
                failures=self.chance.choice([0, 0, 0, 0, 1, 2]),
            )
            for _ in range(self.chance.randint(2, 4))
        )
        return Stage(key=self.name("action"), steps=steps, is_timed=self.chance.random() < 0.2)

    def inline(self, **_: int) -> Inline:
        return Inline(key=self.name("note"), failures=self.chance.choice([0, 0, 0, 1, 2]))

    def sleep(self, **_: int) -> Sleep:
        return Sleep(key=self.name("nap"), seconds=self.shortly())

    def wait(self, **_: int) -> Await:
        name, times = self.name("news"), self.chance.choice([1, 1, 1, 2])
        self.sends += [self.send(name) for _ in range(times)]
        return Await(
            name=name,
            times=times,
            timeout_seconds=self.chance.choice([None, LONG_SECONDS]),
        )

    def ask(self, **_: int) -> Ask:
        chance, name = self.chance, self.name("ask")
        assign = tuple(chance.sample(["ann", "bob", "cleo"], chance.randint(1, 2)))
        escalates = chance.random() < 0.5
        escalate_after = self.shortly() if escalates else None
        escalate_to = ("dora",) if escalates else ()
        self.objections += [
            Objection(approval=name, by="mallory", outcome="approved", why="stranger")
            for _ in range(chance.choice([0, 0, 1, 2]))
        ]
        self.objections += [
            Objection(
                approval=name,
                by=chance.choice(assign),
                outcome=chance.choice(["approved", "rejected"]),
                why="late",
            )
            for _ in range(chance.choice([0, 1]))
        ]
        common = {
            "name": name,
            "assign": assign,
            "escalate_after": escalate_after,
            "escalate_to": escalate_to,
        }
        if chance.random() < 0.25:
            timeout = (escalate_after or 0.0) + self.shortly()
            return Ask(**common, timeout_seconds=timeout)
        verdict = Verdict(
            by=chance.choice([*assign, *escalate_to]),
            outcome=chance.choice(["approved", "approved", "rejected"]),
            reason=f"reason {chance.randrange(100)}",
        )
        return Ask(**common, timeout_seconds=chance.choice([None, LONG_SECONDS]), verdict=verdict)

    def repeat(self, **_: int) -> Repeat:
        stage = Stage(key="patient", failures=self.chance.choice([0, 0, 1]))
        return Repeat(times=self.chance.randint(2, 3), stage=stage)

    # -- what holds others -------------------------------------------------------------------------

    def gather(self, *, depth: int) -> Gather:
        branches = tuple(
            self.block(self.chance.randint(1, 2), depth=depth + 1)
            for _ in range(self.chance.randint(2, 3))
        )
        return Gather(key=self.name("fork"), branches=branches)

    def beside(self, *, depth: int) -> Beside:
        maker = self.chance.choice([self.stage, self.stage_with_steps, self.sleep, self.ask])
        asked = maker() if self.chance.random() < 0.75 else self.single_wait()
        body = self.block(self.chance.randint(1, 2), depth=depth + 1)
        return Beside(asked=asked, body=tuple(map(_failing_by_a_stage, body)))

    def single_wait(self) -> Await:
        name = self.name("news")
        self.sends.append(self.send(name))
        return Await(name=name, timeout_seconds=self.chance.choice([None, LONG_SECONDS]))

    def attempt(self, *, depth: int) -> Try:
        before = self.block(self.chance.randint(0, 1), depth=depth + 1)
        after = self.block(self.chance.randint(0, 1), depth=depth + 1)
        rescue = self.block(self.chance.randint(0, 1), depth=depth + 1)
        return Try(body=(*before, self.failure(), *after), rescue=rescue)

    # -- what fails ----------------------------------------------------------------------------------

    def failing(self, *, depth: int) -> Instruction:
        if self.chance.random() < 0.6:
            return Try(body=(self.failure(),), rescue=self.block(1, depth=depth + 1))
        return self.failure()

    def failure(self) -> Instruction:
        failures = self.chance.choice([0, 0, 1])
        return self.pick(
            [
                (lambda: Raise(message=f"enough of {self.name('it')}"), 1),
                (lambda: Stage(key=self.name("flop"), failures=failures, ending="fails"), 1),
                (lambda: Stage(key=self.name("flop"), failures=failures, ending="hopeless"), 1),
                (lambda: Stage(key=self.name("flop"), ending="exhausted"), 1),
                (
                    lambda: Stage(
                        key=self.name("flop"),
                        ending="fails",
                        steps=(Step(name="charge", failures=failures),),
                    ),
                    1,
                ),
                (lambda: Inline(key=self.name("slip"), failures=failures, ending="fails"), 1),
                (lambda: Inline(key=self.name("slip"), ending="exhausted"), 1),
                (
                    lambda: Await(
                        name=self.name("silence"), comes=False, timeout_seconds=self.shortly()
                    ),
                    2,
                ),
            ]
        )

    # -- small things --------------------------------------------------------------------------------

    def pick(self, choices):
        makers, weights = zip(*choices, strict=True)
        (make,) = self.chance.choices(makers, weights)
        return make()

    def name(self, head: str) -> str:
        self.count += 1
        return f"{head}-{self.count}"

    def send(self, name: str) -> Send:
        return Send(
            name=name,
            payload=self.chance.randrange(1000),
            signal_id=self.name("letter"),
            copies=self.chance.choice([1, 1, 2]),
        )

    def shortly(self) -> float:
        return round(self.chance.uniform(*SHORT_SECONDS), 6)
