"""A trouble that lasts is said once, then at growing intervals, then that it is over."""

from __future__ import annotations

import logging

import pytest

from orchestrator.engine.troubles import QUIET_SECONDS, TROUBLES_MAX, Troubles, kind_of, one_line

log = logging.getLogger("troubles-tests")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def troubles(clock: Clock) -> Troubles:
    return Troubles(log, clock=clock)


def test_an_hour_of_one_trouble_is_a_few_lines_and_a_last_one(troubles, clock, caplog):
    for _ in range(3600):
        troubles.meet("Postgres", "Postgres: %s", "read-only", kind="25006")
        clock.now += 1
    clock.now += QUIET_SECONDS
    troubles.over("Postgres")
    troubles.over("Postgres")
    assert caplog.messages[0] == "Postgres: read-only"
    assert caplog.messages[1] == "Postgres: read-only (met 11 times in 10 s)"
    assert caplog.messages[-1] == "Postgres: over, after 3600 time(s) in 3599 s"
    assert len(caplog.messages) == 12


def test_another_kind_is_said_at_once_and_over_ends_all_of_a_place(troubles, clock, caplog):
    for kind in ("a", "b", "a"):
        troubles.meet("here", kind, kind=kind)
    troubles.meet("there", "c")
    clock.now += QUIET_SECONDS
    troubles.over("here")
    assert caplog.messages == ["a", "b", "c", "here: over, after 3 time(s) in 0 s"]


def test_what_is_over_is_said_again_when_it_comes_back(troubles, clock, caplog):
    for _ in range(2):
        troubles.meet("here", "away")
        clock.now += QUIET_SECONDS
        troubles.over("here")
    assert caplog.messages.count("away") == 2


def test_what_works_in_between_does_not_end_it(troubles, clock, caplog):
    """A read-only server answers what only reads, between two writes that it refuses."""
    for _ in range(9):
        troubles.meet("here", "away")
        clock.now += 1
        troubles.over("here")
    assert caplog.messages == ["away"]


def test_kinds_without_end_take_no_memory_without_end(troubles):
    for number in range(10 * TROUBLES_MAX):
        troubles.meet("here", "x", kind=str(number))
    assert len(troubles._open) <= TROUBLES_MAX


def test_the_words_of_an_error_do_not_make_another_kind_of_it():
    assert kind_of(ValueError("run 1")) == kind_of(ValueError("run 2")) == "ValueError"
    assert one_line(ValueError("first\nsecond")) == "ValueError: first"
    assert one_line(ValueError()) == "ValueError"


def test_an_error_whose_text_can_not_be_read_is_said_all_the_same():
    class Hostile(Exception):
        def __str__(self):
            raise ValueError

    assert one_line(Hostile()).startswith("Hostile: (its text can't be read")
