"""What several threads ask at once is asked in one statement (engine/eager/group_commit.py), whatever becomes of it."""

from __future__ import annotations

import gc
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from orchestrator.engine.eager.group_commit import GROUP_MAX, IN_FLIGHT_MAX, GroupCommit
from tests.harness import Thread, wait_for

Ask = tuple[str, str | None, int]
"""Kind, mark, number."""


class Refused(Exception):
    """No, to all of the statement."""


class Lost(Exception):
    """No answer came."""

    def __init__(self, what: str, *, why: str) -> None:
        super().__init__(f"{what} is lost: {why}")
        self.what = what


class Desk:
    """Answers with ten times the number, when it is told to; each statement waits for its `let_go`."""

    def __init__(self) -> None:
        self.statements: list[list[int]] = []
        self.alone: list[int] = []
        self.under_way: list[queue.SimpleQueue[BaseException | None]] = []
        self.group_commit: GroupCommit[Ask, int] = GroupCommit(
            self._together,
            self._alone,
            kind=lambda ask: ask[0],
            mark=lambda ask: ask[1],
            goes_alone=lambda failure, asked: asked > 1 and isinstance(failure, Refused),
        )

    def _together(self, asks: Sequence[Ask]) -> list[int]:
        outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.statements.append([number for _, _, number in asks])
        self.under_way.append(outcome)
        failure = outcome.get(timeout=10)
        if failure is not None:
            raise failure
        return [10 * number for _, _, number in asks]

    def _alone(self, ask: Ask) -> int:
        self.alone.append(ask[2])
        if ask[2] < 0:
            raise Refused("it was this one")
        return 10 * ask[2]

    def comes(self, number: int, *, kind: str = "p", mark: str | None = None) -> Thread:
        """A thread that asks. It is under way, or waits, when this returns."""
        before = self._known()
        thread = Thread(lambda: self.group_commit.ask((kind, mark, number)))
        wait_for(lambda: self._known() > before, f"{number} at the desk")
        return thread

    def _known(self) -> int:
        return len(self.under_way) + self.waiting()

    def waiting(self) -> int:
        return sum(len(crowd.waiting) for crowd in self.group_commit._queues.values())

    def let_go(self, statement: int, failure: BaseException | None = None) -> None:
        wait_for(lambda: len(self.under_way) > statement, f"statement {statement}")
        self.under_way[statement].put(failure)

    def is_left(self) -> bool:
        return not self.group_commit._queues


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    wait_for(desk.is_left, "an empty desk")


def outcomes(*threads: Thread) -> list[Any]:
    return [thread.outcome() for thread in threads]


def busy(desk: Desk) -> list[Thread]:
    """So many that whoever comes now waits."""
    return [desk.comes(number) for number in range(1, IN_FLIGHT_MAX + 1)]


def test_who_comes_first_asks_at_once_and_alone(desk):
    first, second = busy(desk)
    assert desk.statements == [[1], [2]]
    desk.let_go(1)
    desk.let_go(0)
    assert outcomes(first, second) == [10, 20]


def test_who_comes_then_goes_together_when_one_of_them_is_answered(desk):
    asking = busy(desk)
    waiting = [desk.comes(number) for number in (3, 4, 5)]
    assert desk.statements == [[1], [2]]
    desk.let_go(1)
    desk.let_go(2)
    assert outcomes(*waiting) == [30, 40, 50]
    assert desk.statements == [[1], [2], [3, 4, 5]]
    desk.let_go(0)
    assert outcomes(*asking) == [10, 20]


def test_who_comes_while_those_ask_goes_next(desk):
    asking = busy(desk)
    third, fourth = desk.comes(3), desk.comes(4)
    desk.let_go(0)
    wait_for(lambda: len(desk.statements) > 2, "the third and the fourth under way")
    fifth = desk.comes(5)
    for statement in (1, 3, 2):
        desk.let_go(statement)
    assert outcomes(*asking, third, fourth, fifth) == [10, 20, 30, 40, 50]
    assert desk.statements[2:] == [[3, 4], [5]]


