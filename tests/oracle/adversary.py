"""A fleet that has everything go wrong that may, in an order that one seed gives.

    with Theatre(database) as theatre:      engines, workers and a client; made once for many seeds
        play = theatre.play(seed)           a few random runs, to their ends
        play.contradictions                 what the predictions say against

Deliveries come in any order, doubled, late, or never. Workers stop at a statement, and go on after
others have done their work; they are killed between any two statements, or lose their connection before
or after one. The clock jumps. Redis is emptied. Operators pause, resume and cancel; people decide.
After a while all trouble ends, and what was promised must come true by recovery alone.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, get_args
from uuid import UUID

from psycopg.rows import namedtuple_row
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from orchestrator import PerennialError, Registry, RunStatus
from orchestrator.core.kinds.base import NewActivity
from orchestrator.engine.context import EngineContext, NoKeptFlows
from orchestrator.engine.definitions import Definitions
from orchestrator.engine.eager.execution import advance_eagerly, run_stage_eagerly
from orchestrator.engine.eager.kept_flows import KeptFlows
from orchestrator.engine.fire import fire
from orchestrator.engine.liveness import Identity
from orchestrator.engine.operations import amend
from orchestrator.engine.relay import relay
from orchestrator.engine.sweep import rebuild_index, sweep
from orchestrator.engine.turn import advance
from orchestrator.store.parts import ADVANCE
from orchestrator.store.transitions import workers
from orchestrator.store.transitions.claim import Claim
from orchestrator.store.transitions.outbox import Handoff
from tests.eager import go_in_a_batch
from tests.harness import TABLES, CollectingMessenger, Database, Harness
from tests.oracle.check import Operated, Verdict, check, read_record
from tests.oracle.effects import effects
from tests.oracle.flow import random_program, registry, revision
from tests.oracle.operators import Operators
from tests.oracle.predict import Hand, predict
from tests.oracle.programs import (
    EXPIRY_SECONDS,
    Child,
    EditOf,
    Family,
    Program,
    edited,
    generate,
    parts_of,
    place_of,
)
from tests.oracle.tasks import (
    BEGINNING,
    Clock,
    Hooks,
    Task,
    WorkerKilled,
    cut_off,
    failed_by_postgres,
)
from tests.oracle.wide_flow import random_child
from tests.oracle.wide_flow import registry as wide_registry
from tests.oracle.world import Player

assert wide_registry is registry, "the stages of both families are one fleet's"

RUNS = 4
WORKERS = 4
LOSSES = (0, 4, 8, 16)
"""How many workers a seed may lose, any of these."""

TURN_LOSSES_MAX = 4
"""So many in the turns of one run: five in a row would park it."""

MOVES = (80, 220)
"""Of trouble; then it is calm."""

OPERATE = 0.15
"""How often an operator acts between two moves."""

LIVES = 6
"""So many verbs are tried when all have ended."""

EDIT_AT = (3, 70)
"""After so many moves the code is another."""

ROUNDS_MAX = 150
DEAD_SECONDS = 7.0

_NEXT_MOMENT = """
SELECT least(
    (SELECT min(o.publish_at) FROM perennial.outbox o),
    (SELECT min(t.due_at) FROM perennial.timer t WHERE t.state = 'armed') + interval '2 seconds',
    (SELECT min(greatest(a.claimed_at, w.heartbeat_at)) FROM perennial.activity a
        LEFT JOIN perennial.worker w ON w.id = a.worker_id WHERE a.state = 'claimed') + interval '6 seconds'
) AS at
"""

_STATUSES = "SELECT r.id, r.status FROM perennial.run r"

_STANDS = """
SELECT r.closed_at IS NULL AS is_open, r.turn_token IS NOT NULL AS is_held,
    ARRAY(SELECT a.key FROM perennial.activity a WHERE a.run_id = r.id AND a.parent_key IS NULL) AS keys
