"""Programs of the wide family: what the first family has, and callbacks, polls, races, maps, scopes, blocks and more.

What comes of one must not hang on timing. So of a race one branch alone can end, or all that is told of it is that
somebody won; a map ends as one item after the other would, or to its last; a deadline is a month, or what stands under
it never ends.
"""

from __future__ import annotations

from functools import partial

from tests.oracle.programs import (
    LONG_SECONDS,
    Ask,
    Await,
    Block,
    Callback,
    Child,
    Contest,
    Deadline,
    Family,
    Finally,
    Generator,
    Instruction,
    Many,
    Never,
    Patched,
    Peek,
    Poll,
    Race,
    Saga,
    Send,
    Sleep,
    Stage,
    Stream,
    Within,
)


class WideGenerator(Generator):
    """More of what is new than of what is not."""

    family: Family = "wide"

    def instruction(self, *, depth: int) -> Instruction:
        simple = [
            (self.stage, 3),
            (self.stage_with_steps, 2),
            (self.inline, 3),
            (self.sleep, 1),
            (self.wait, 1),
            (self.ask, 1),
            (self.wide_wait, 4),
            (self.callback, 5),
            (self.poll, 3),
            (self.stream, 2),
            (self.peek, 2),
            (self.patched, 1),
            (self.contest, 2),
            (self.many, 4),
            (self.bare_race, 3),
        ]
        nested = [
            (self.gather, 2),
            (self.beside, 1),
            (self.attempt, 3),
            (self.race, 4),
            (self.within, 4),
            (self.deadline, 4),
            (self.clean_up, 2),
        ]
        makers = simple if depth >= 2 else [*simple, *nested]
        if self.chance.random() < 0.08:
            return self.failing(depth=depth)
        return self.pick([(partial(make, depth=depth), weight) for make, weight in makers])

    def failure(self) -> Instruction:
        if self.chance.random() < 0.5:
            return super().failure()
        return self.pick(
            [
                (lambda: self.callback(answer="failed"), 2),
                (lambda: self.callback(answer="silent"), 2),
                (lambda: self.callback(answer="unheard"), 2),
                (lambda: self.poll(is_found=False), 2),
            ]
        )

    # -- waits -----------------------------------------------------------------------------------

    def wide_wait(self, **_: int) -> Await:
        name, chance = self.name("news"), self.chance
        if chance.random() < 0.3:
            return Await(
                name=name,
                comes=False,
                timeout_seconds=self.shortly(),
                default=chance.randrange(1000),
                is_until=chance.random() < 0.5,
            )
        by_key = chance.random() < 0.6
        times = chance.choice([1, 1, 2])
        self.sends += [self.send_by(name, by_key=by_key) for _ in range(times)]
        return Await(
            name=name,
            times=times,
            timeout_seconds=LONG_SECONDS,
            default=chance.choice([None, 7]),
            is_until=chance.random() < 0.5,
            by_key=by_key,
        )

    def send_by(self, name: str, *, by_key: bool) -> Send:
        return self.send(name).model_copy(update={"by_key": by_key})

    def callback(self, *, answer: str = "done", depth: int = 0) -> Callback:
        chance, name = self.chance, self.name("promise")
        failures = chance.choice([0, 0, 1, 2])
        size = chance.choice([0, 0, 1])
        return Callback(
            name=name,
            submit=Stage(key=f"{name}-submit", failures=failures),
            body=() if answer != "done" else tuple(self.sure() for _ in range(size)),
            answer=answer,
            payload=chance.randrange(1000),
            timeout_seconds=(
                self.shortly() if answer == "silent" else chance.choice([None, LONG_SECONDS])
            ),
            heartbeat_seconds=(
                self.shortly() if answer == "unheard" else chance.choice([None, LONG_SECONDS])
            ),
        )

    def poll(self, *, is_found: bool = True, **_: int) -> Poll:
        chance = self.chance
        found_at = chance.randint(1, 3)
        return Poll(
            check=Stage(key="look", failures=chance.choice([0, 0, 1])),
            found_at=found_at + (0 if is_found else 1),
            attempts=found_at if not is_found else chance.choice([None, found_at]),
            every_seconds=self.shortly(),
            factor=chance.choice([1.0, 2.0]),
        )

    def stream(self, **_: int) -> Stream:
        name = self.name("flood")
        if self.chance.random() < 0.3:
            return Stream(name=name, times=0, timeout_seconds=self.shortly())
        times = self.chance.randint(1, 3)
        self.sends += [self.send(name) for _ in range(times)]
        return Stream(name=name, times=times)

    def peek(self, **_: int) -> Peek:
        name = self.name("rumour")
        if self.chance.random() < 0.7:
            self.sends.append(self.send(name))
        return Peek(name=name)

    def patched(self, **_: int) -> Patched:
        return Patched(name=self.name("patch"))

    def never(self) -> Never:
        form = self.chance.choice(["signal", "sleep", "approval", "callback"])
        return Never(name=self.name("never"), form=form)

    # -- several together ------------------------------------------------------------------------

    def sure(self) -> Instruction:
        """What ends well, and stands in nothing else."""
        makers = [self.stage, self.inline, self.sleep, self.wide_wait, self.poll]
        return self.chance.choice(makers)()

    def late(self) -> Instruction:
        """What ends well, and not in the turn that asks for it."""
        return self.chance.choice([self.stage, self.stage_with_steps, self.sleep])()

    def bare_race(self, **_: int) -> Race:
        winner: Stage | Sleep | Await | Ask
        winner = self.chance.choice([self.stage, self.sleep, self.single_wait])()
        others = [self.never() for _ in range(self.chance.randint(1, 3))]
        return self.race_of([(each,) for each in others], (winner,), is_bare=True)

    def race(self, *, depth: int) -> Race:
        winner = (self.late(), *(self.sure() for _ in range(self.chance.choice([0, 1]))))
        others = [self.loser() for _ in range(self.chance.randint(1, 2))]
        return self.race_of(others, winner, is_bare=False)

    def race_of(self, others: list[Block], winner: Block, *, is_bare: bool) -> Race:
        place = self.chance.randint(0, len(others))
        branches = (*others[:place], winner, *others[place:])
        return Race(key=self.name("race"), branches=branches, winner=place, is_bare=is_bare)

    def loser(self) -> Block:
        """It waits for ever, and cleans up when it is cancelled."""
        if self.chance.random() < 0.3:
            return (self.stage(), self.never())
        return (self.cancelled(),)

    def cancelled(self) -> Instruction:
        if self.chance.random() < 0.3:
            return self.never()
        cleanup = tuple(self.sure() for _ in range(self.chance.randint(1, 2)))
        return Finally(body=(self.never(),), cleanup=cleanup)

    def contest(self, **_: int) -> Contest:
        stages = tuple(self.stage() for _ in range(self.chance.randint(2, 4)))
        return Contest(
            key=self.name("contest"), stages=stages, count=self.chance.randint(1, len(stages))
        )

    def many(self, **_: int) -> Many:
        chance = self.chance
        form = chance.choice(["stage", "own", "parallel"])
        items = tuple(
            Stage(
                key=self.name("item"),
                failures=chance.choice([0, 0, 1]),
                ending=chance.choice(["done", "done", "done", "fails", "hopeless"]),
            )
            for _ in range(chance.choice([0, 1, 2, 3, 4]))
        )
        one_by_one = chance.random() < 0.6
        failing = sum(each.ending != "done" for each in items)
        return Many(
            key=self.name("many"),
            form=form,
            items=items,
            max_concurrency=1 if one_by_one else chance.choice([None, 2]),
            min_successful=chance.choice([None, 1, 2]) if one_by_one else None,
            tolerated_failures=(
                chance.choice([None, 0, 1]) if one_by_one else chance.choice([None, failing])
            ),
        )

    # -- what holds others -----------------------------------------------------------------------

    def within(self, *, depth: int) -> Within:
        body = self.block(self.chance.randint(1, 3), depth=depth + 1)
        return Within(name=self.name("part"), body=body, is_recorded=self.chance.random() < 0.6)

    def deadline(self, *, depth: int) -> Deadline:
        is_over = self.chance.random() < 0.4
        body = (
            (self.cancelled(),)
            if is_over
            else self.block(self.chance.randint(1, 2), depth=depth + 1)
        )
        seconds = self.shortly() if is_over else LONG_SECONDS
        return Deadline(key=self.name("until"), seconds=seconds, body=body, is_over=is_over)

    def clean_up(self, *, depth: int) -> Finally:
        body = self.block(self.chance.randint(1, 2), depth=depth + 1)
        return Finally(body=body, cleanup=(self.sure(),))


class DeepGenerator(WideGenerator):
    """And runs that start others, and what is undone."""

    family: Family = "deep"

    def instruction(self, *, depth: int) -> Instruction:
        if self.chance.random() < 0.35:
            return self.chance.choice([self.child, self.child, self.saga])()
        return super().instruction(depth=depth)

    def child(self) -> Child:
        alone = [self.stage, self.inline, self.sleep, self.poll, self.many, self.contest]
        body = tuple(self.chance.choice(alone)() for _ in range(self.chance.randint(1, 3)))
        if self.chance.random() < 0.3:
            body = (*body, Stage(key=self.name("flop"), ending="fails"))
        return Child(
            name=self.name("child"), body=body, on_parent_end=self.chance.choice(["cancel", "wait"])
        )

    def saga(self) -> Saga:
        works = tuple(self.stage() for _ in range(self.chance.randint(0, 3)))
        return Saga(name=self.name("saga"), works=works, by=self.chance.choice(["fail", "stage"]))