def test_those_of_another_kind_wait_for_nobody_here(desk):
    asking = busy(desk)
    other = desk.comes(3, kind="q")
    assert desk.statements[2] == [3]
    for statement in range(3):
        desk.let_go(statement)
    assert outcomes(*asking, other) == [10, 20, 30]


def test_no_two_of_one_mark_are_in_one_statement(desk):
    asking = busy(desk)
    waiting = [desk.comes(number, mark=mark) for number, mark in ((3, "k"), (4, "k"), (5, "l"))]
    desk.let_go(0)
    desk.let_go(2)
    desk.let_go(3)
    desk.let_go(1)
    assert outcomes(*asking, *waiting) == [10, 20, 30, 40, 50]
    assert desk.statements[2:] == [[3, 5], [4]]


def test_a_statement_has_a_bound(desk):
    asking = busy(desk)
    waiting = [desk.comes(number) for number in range(3, 3 + GROUP_MAX + 1)]
    for statement in (0, 2, 3, 1):
        desk.let_go(statement)
    assert sorted(outcomes(*asking, *waiting)) == [
        10 * number for number in range(1, GROUP_MAX + 4)
    ]
    assert [len(statement) for statement in desk.statements[2:]] == [GROUP_MAX, 1]


def test_what_is_refused_of_many_is_asked_by_each_alone_and_fails_where_the_fault_is(desk):
    asking = busy(desk)
    waiting = [desk.comes(number) for number in (3, -4, 5)]
    desk.let_go(0)
    desk.let_go(2, Refused("somebody's fault"))
    desk.let_go(1)
    assert outcomes(*asking, waiting[0], waiting[2]) == [10, 20, 30, 50]
    with pytest.raises(Refused, match="it was this one"):
        waiting[1].outcome()
    assert sorted(desk.alone) == [-4, 3, 5]


def test_who_asked_alone_and_was_refused_is_told(desk):
    asking = desk.comes(1)
    desk.let_go(0, Refused("no"))
    with pytest.raises(Refused):
        asking.outcome()
    assert desk.alone == []