FROM perennial.run r WHERE r.id = %(run_id)s
"""

_APPROVALS = """
SELECT p.name, p.state, p.assignees, p.deadline, p.edition FROM perennial.approval p WHERE p.run_id = %(run_id)s
ORDER BY p.key
"""


_CHILDREN = (
    "SELECT r.id, r.parent_key FROM perennial.run r WHERE r.parent_id = %(run_id)s ORDER BY r.id"
)

_TOKENS = "SELECT t.key, t.token FROM oracle.token t WHERE t.run_id = %(run_id)s ORDER BY t.key"


class Theatre:
    """Harness, workers and hooks, over one database that is emptied before each play."""

    def __init__(self, database: Database) -> None:
        self.database = database
        # No server is killed here: who waited for the disk would wait for nothing.
        database.rows(f"ALTER DATABASE {database.name} SET synchronous_commit TO off")
        self.clock = Clock()
        self.disturber: Play | None = None
        self.hooks = Hooks(self.clock, self)
        self.harness = Harness(database, registry)
        self.client = self.harness.client
        self.workers = [self.harness.worker(f"worker-{number}") for number in range(WORKERS)]
        self.ignorant = self.harness.worker("ignorant", registry=Registry())
        self.caretaker = self.harness.context
        self.operator = self.harness.worker("operator")
        self.is_amended = False
        self.effects_engine = create_engine(database.url, isolation_level="AUTOCOMMIT")
        self.connection = database.psycopg(autocommit=True)

    def __enter__(self) -> Self:
        effects.use(self.effects_engine)
        effects.create()
        self.client.processes.deploy(random_program, random_child)
        for context in self.contexts:
            context.monotonic = self._monotonic
            for engine in (context.database, context.reads):
                self.hooks.follow(engine, is_disturbed=True, may_break=True)
        for context in (self.client._context, self.operator):
            for engine in (context.database, context.reads):
                self.hooks.follow(engine, is_disturbed=False)
        self.hooks.follow(self.effects_engine, is_disturbed=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hooks.stop()
        self.connection.close()
        self.effects_engine.dispose()
        self.harness.__exit__(kind, error, trace)
        for context in self.contexts:
            context.dispose()

    @property
    def contexts(self) -> list[EngineContext]:
        """Everybody who has a messenger."""
        return [self.caretaker, *self.workers, self.ignorant]

    def play(
        self,
        seed: int,
        *,
        runs: int = RUNS,
        operators: bool | None = None,
        edits: bool | None = None,
        family: Family = "first",
    ) -> Play:
        """Empty the record, and play that seed to its end. `operators`, `edits` None: as the seed says; of the wide
        family no operator lets a run go another way.
        """
        self._empty()
        play = Play(
            self,
            seed,
            [generate(f"{seed}/{number}", family=family) for number in range(runs)],
            operators=(
                has_operators(seed) and family == "first" if operators is None else operators
            ),
            edits=is_edited(seed) if edits is None else edits,
        )
        self.disturber = play
        try:
            play.run()
        finally:
            play.abandon()
            self.disturber = None
        return play

    def before(self, connection: Connection, *, may_pause: bool, may_break: bool) -> None:
        """For the hooks: pass it on to the play that is on."""
        if self.disturber is not None:
            self.disturber.before(connection, may_pause=may_pause, may_break=may_break)

    def after(self, connection: Connection, *, may_pause: bool, may_break: bool) -> None:
        """The same."""
        if self.disturber is not None:
            self.disturber.after(connection, may_pause=may_pause, may_break=may_break)

    def _monotonic(self) -> float:
        return (self.clock.now - BEGINNING).total_seconds()

    def _empty(self) -> None:
        """One round trip. The process stays deployed."""
        tables = [f"perennial.{table}" for table in TABLES if table != "process"]
        statements = [
            f"DELETE FROM {table}"
            for table in [*tables, "oracle.effect", "oracle.counter", "oracle.token"]
        ]
        allowed = "SET LOCAL perennial.drop_history_before = 'infinity'"
        self.connection.execute("; ".join(["BEGIN", allowed, *statements, "COMMIT"]), prepare=False)
        self.clock.now = BEGINNING
        if self.is_amended:
            self.connection.execute("DELETE FROM perennial.process", prepare=False)
            self.client.processes.deploy(random_program, random_child)
            self.is_amended = False
        for context in (self.caretaker, *self.workers, self.client._context):
            with_code(context, registry)  # whatever they have read in a play before
        with_code(self.ignorant, self.ignorant.registry)
        for context in self.contexts:
            context.messenger = CollectingMessenger()
            context.identity = Identity(context.identity.name)


def with_code(context: EngineContext, code: Registry) -> None:
    """It is another release, which has read nothing yet."""
    context.registry = code
    context.definitions = Definitions(code, context.monotonic)


@dataclass
class Worker:
    """A process of the fleet: it does one thing at a time."""

    name: str
    context: EngineContext
    task: Task | None = None
    turns_of: set[UUID] = field(default_factory=set)
    """Whose turns it may be taking."""
    stages_of: set[UUID] = field(default_factory=set)
    """Whose stages it may be doing."""
    next_code: Registry | None = None
    """It is replaced by one of another release, when it has done what it is at."""
    silent_since: datetime | None = None
    """It stands still, and doesn't beat: soon it is thought dead. It wakes up when it has been."""


