"""What must become of programs of the wide family. Pure, as `predict.py` is, which has the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tests.oracle.predict import Failure, Reader, Result, Scope, Wait, Work, predict
from tests.oracle.programs import (
    Await,
    Block,
    Callback,
    Child,
    Contest,
    Deadline,
    Finally,
    Instruction,
    Many,
    Never,
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


class Cancelled(Exception):
    """Here a branch waits until it is cancelled."""


class WideReader(Reader):
    """As a Reader, of more instructions."""

    def part(self, part: Instruction, scope: Scope) -> None:  # noqa: PLR0912 - a case for each
        match part:
            case Callback():
                self.callback(part, scope)
            case Poll():
                self.poll(part, scope)
            case Stream():
                self.stream(part, scope)
            case Peek():
                self.note_wait(scope.key(f"{part.name}-peek"), "peek", "done")
                scope.told.append("looked")
            case Patched():
                self.note_wait(f"{scope.path}patched#{part.name}", "patch", "done")
                scope.told.append(True)
            case Never():
                self.ask(part, scope)
                raise Cancelled
            case Finally():
                try:
                    self.block(part.body, scope)
                finally:
                    self.block(part.cleanup, scope)
            case Race():
                self.race(part, scope)
            case Contest():
                with self.doubting():
                    for each in part.stages:
                        self.ask(each, scope)
                scope.told.append(f"{part.count} of {len(part.stages)}")
            case Many():
                self.many(part, scope)
            case Within():
                self.within(part, scope)
            case Deadline():
                self.deadline(part, scope)
            case Child():
                self.child(part, scope)
            case Saga():
                self.saga(part, scope)
            case _:
                super().part(part, scope)

    def ask(self, part: Any, scope: Scope) -> str:
        if isinstance(part, Never):
            key = scope.key(part.name)
            # A branch that is cancelled in the turn that asks for it leaves nothing.
            self.note_wait(key, "never", "cancelled", is_certain=False)
            return key
        return super().ask(part, scope)

    def answer(self, part: Any, key: str, scope: Scope) -> None:
        if isinstance(part, Await) and not part.comes and part.default is not None:
            scope.told.append(f"{part.name}: {part.default}")
            return
        super().answer(part, key, scope)

    # -- waits -----------------------------------------------------------------------------------

    def callback(self, part: Callback, scope: Scope) -> None:
        key = scope.key(part.name)
        ends = {"done": "done", "failed": "failed", "silent": "timed_out", "unheard": "failed"}
        self.note_wait(key, "callback", ends[part.answer])
        handed = scope.key(part.submit.key)
        self.note(part.submit, handed, scope, "stage", part.submit.failures)
        scope.told.append(Result(handed))
        scope.seen = handed
        try:
            self.block(part.body, scope)
        except Failure:
            self.doubt(key)
            raise
        if part.answer == "done":
            scope.told.append(f"{part.name}: {part.payload}")
            return
        if part.answer == "failed":
            words = (f"{key} failed after ", f" attempt(s): Declined: {part.payload} is too much")
            raise Failure("CallbackFailed", f"ActivityFailed: {key} by Declined", *words, key=key)
        if part.answer == "silent":
            words = (f"callback {part.name!r} was not answered in time (activity {key})",)
            raise Failure("CallbackTimedOut", f"CallbackTimedOut: {words[0]}", *words, key=key)
        words = (f"no heartbeat of callback {part.name!r} came in time (activity {key})",)
        raise Failure("HeartbeatTimedOut", f"HeartbeatTimedOut: {words[0]}", *words, key=key)

    def poll(self, part: Poll, scope: Scope) -> None:
        checks = min(part.found_at, part.attempts or part.found_at)
        seen = scope.seen
        inner = replace(scope)
        for number in range(checks):
            key = scope.key("look")
            inner.seen = seen
            self.note(part.check, key, inner, "stage", part.check.failures)
            seen = key
            if number + 1 < checks:
                self.note_wait(scope.key("look-pause"), "poll", "done")
        if part.attempts is not None and part.attempts < part.found_at:
            words = f"poll 'look' came to no end in {checks} check(s)"
            raise Failure("PollTimedOut", f"PollTimedOut: {words}", words)
        scope.told.append(Result(seen or ""))
        scope.seen = seen

    def stream(self, part: Stream, scope: Scope) -> None:
        if not part.times:
            self.note_wait(scope.key(part.name), "signal", "timed_out")
            scope.told.append([])
            return
        for _ in range(part.times):
            self.note_wait(scope.key(part.name), "signal", "done")
        scope.told.append([self.payloads[part.name].pop(0) for _ in range(part.times)])

    # -- several together ------------------------------------------------------------------------

    def race(self, part: Race, scope: Scope) -> None:
        path = scope.key(part.key)
        if part.is_bare:
            for number, (each,) in enumerate(part.branches):
                self.ask(each, scope)
                if number == part.winner and isinstance(each, Await):
                    self.payloads[each.name].pop(0)
            scope.told.append(f"{part.key} is won by {part.winner}")
            return
        winner = Scope("")
        for number, block in enumerate(part.branches):
            branch = Scope(f"{path}/b{number}/", scope.seen)
            if number == part.winner:
                winner = branch
                self.block(block, branch)
            else:
                self.loser(block, branch)
        scope.told.append([f"b{part.winner}", *winner.told])
        scope.seen = winner.seen

    def loser(self, block: Block, branch: Scope) -> None:
        """What it does before it waits, it may not come to do."""
        try:
            if len(block) > 1:
                with self.doubting():
                    self.block(block, branch)
            else:
                self.block(block, branch)
        except Cancelled:
            return
        raise AssertionError("a loser ends")

    def many(self, part: Many, scope: Scope) -> None:
        path, told, failed, succeeded, why = scope.key(part.key), [], 0, 0, ""
        for number, each in enumerate(part.items):
            if why:
                told.append("not started")
                continue
            key = f"{path}/{number}/{'one' if part.form == 'stage' else 'patient'}"
            self.note(each, key, scope, "stage", each.failures)
            if each.ending == "done":
                told.append(Result(key))
                succeeded += 1
            else:
                told.append(f"ActivityFailed: {key} by {self.work[key].error}")
                failed += 1
            if part.tolerated_failures is not None and failed > part.tolerated_failures:
                why = "more have failed than is tolerated"
            elif number + 1 == len(part.items):
                why = "all have ended"
            elif part.min_successful is not None and succeeded >= part.min_successful:
                why = "enough have succeeded"
        scope.told.append([why or "all have ended", *told])

    # -- what holds others -----------------------------------------------------------------------

    def within(self, part: Within, scope: Scope) -> None:
        key = scope.key(part.name)
        inner = Scope(f"{key}/", scope.seen)
        self.block(part.body, inner)
        if part.is_recorded:
            self.note_wait(key, "scope", "done")
        scope.told.append(inner.told)
        scope.seen = inner.seen

    def deadline(self, part: Deadline, scope: Scope) -> None:
        key = scope.key(part.key)
        if not part.is_over:
            # One that is left in the turn that has entered it leaves nothing.
            self.note_wait(key, "timeout", "cancelled", is_certain=False)
            self.block(part.body, scope)
            return
        self.note_wait(key, "timeout", "timed_out")
        try:
            self.block(part.body, scope)
        except Cancelled:
            words = f"what stands under 'timeout' was not done in time (activity {key})"
            scope.told.append(f"caught BlockTimedOut: {words}")

    # -- runs, and what is undone ----------------------------------------------------------------

    def child(self, part: Child, scope: Scope) -> None:
        key = scope.key(part.name)
        ended = predict(Program(family="deep", body=part.body))
        is_done = ended.status == "completed"
        self.note_wait(key, "child", "done" if is_done else "failed")
        if is_done:
            scope.told.append(f"{part.name} has told {len(ended.output)}")
            return
        assert ended.error is not None
        words = f"{key}: child random-child "
        raise Failure(
            "ChildFailed",
            f"ActivityFailed: {key} by {ended.error[0]}",
            words,
            *ended.error[1],
            key=key,
        )

    def saga(self, part: Saga, scope: Scope) -> None:
        done = []
        for each in part.works:
            key = self.ask(each, scope)
            scope.told.append(Result(key))
            scope.seen = key
            done.append(key)
        error = f"Fail: {part.name}"
        if part.by == "stage":
            flop = self.ask(Stage(key=f"{part.name}-flop", ending="fails"), scope)
            error = f"ActivityFailed: {flop} by Fail"
        if done:
            inner = Scope(f"{scope.key('undo')}/")
            for key in reversed(done):
                back = inner.key("put-back")
                self.work[back] = Work(back, "put-back", "stage", 1, after=key)
        scope.told.append(f"undone {error}")

    # -- small things ----------------------------------------------------------------------------

    def note_wait(self, key: str, kind: str, end: str, *, is_certain: bool = True) -> None:
        self.waits[key] = Wait(key, kind, end, is_certain=is_certain)

    @contextmanager
    def doubting(self) -> Iterator[None]:
        """What is noted in this block may not be done."""
        before = {*self.work, *self.waits}
        try:
            yield
        finally:
            for key in [key for key in (*self.work, *self.waits) if key not in before]:
                self.doubt(key)