@pytest.mark.parametrize(
    "failure",
    [
        Lost("the connection", why="a restart"),  # its `__init__` wants more than its arguments
        FileNotFoundError(2, "No such file", "the password's"),  # it has more than its arguments
        OperationalError("SELECT 1", {}, Lost("it", why="?"), connection_invalidated=True),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_where_no_answer_came_all_are_told(desk, failure):
    asking = busy(desk)
    waiting = [desk.comes(number) for number in (3, 4)]
    desk.let_go(0)
    desk.let_go(2, failure)
    desk.let_go(1)
    told = []
    for thread in waiting:
        with pytest.raises(type(failure)) as caught:
            thread.outcome()
        told.append(caught.value)
    assert outcomes(*asking) == [10, 20]
    assert desk.alone == []
    assert told[0] is not told[1]  # what one of them adds to it, the other doesn't see
    assert [str(each) for each in told] == [str(failure)] * 2
    assert told[0].__dict__ == told[1].__dict__ == failure.__dict__


def test_when_who_asks_for_others_is_ended_they_ask_alone_and_the_next_goes_on(desk):
    asking = busy(desk)
    leader, follower = desk.comes(3), desk.comes(4)
    desk.let_go(0)
    wait_for(lambda: len(desk.statements) == 3, "both under way")
    late = desk.comes(5)
    desk.let_go(2, SystemExit())
    with pytest.raises(SystemExit):
        leader.outcome()
    assert follower.outcome() == 40
    assert desk.alone == [4]
    for statement in (3, 1):
        desk.let_go(statement)
    assert outcomes(late, *asking) == [50, 10, 20]


class Interrupted(Exception):
    """Stands for what a signal raises in a thread that waits."""


class InterruptedTurn:
    """A lock whose wait is interrupted, before or after what `meanwhile` does."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile

    def acquire(self) -> None:
        self._meanwhile()
        raise Interrupted

    def locked(self) -> bool:
        return False

    def release(self) -> None:
        """Nobody waits here any more."""


def interrupted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None], number: int
) -> Thread:
    """A thread that comes, and is interrupted where it waits."""
    come = desk.group_commit._come

    def come_and_be_interrupted(place: Any, kind: Any) -> None:
        come(place, kind)
        if place.ask[2] == number:
            place.turn = InterruptedTurn(meanwhile)

    monkeypatch.setattr(desk.group_commit, "_come", come_and_be_interrupted)
    return Thread(lambda: desk.group_commit.ask(("p", None, number)))


def test_who_is_ended_while_it_waits_is_not_asked_for(desk, monkeypatch):
    asking = busy(desk)
    gone = interrupted(desk, monkeypatch, lambda: None, number=3)
    with pytest.raises(Interrupted):
        gone.outcome()
    assert desk.waiting() == 0
    fourth = desk.comes(4)
    desk.let_go(0)
    desk.let_go(2)
    desk.let_go(1)
    assert outcomes(*asking, fourth) == [10, 20, 40]
    assert desk.statements[2:] == [[4]]


def test_who_is_ended_as_it_is_to_ask_for_the_rest_leaves_that_to_the_next(desk, monkeypatch):
    asking = busy(desk)
    goes_on = threading.Event()
    gone = interrupted(desk, monkeypatch, lambda: goes_on.wait(10), number=3)
    wait_for(lambda: desk.waiting() == 1, "the third to wait")
    fourth = desk.comes(4)
    desk.let_go(0)
    assert asking[0].outcome() == 10  # and has told the third to ask
    goes_on.set()
    with pytest.raises(Interrupted):
        gone.outcome()
    desk.let_go(2)
    desk.let_go(1)
    assert outcomes(asking[1], fourth) == [20, 40]


def test_who_asks_in_the_midst_of_asking_for_others_asks_alone():
    """A listener of the engine's, or a handler of its log, that starts a run waits for nobody: not for itself."""
    group_commit: GroupCommit[Ask, int] = GroupCommit(
        lambda asks: [group_commit.ask(("p", None, number + 1)) for _, _, number in asks],
        lambda ask: 10 * ask[2],
        kind=lambda ask: ask[0],
        mark=lambda ask: ask[1],
        goes_alone=lambda *_: False,
    )
    threads = [Thread(lambda: group_commit.ask(("p", None, 1))) for _ in range(2 * IN_FLIGHT_MAX)]
    assert outcomes(*threads) == [20] * len(threads)


def test_a_signal_that_ends_an_ask_at_any_moment_leaves_the_way_free():
    """A soft time limit's exception may come between any two steps of what the thread does."""
    asks = 0

    def interrupt(*_: object) -> None:
        raise Interrupted

    group_commit: GroupCommit[Ask, int] = GroupCommit(
        lambda asks: [sum(range(500)) for _ in asks],
        lambda _ask: 0,
        kind=lambda ask: ask[0],
        mark=lambda ask: ask[1],
        goes_alone=lambda *_: False,
    )
    gc.collect()
    gc.disable()  # what is collected calls back, and an exception there reaches nobody
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        while asks < 4000:
            asks += 1
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + asks % 60))
                group_commit.ask(("p", None, 1))
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                pass
            assert not any(crowd.in_flight for crowd in group_commit._queues.values()), (
                "a place is lost"
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()


def test_a_forked_process_waits_for_nobody_of_its_parents(desk):
    """Its copy of those threads has nobody to answer it."""
    asking = busy(desk)
    child = os.fork()
    if not child:  # pragma: no cover - it is another process
        signal.alarm(5)  # should it wait all the same
        desk.group_commit._together = lambda asks: [7 for _ in asks]
        is_answered = desk.group_commit.ask(("p", None, 3)) == 7
        os._exit(0 if is_answered else 1)
    codes: list[int] = []
    waiting = Thread(lambda: codes.append(os.waitpid(child, 0)[1]))
    for statement in range(IN_FLIGHT_MAX):
        desk.let_go(statement)
    assert outcomes(*asking) == [10, 20]
    waiting.outcome()
    assert codes == [0]
