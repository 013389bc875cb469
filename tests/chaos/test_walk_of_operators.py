"""The walk of test_walk.py for what operators do to runs in mid-flight: the command dies at each place that it passes,
and the workers that go on with the runs die at each place that those pass.

A command that is lost leaves each run on one side or the other. Called again it brings all to the new side, and says
so once. Called no more, each run ends as its side says. Nothing is done twice, and nothing is left over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count

import pytest

from orchestrator import Client
from orchestrator.errors import PerennialError
from tests.chaos.mortal import Mortal, Stalled, listening
from tests.chaos.operators import BEGINNING, VERBS, End, House, Stand, Verb
from tests.chaos.worker import Place
from tests.harness import Database, Harness


class Cases:
    """Stands of one verb, and what each run is and comes to on either side of it."""

    def __init__(self, database: Database, harness: Harness, house: House, verb: Verb) -> None:
        self.verb, self.harness, self.house = verb, harness, house
        is_new = verb.name == "amend"
        self.client = Client(harness.settings, registry=house.new if is_new else house.was)
        context = self.client._context
        for engine in {id(each): each for each in (context.database, context.reads)}.values():
            database.adopt(engine)
        self.operator = Mortal(database, context)
        self.workers = [harness.context]
        if is_new:
            new = harness.worker("new", registry=house.new)
            new.messenger = harness.messenger
            self.workers.append(new)
        worker = harness.worker("victim", registry=self.client._context.registry)
        worker.messenger = harness.messenger
        self.victim = Mortal(database, worker)
        self._numbers = count(1)
        stand = self.stand()
        self.old, self.old_ends = stand.record(), self.end(stand)
        stand = self.stand()
        self.reached: list[Place] = []
        with listening(self.reached.append):
            verb.say(stand)
        self.new = stand.record()
        assert self.new != self.old
        self.passed: list[Place] = []
        self.victim.dies = self.passed.append  # type: ignore[assignment] - it is told, and lives
        stand.play_to_the_end(self.victim)
        self.new_ends = self.end(stand)

    def stand(self) -> Stand:
        """Runs, as they are before the verb, at the same moment each time."""
        self.operator.revive()
        self.harness.freeze(BEGINNING)
        name = f"p{next(self._numbers)}"
        stand = Stand(self.harness, self.house, name, self.client, self.workers)
        self.verb.prepare(stand)
        return stand

    @staticmethod
    def end(stand: Stand) -> dict[str, End]:
        """What becomes of them."""
        stand.play_to_the_end()
        assert not stand.left_over()
        return stand.ends()

    def sides(self, stand: Stand) -> dict[str, bool]:
        """Of each run (and of the process) whether it is on the new side. It must be on one."""
        record = stand.record()
        if not self.verb.each_run:
            assert record in (self.old, self.new), "all or nothing"
            return dict.fromkeys(record, record == self.new)
        for key, one in record.items():
            assert one in (self.old[key], self.new[key]), f"{key} is on neither side"
        return {key: one == self.new[key] != self.old[key] for key, one in record.items()}

    def look(self, stand: Stand, sides: dict[str, bool], cut_off: int = 0) -> None:
        """Each came to the end of its side."""
        ends = self.end(stand)
        expected = {
            key: (self.new_ends if sides.get(key, False) else self.old_ends)[key] for key in ends
        }
        assert set(ends) == {key for key in sides if key != "the process"}
        assert not {
            key: other
            for key, end in ends.items()
            if (other := end.other_than(expected[key], cut_off=cut_off))
        }

    def say(self, stand: Stand) -> None:
        """Again: it may be refused, where all is done."""
        with suppress(PerennialError):
            self.verb.say(stand)


@pytest.fixture(params=VERBS.values(), ids=str)
def cases(request: pytest.FixtureRequest, database: Database) -> Iterator[Cases]:
    database.empty()
    house = House()
    with Harness(database, house.was) as harness:
        yield Cases(database, harness, house, request.param)


def test_whoever_dies_of_it_each_run_is_on_one_side_or_the_other(
    cases: Cases, request: pytest.FixtureRequest
) -> None:
    """The command dies at place after place, and is called again each time, on the same runs as long as there is
    something to do. Once it is called no more where something is half done; with `--all` everywhere, and it stalls
    there too. Then workers die, at each place that the runs come to.
    """
    verb = cases.verb
    assert {place.what for place in cases.reached} == verb.places, "name each place here"
    assert {place.what for place in cases.passed} == verb.goes_on, "name each place here"
    walks_all = request.config.getoption("--all")
    places = [
        (place, 1 + cases.reached[:at].count(place)) for at, place in enumerate(cases.reached)
    ]
    die_at_each_place(cases, [place for place in places if walks_all or place[1] == 1])
    for place in places if walks_all else halves(places):
        call_it_no_more(cases, *place)
        if walks_all:
            let_it_stall(cases, *place)
    lose_workers(cases)


def halves(places: Sequence[tuple[Place, int]]) -> list[tuple[Place, int]]:
    """Where a part is written for good: after the first commit but for the last."""
    writes = ("transaction", "move_to_revision", "park_at_revision", "park_unmigrated")
    return [each for each in places if each[0].when == "after" and each[0].what in writes][:-1][:1]


def die_at_each_place(cases: Cases, places: Sequence[tuple[Place, int]]) -> None:
    """Before each first, where nothing is written by it."""
    stand, died = cases.stand(), False
    for place, occurrence in sorted(places, key=lambda each: each[0].when == "after"):
        for _ in range(2):
            with cases.operator.lost_at(place, occurrence):
                cases.say(stand)
            if cases.operator.is_lost:
                break
            assert died, f"{place}: it is never reached"
            finish(cases, stand)
            stand, died = cases.stand(), False
        assert cases.operator.is_lost, f"{place}, {occurrence}: it is not reached"
        died = True
        cases.sides(stand)
        cases.operator.revive()
    finish(cases, stand)


def finish(cases: Cases, stand: Stand) -> None:
    cases.say(stand)
    assert stand.record() == cases.new, "called again, it does what is left"
    cases.look(stand, dict.fromkeys(cases.new, True))
    ended = stand.record()
    cases.say(stand)
    assert stand.record() == ended, "called late, it does nothing"


def call_it_no_more(cases: Cases, place: Place, occurrence: int) -> None:
    stand = cases.stand()
    with cases.operator.lost_at(place, occurrence):
        cases.verb.say(stand)
    assert cases.operator.is_lost
    cases.look(stand, cases.sides(stand))


def let_it_stall(cases: Cases, place: Place, occurrence: int) -> None:
    """It goes on when another has said the same, and the runs have ended."""
    stand = cases.stand()
    stalled = Stalled(place, occurrence, lambda: cases.say(stand))
    other = Client(cases.harness.settings, registry=cases.client._context.registry)
    cases.harness.database.adopt(other._context.database)
    cases.harness.database.adopt(other._context.reads)
    stand.operator = other
    cases.say(stand)
    cases.sides(stand)
    stand.play_to_the_end()
    stalled.go_on()
    cases.look(stand, dict.fromkeys(cases.new, True))


CUT_OFF = {
    Place("after", "work"),
    *(Place("before", what) for what in ("commit_turn", "record_settlement", "remember_flow_step")),
}
"""Where an effect has come about that nobody has written down."""


PLAYS_MAX = 3


def lose_workers(cases: Cases) -> None:
    """After the verb, a worker dies at each place that its runs come to, the first time that it comes there."""
    places = set(cases.passed)
    cut_off = 0

    def dies(reached: Place) -> bool:
        nonlocal cut_off
        if reached not in places:
            return False
        places.remove(reached)
        cut_off += reached in CUT_OFF
        return True

    cases.victim.dies = dies
    for _ in range(PLAYS_MAX):  # where one death keeps it from the place of another
        stand, cut_off = cases.stand(), 0
        cases.say(stand)
        cases.victim.revive()
        stand.play_to_the_end(cases.victim)
        cases.look(stand, dict.fromkeys(cases.new, True), cut_off)
        if not places:
            break
    assert not places, "no worker was lost there"