class GoesOnAtTimes:
    """Whether a worker goes on in place is chance, as time is in a real one."""

    def __init__(self, worker: Worker, chance: random.Random, run_id: UUID) -> None:
        self.worker, self.chance, self.run_id = worker, chance, run_id

    def may_take(self, _stage: NewActivity) -> bool:
        is_taken = self.chance.random() < 0.5
        if is_taken:  # from its commit on, whoever dies loses an attempt
            self.worker.stages_of.add(self.run_id)
        return is_taken

    def perform(self, claim: Claim, work: Callable[[], Claim | None]) -> Claim | None:
        self.worker.turns_of.discard(self.run_id)
        return work()


@dataclass
class Run:
    """One run of a play."""

    number: int
    program: Program
    run_id: UUID
    player: Player
    turns_lost: int = 0
    attempts_lost: int = 0
    is_paused: bool = False
    verdict: Verdict | None = None
    troubles: list[str] = field(default_factory=list)
    by_hand: dict[str, Hand] = field(default_factory=dict)
    operated: Operated = field(default_factory=Operated)
    end: str = "open"
    """How it has ended."""
    edit: EditOf | None = None
    """What the code that it stands on makes of its program."""


def is_edited(seed: int) -> bool:
    """Whether the code of this seed's runs is amended in mid-flight."""
    return seed % 4 == 1


def has_operators(seed: int) -> bool:
    """Whether operators let runs of this seed go another way."""
    return seed % 2 == 0


class Play:
    """One seed."""

    def __init__(
        self,
        theatre: Theatre,
        seed: int,
        programs: list[Program],
        *,
        operators: bool,
        edits: bool,
    ) -> None:
        self.theatre, self.seed, self.clock = theatre, seed, theatre.clock
        self.chance = random.Random(f"adversary {seed}")
        self.log: list[str] = []
        self.troubles: list[str] = []
        self.is_calm, self.was_knocked = False, True
        self.at_work: Worker | None = None
        self.workers = [Worker(context.identity.name, context) for context in theatre.workers]
        memory = random.Random(f"memory {seed}")
        for context in theatre.workers:  # what a lost worker has in its memory is used all the same
            context.kept_flows = (
                KeptFlows(least_lines=1, lines_max=memory.choice((20, 1000)))
                if memory.random() < 0.7 and "ORACLE_TENS" not in os.environ
                else NoKeptFlows()
            )
        self.ignorant = Worker("ignorant", theatre.ignorant)
        self.bag: list[Handoff] = []
        self.delivered: list[Handoff] = []
        self.index: list[tuple[datetime, UUID]] = []
        self.fired: list[UUID] = []
        self.losses_left = self.chance.choice(LOSSES)
        self.ended: set[UUID] = set()
        self.programs = programs
        self.runs: list[Run] = []
        self.done: Counter[str] = Counter()
        self.operators = Operators(theatre.client, seed, self.rows) if operators else None
        self.lives_left = LIVES
        luck = random.Random(f"edit {seed}")
        self.edit: EditOf | None = luck.choice(get_args(EditOf)) if edits else None
        self.edit_at = luck.randrange(*EDIT_AT)

    @property
    def contradictions(self) -> list[str]:
        """All of them, each with its run."""
        found = list(self.troubles)
        for run in self.runs:
            said = [*run.troubles, *run.player.troubles, *run.player.partners.troubles]
            said += run.verdict.contradictions if run.verdict is not None else ()
            found += [f"run {run.number}: {each}" for each in said]
        return found

    # -- the story -------------------------------------------------------------------------------

    def run(self) -> None:
        """Trouble, then calm, then judgement."""
        for number, program in enumerate(self.programs):
            started = self.theatre.client.start(
                random_program, program, expires_in=_expiry(program)
            )
            player = Player(
                self.theatre.client,
                started.run_id,
                program,
                now=lambda: self.clock.now,
                tokens=self.tokens_of,
            )
            self.runs.append(Run(number, program, started.run_id, player))
        for number in range(self.chance.randint(*MOVES)):
            if self.edit is not None and number == self.edit_at:
                self.amend(self.edit)
            self.move()
            self.let_operate(OPERATE)
            if len(self.ended) == len(self.runs) and not self.begins_another_life():
                break
        self.calm()
        self.storm()
        for run in self.runs:
            with self.theatre.caretaker.connection() as connection:
                record = read_record(self.theatre.client, connection, run.run_id)
            self.look_at_children(run)
            run.end = record.status
            run.player.partners.look_at_tokens(lost=run.attempts_lost)
            prediction = predict(
                edited(run.program, run.edit),
                is_cancelled=run.player.is_cancelled,
                by_hand=run.by_hand,
            )
            run.verdict = check(
                record,
                prediction,
                turns_lost=run.turns_lost,
                attempts_lost=run.attempts_lost,
                sent=run.player.sent
                | {each[1] for each in record.signals if each[1] in run.player.sent_by_key},
                operated=run.operated,
            )

    def let_operate(self, how_often: float) -> None:
        """An operator lets a run go another way. Their luck is their own: it is nobody else's that they use up."""
        if self.operators is None or self.operators.chance.random() >= how_often:
            return
        run = self.operators.chance.choice(self.runs)
        self.clock.move(0.001)
        did = self.operators.act(run)
        if did is not None:
            self.done[did.partition(" ")[0]] += 1
            self.was_knocked = True
            self.say(f"run {run.number}: {did} by an operator")
            if not run.player.has_ended:
                self.ended.discard(run.run_id)
            for copied in self.operators.copies[len(self.runs) - len(self.programs) :]:
                self.runs.append(
                    Run(
                        len(self.runs),
                        copied.program,
                        copied.run_id,
                        copied.player,
                        by_hand=copied.by_hand,
                        operated=copied.operated,
                    )
                )

    def amend(self, edit: EditOf) -> None:
        """A release with other code: its version is amended, and every other worker is replaced by one of it.

        A run that has asked for nothing from where the edit is goes on with it; the others stay as they are.
        """
        code, content = revision(edit)
        context = self.theatre.operator
        with_code(context, code)
        self.clock.move(0.001)
        may_move = {run.run_id: self.may_move(run, edit) for run in self.runs}
        self.theatre.is_amended = True
        amend.apply(context, content, amend.preview(context, content), by="an operator")
        for row in self.rows("SELECT r.id, r.code_revision FROM perennial.run r"):
            if row.id not in may_move:
                continue  # a child, which is of another process
            run = self.runs[self.number_of(row.id)]
            if (row.code_revision == 2) != may_move[row.id]:
                run.troubles.append(f"{edit}: it stands on revision {row.code_revision}")
            if row.code_revision == 2:
                run.edit = edit
                self.done["edit"] += 1
        for worker in self.workers[::2]:
            worker.next_code = code
        self.was_knocked = True
        self.say(f"the code has a stage {edit}")

    def may_move(self, run: Run, edit: EditOf) -> bool:
        """Whether it goes on with that edit. One whose turn is held is busy."""
        (row,) = self.rows(_STANDS, run_id=run.run_id)
        before = run.program.body[: place_of(run.program, edit)]
        same = predict(run.program.model_copy(update={"body": before}))
        is_before = set(row.keys) <= same.work.keys() | same.waits.keys()
        return is_before and row.is_open and not row.is_held

    def begins_another_life(self) -> bool:
        """All have ended; an operator may let one go on again."""
        while self.operators is not None and self.lives_left:
            self.lives_left -= 1
            self.let_operate(1.0)
            if len(self.ended) < len(self.runs):
                return True
        return False

    def move(self) -> None:
        """One random thing that can happen now."""
        self.clock.move(0.001)  # no two things at one moment: their order is ours
        weights = {name: weight for name, weight in self.possible().items() if weight}
        (name,) = self.chance.choices(list(weights), list(weights.values()))
        self.done[name] += 1
        getattr(self, name)()
        self.collect()

    def possible(self) -> dict[str, float]:
        """What can happen now, and how likely it is."""
        has_hands = any(worker.task is None for worker in self.workers)
        silent = sum(worker.silent_since is not None for worker in self.workers)
        due = self.due()
        return {
            "go_on": 6.0 if self.paused() else 0,
            "wake_up": 1.0 if self.thought_dead() else 0,
            "kill": 0.4 if any(map(self.may_lose, self.paused())) else 0,
            "deliver": 10.0 if self.bag and has_hands else 0,
            "deliver_twice": 4.0 if self.bag and has_hands else 0,
            "deliver_again": 0.5 if self.delivered and has_hands else 0,
            "deliver_to_ignorant": 0.3 if self.bag else 0,
            "lose": 0.5 if self.bag else 0,
            "fire": 5.0 if due and has_hands else 0,
            "fire_again": 0.3 if self.fired and has_hands else 0,
            "fire_early": 0.3 if len(self.index) > len(due) and has_hands else 0,
            "forget": 0.2 if self.index else 0,
            "empty_redis": 0.1,
            "relay": (4.0 if self.was_knocked else 0.3) if has_hands else 0,
            "sweep": 0.4 if has_hands else 0,
            "act": 0.8 * sum(not run.player.is_done for run in self.runs) + 0.1,
            "cancel": 0.5 if any(run.player.may_cancel for run in self.runs) else 0,
            "pause": 0.15,
            "resume": 1.5 if any(run.is_paused for run in self.runs) else 0.1,
            "wait": 0.5,
            "wait_for_a_timer": 2.0 if self.index and not due else 0,
            "wait_for_a_death": 3.0 if silent > len(self.thought_dead()) else 0.1,
        }

    def paused(self) -> list[Worker]:
        """Those that stand at a statement, and live."""
        return [
            each for each in self.workers if each.task is not None and each.silent_since is None
        ]

    def thought_dead(self) -> list[Worker]:
        """Those that have been silent for so long, and live."""
        since = self.clock.now - timedelta(seconds=DEAD_SECONDS)
        return [each for each in self.workers if each.silent_since and each.silent_since <= since]

    # -- messages --------------------------------------------------------------------------------

    def collect(self) -> None:
        """What the engine has told the fleet."""
        handoffs: list[Handoff] = []
        for context in self.theatre.contexts:
            messenger: Any = context.messenger
            handoffs += messenger.handed_off
            self.index += [
                (self.clock.now + timedelta(seconds=timer.remaining_seconds), timer.id)
                for timer in messenger.armed
            ]
            self.ended |= {
                notice.run_id for notice in messenger.announced if notice.status.is_closed
            }
            messenger.handed_off, messenger.armed, messenger.announced = [], [], []
        self.bag += sorted(
            handoffs, key=lambda each: (self.number_of(each.run_id), each.key, each.attempt)
        )
        self.index.sort()

    def take(self) -> Handoff:
        """Any message of those that lie there."""
        return self.bag.pop(self.chance.randrange(len(self.bag)))

    def deliver(self) -> None:
        self.hand(self.take())

    def deliver_twice(self) -> None:
        message = self.take()
        self.bag.append(message)
        self.hand(message)

    def deliver_again(self) -> None:
        self.hand(self.chance.choice(self.delivered))

    def deliver_to_ignorant(self) -> None:
        """A worker that lacks the process. Celery gives it no stage that it lacks: it is lost."""
        message = self.take()
        self.say(f"{self.name_of(message)} to a worker that lacks it")
        if message.task == ADVANCE:
            advance(self.ignorant.context, message.run_id)

    def lose(self) -> None:
        self.say(f"{self.name_of(self.take())} is lost")

    def hand(self, message: Handoff) -> None:
        """To a worker that is free. Several turns may be asked for in one message."""
        self.delivered.append(message)
        others = self.take_others() if message.task == ADVANCE else []

        def work(worker: Worker) -> None:
            if message.task == ADVANCE:
                self.take_turns(worker, [message.run_id, *others])
            else:
                worker.stages_of.add(message.run_id)
                key, attempt = message.key, message.attempt
                execution = GoesOnAtTimes(worker, self.chance, message.run_id)
                run_stage_eagerly(worker.context, message.run_id, key, attempt, execution)

        name = self.name_of(message) + "".join(
            f", and of {self.number_of(each)}" for each in others
        )
        self.begin(name, work)

    def take_others(self) -> list[UUID]:
        """More turns that are asked for, as a relay puts them together."""
        if self.chance.random() < 0.7:
            return []
        found = [each for each in self.bag if each.task == ADVANCE]
        self.bag = [each for each in self.bag if each.task != ADVANCE]
        self.delivered += found
        return [each.run_id for each in found]

    def take_turns(self, worker: Worker, run_ids: list[UUID]) -> None:
        worker.turns_of |= set(run_ids)
        if len(set(run_ids)) == 1 and self.chance.random() < 0.8:
            execution = GoesOnAtTimes(worker, self.chance, run_ids[0])
            advance_eagerly(worker.context, run_ids[0], execution)
        else:
            go_in_a_batch(
                worker.context,
                run_ids,
                lambda run_id: GoesOnAtTimes(worker, self.chance, run_id),
                enough=2,  # the rest go on while Postgres is at work for these
            )

    # -- timers ----------------------------------------------------------------------------------

    def due(self) -> list[tuple[datetime, UUID]]:
        return [entry for entry in self.index if entry[0] <= self.clock.now]

    def fire(self) -> None:
        self.fire_one(self.chance.choice(self.due()))

    def fire_early(self) -> None:
        early = [entry for entry in self.index if entry[0] > self.clock.now]
        self.fire_now(self.chance.choice(early)[1], "timer too early")

    def fire_again(self) -> None:
        self.fire_now(self.chance.choice(self.fired), "timer again")

    def fire_one(self, entry: tuple[datetime, UUID]) -> None:
        self.index.remove(entry)
        self.fire_now(entry[1], f"timer of {(entry[0] - BEGINNING).total_seconds():.6f}")

    def fire_now(self, timer_id: UUID, name: str) -> None:
        """What the Celery task of a timer does."""
        self.fired.append(timer_id)

        def work(worker: Worker) -> None:
            for handoff in fire(worker.context, timer_id):
                if handoff.task == ADVANCE:
                    self.take_turns(worker, [handoff.run_id])
                else:
                    worker.context.messenger.hand_off([handoff])

        self.begin(name, work)

    def forget(self) -> None:
        """The index loses a timer."""
        self.index.remove(self.chance.choice(self.index))
        self.say("a timer is forgotten")

    def empty_redis(self) -> None:
        self.say("Redis is emptied")
        self.bag.clear()
        self.index.clear()
        rebuild_index(self.theatre.caretaker)

    def relay(self) -> None:
        """What producers and operators have left, as Postgres's notification tells."""
        self.was_knocked = False
        self.begin("relay", lambda worker: relay(worker.context))

    def sweep(self) -> None:
        self.begin("sweep", lambda worker: sweep(worker.context))

    # -- workers ---------------------------------------------------------------------------------

    def begin(self, name: str, work: Callable[[Worker], object]) -> None:
        """On a free worker; it may be stopped at a statement, or goes through to its end."""
        worker = self.chance.choice([each for each in self.workers if each.task is None])
        worker.turns_of, worker.stages_of = set(), set()
        if worker.next_code is not None:
            with_code(worker.context, worker.next_code)
            worker.next_code = None
        worker.task = Task(f"{name} on {worker.name}", lambda: work(worker))
        self.say(f"{name} on {worker.name}")
        self.let_go_on(worker)

    def go_on(self) -> None:
        worker = self.chance.choice(self.paused())
        self.say(f"{worker.name} goes on")
        self.let_go_on(worker)

    def wake_up(self) -> None:
        """What was thought dead goes on where it stood."""
        worker = self.chance.choice(self.thought_dead())
        self.say(f"{worker.name} wakes up")
        worker.silent_since = None
        self.let_go_on(worker)

    def kill(self) -> None:
        worker = self.chance.choice([each for each in self.paused() if self.may_lose(each)])
        self.lose_worker(worker, "is killed")
        worker.task.doom = WorkerKilled()
        self.let_go_on(worker)

    def let_go_on(self, worker: Worker) -> None:
        task = worker.task
        self.at_work = worker
        task.go_on()
        self.at_work = None
        if not task.is_over:
            return
        worker.task = None
        if isinstance(task.error, WorkerKilled):
            worker.context.identity = Identity(worker.name)
        elif task.error is not None and not _is_ours(task.error):
            self.troubles.append(f"{task.name} raised {type(task.error).__name__}: {task.error}")

    def before(self, connection: Connection, *, may_pause: bool, may_break: bool) -> None:
        """A worker is about to send a statement."""
        worker = self.at_work
        if worker is None or self.is_calm:
            return
        luck = self.chance.random()
        if luck < 0.03 and self.may_lose(worker):
            self.trouble(worker, connection, "before", luck / 0.03, may_break=may_break)
        elif luck > 0.7 and may_pause:
            self.stop(worker, "before")

    def after(self, connection: Connection, *, may_pause: bool, may_break: bool) -> None:
        """A worker's statement has been done."""
        worker = self.at_work
        if worker is None or self.is_calm:
            return
        luck = self.chance.random()
        if luck < 0.03 and self.may_lose(worker):
            self.trouble(worker, connection, "after", luck / 0.03, may_break=may_break)
        elif luck > 0.88 and may_pause:
            self.stop(worker, "after")

    def trouble(
        self, worker: Worker, connection: Connection, when: str, luck: float, *, may_break: bool
    ) -> None:
        """The worker dies, or Postgres fails it: with its connection, now and then."""
        if luck < 0.5 or not may_break:
            self.lose_worker(worker, f"dies {when} a statement")
            raise WorkerKilled
        self.lose_worker(worker, f"is failed by Postgres {when} a statement")
        if luck > 0.9:
            cut_off(connection)
        raise failed_by_postgres()

    def stop(self, worker: Worker, when: str) -> None:
        """It stands still; it may be for so long that it is thought dead."""
        self.say(f"{worker.name} stops {when} a statement")
        if self.chance.random() < 0.2 and self.may_lose(worker):
            self.lose_worker(worker, "is silent")
            worker.silent_since = self.clock.now
        worker.task.pause()

    def may_lose(self, worker: Worker) -> bool:
        lost = [run.turns_lost for run in self.runs if run.run_id in worker.turns_of]
        return self.losses_left > 0 and all(count < TURN_LOSSES_MAX for count in lost)

    def lose_worker(self, worker: Worker, what: str) -> None:
        self.losses_left -= 1
        self.say(f"{worker.name} {what}")
        for run in self.runs:
            run.turns_lost += run.run_id in worker.turns_of
            run.attempts_lost += run.run_id in worker.stages_of

    # -- the world -------------------------------------------------------------------------------

    def act(self) -> None:
        self.let_act(self.chance.choice(self.runs), tries_early=True)

    def let_act(self, run: Run, *, tries_early: bool) -> bool:
        """One act of this run's world. False: there is none now."""
        player, approvals = run.player, self.approvals_of(run)
        try:
            did = player.act(self.chance, approvals, tries_early=tries_early)
        except (PerennialError, SQLAlchemyError) as error:
            player.has_ended, did = True, f"an act raised {type(error).__name__}: {error}"
            run.troubles.append(did)
        if did is not None:
            self.was_knocked = True
            self.say(f"run {run.number}: {did}")
        return did is not None

    def cancel(self) -> None:
        run = self.chance.choice([run for run in self.runs if run.player.may_cancel])
        self.say(f"run {run.number}: {run.player.cancel()}")
        self.ended.add(run.run_id)

    def pause(self) -> None:
        self.operate(self.chance.choice(self.runs), self.theatre.client.operations.pause, "pause")

    def resume(self) -> None:
        self.operate(self.chance.choice(self.runs), self.theatre.client.operations.resume, "resume")

    def operate(self, run: Run, verb: Callable[[UUID], None], name: str) -> None:
        with suppress(PerennialError):
            verb(run.run_id)
            run.is_paused, self.was_knocked = name == "pause", True
            self.say(f"run {run.number}: {name}")

    # -- time ------------------------------------------------------------------------------------

    def wait(self) -> None:
        self.pass_time(self.chance.uniform(0.01, 5.0))

    def wait_for_a_timer(self) -> None:
        at = self.index[0][0]
        if at - self.clock.now < timedelta(hours=1):
            self.pass_time((at - self.clock.now).total_seconds())

    def wait_for_a_death(self) -> None:
        """Long enough for whoever is silent to be thought dead; then somebody looks."""
        self.pass_time(DEAD_SECONDS)
        if any(worker.task is None for worker in self.workers):
            self.sweep()

    def pass_time(self, seconds: float) -> None:
        """Who stands at a statement beats meanwhile, unless it is silent."""
        self.say(f"{seconds:.6f} s pass")
        self.clock.move(seconds)
        for worker in self.paused():
            self.beat(worker)

    def beat(self, worker: Worker) -> None:
        held = worker.context.identity.leased_ids()
        if held:
            with self.theatre.caretaker.connection() as connection:
                workers.beat(connection, held, name=worker.name, pid=1)

    # -- the end ---------------------------------------------------------------------------------

    def calm(self) -> None:
        """No more trouble: everything comes to its end, by recovery if it must."""
        self.is_calm = True
        self.say("calm")
        for worker in self.workers:
            worker.silent_since = None
            while worker.task is not None:
                self.let_go_on(worker)
        for _ in range(ROUNDS_MAX * (1 if self.edit is None else 4)):
            self.clock.move(0.001)
            self.collect()
            if self.bag or self.due():
                self.settle()
            elif not self.world_acts() and (
                self.all_have_ended() or not self.wait_for_what_is_next()
            ):
                break
        for run in [] if self.all_have_ended() else self.runs:
            view = self.theatre.client.get(run.run_id)
            if not view.status.is_closed:
                run.troubles.append(
                    f"stuck as {view.status}, waiting for {view.waiting_for}: {view.waits}"
                )

    def settle(self) -> None:
        """What is there to be delivered, in a random order."""
        messages, self.bag = self.bag, []
        for entry in self.due():
            self.fire_one(entry)
        self.chance.shuffle(messages)
        for message in messages:
            self.hand(message)

    def world_acts(self) -> bool:
        """Everybody does what they can; operators mend what is mended."""
        acted = False
        for run in self.runs:
            while self.let_act(run, tries_early=False):
                self.clock.move(0.001)
                acted = True
        return acted

    def all_have_ended(self) -> bool:
        """And resume those that rest."""
        found = {row.id: RunStatus(row.status) for row in self.rows(_STATUSES)}
        for run in self.runs:
            if found[run.run_id] in (RunStatus.PAUSED, RunStatus.INCIDENT):
                self.operate(run, self.theatre.client.operations.resume, "resume")
        are_closed = all(status.is_closed for status in found.values())
        # What a parent's end asks of its children is a message of its own.
        return are_closed and not self.rows("SELECT FROM perennial.outbox LIMIT 1")

    def wait_for_what_is_next(self) -> bool:
        """Let time pass until something is due, and sweep. False: nothing ever is."""
        (row,) = self.rows(_NEXT_MOMENT)
        moments = [self.index[0][0]] if self.index else []
        moments += [] if row.at is None else [row.at]
        if not moments or min(moments) > BEGINNING + timedelta(seconds=2 * EXPIRY_SECONDS):
            return False
        self.clock.now = max(self.clock.now, min(moments))
        self.sweep()
        return True

    def storm(self) -> None:
        """Everything comes once more, long after the end: nothing may happen."""
        self.collect()
        self.bag.clear()
        for message in self.chance.sample(self.delivered, min(6, len(self.delivered))):
            self.hand(message)
        for timer_id in self.chance.sample(self.fired, min(3, len(self.fired))):
            self.fire_now(timer_id, "timer again")

    def abandon(self) -> None:
        """Let nobody stand at a statement, whatever has happened."""
        self.is_calm = True
        for worker in self.workers:
            if worker.task is not None:
                worker.task.doom = WorkerKilled()
                worker.task.go_on()
            if isinstance(worker.context.kept_flows, KeptFlows):
                worker.context.kept_flows.close()

    def approvals_of(self, run: Run) -> list[Any]:
        """As the client would list them, and quicker."""
        return self.rows(_APPROVALS, run_id=run.run_id) if run.player.needs_to_look else []

    def look_at_children(self, run: Run) -> None:
        """Each has come to what was predicted of it, or was cancelled with its parent."""
        parts = {
            part.name: part
            for part in parts_of(edited(run.program, run.edit).body)
            if isinstance(part, Child)
        }
        for row in self.rows(_CHILDREN, run_id=run.run_id) if parts else ():
            part = parts[row.parent_key.rpartition("/")[2]]
            with self.theatre.caretaker.connection() as connection:
                record = read_record(self.theatre.client, connection, row.id)
            program = Program(family="deep", body=part.body)
            prediction = predict(program, is_cancelled=record.status == "cancelled")
            verdict = check(record, prediction, turns_lost=None, attempts_lost=None)
            run.troubles += [f"{part.name}: {each}" for each in verdict.contradictions]
            if record.status == "cancelled" and not run.player.is_cancelled:
                run.troubles.append(
                    f"{part.name} is cancelled, and nobody has cancelled its parent"
                )

    def tokens_of(self, run_id: UUID) -> dict[str, list[str]]:
        """What partners were handed, by the key of the stage that did it."""
        handed: dict[str, list[str]] = {}
        for row in self.rows(_TOKENS, run_id=run_id):
            handed.setdefault(row.key, []).append(row.token)
        return handed

    def rows(self, sql: str, **parameters: object) -> list[Any]:
        """What the record says."""
        with self.theatre.connection.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(sql, parameters).fetchall()

    # -- words -----------------------------------------------------------------------------------

    def say(self, what: str) -> None:
        self.log.append(f"{(self.clock.now - BEGINNING).total_seconds():12.3f}  {what}")

    def number_of(self, run_id: UUID) -> int:
        return next((run.number for run in self.runs if run.run_id == run_id), -1)

    def name_of(self, message: Handoff) -> str:
        what = "advance" if message.task == ADVANCE else f"{message.key} attempt {message.attempt}"
        return f"run {self.number_of(message.run_id)}: {what}"


def _expiry(program: Program) -> timedelta | None:
    return None if program.expires_after is None else timedelta(seconds=program.expires_after)


def _is_ours(error: BaseException) -> bool:
    """The adversary has made Postgres fail it."""
    return isinstance(error, OperationalError) and "by the adversary" in str(error)
