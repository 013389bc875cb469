"""A cause is what failures share: messages that differ in numbers, ids, times and paths alone have one."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.causes import (
    TEXT_CHARACTERS_MAX,
    Cause,
    cause_in,
    cause_of,
    cause_of_end,
    marked,
    normalised,
    remedy_for,
)
from orchestrator.errors import ActivityFailed, Fail, SignalTimedOut, WorkerLost


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("HTTP 503 after 2.5 s", "HTTP <number> after <number> s"),
        ("no user 'ann' in \"people\"", "no user <text> in <text>"),
        ("can't reach it, and won't", "can't reach it, and won't"),
        ("run 0195a1f0-0000-7000-8000-000000000017 is gone", "run <uuid> is gone"),
        ("<X object at 0x7f3b2c>", "<X object at <hex>>"),
        ("commit 3f2a91c04b is unknown", "commit <hex> is unknown"),
        ("since 2026-03-02T12:00:00.25+01:00", "since <time>"),
        ("at 12:30:01 of 2026-03-02", "at <time> of <time>"),
        ("[Errno 2] No such file: /srv/in/17.csv", "[Errno <number>] No such file: <path>"),
        (r"C:\in\17.csv and ./a/b are missing", "<path> and <path> are missing"),
        ("read/write and TCP/IP", "read/write and TCP/IP"),
        ("connect to 10.0.0.17:5432 failed", "connect to <address> failed"),
        ("connect to db-3.internal:5432 failed", "connect to db<number>.internal:<number> failed"),
        ("POST https://iam.example/users/17?x=y: refused", "POST <address> refused"),
        ("mail to ann@example.org bounced", "mail to <address> bounced"),
        ("ids 1, 2, 3 and 4", "ids <number> and <number>"),
        ("two\n   lines", "two lines"),
        ("", ""),
    ],
)
def test_a_message_loses_what_differs_from_run_to_run(message, text):
    assert normalised(message) == text


WORDS = st.sampled_from(
    ["user", "can't", "no such", "host-", "/srv/a", "'x'", "(", ")", ":", "#", "é", "\n", "<n>"]
)
MESSAGES = st.one_of(
    st.text(max_size=400),
    st.lists(st.one_of(WORDS, st.text(max_size=9)), max_size=40).map(" ".join),
)


@given(MESSAGES)
def test_what_is_normalised_stays_as_it_is_is_one_line_and_is_bounded(message):
    once = normalised(message)
    assert normalised(once) == once
    assert len(once) <= TEXT_CHARACTERS_MAX
    assert "\n" not in once


VALUES = st.tuples(st.integers(), st.uuids(), st.datetimes())


@given(VALUES, VALUES)
def test_two_runs_that_differ_in_values_alone_have_one_cause(one, two):
    def digest(number: int, of: UUID, at: datetime) -> str:
        return cause_of(
            "E", f"order {number} of {of} is late since {at.isoformat()}", "ship"
        ).digest

    assert digest(*one) == digest(*two)


@pytest.mark.parametrize("part", ["a", "'", "/a", "1:", "ab12", "a@", "a.", '"x', "://", "<n> "])
def test_a_message_of_any_length_costs_the_same(part):
    """Guards READ_CHARACTERS_MAX: what lies beyond is not looked at."""
    message = part * 200_000
    assert normalised(message) == normalised(message[:2_000])


def test_class_and_place_make_a_cause_too():
    causes = {
        cause_of(*of).digest
        for of in (("A", "m", "x"), ("B", "m", "x"), ("A", "n", "x"), ("A", "m", "y"))
    }
    assert len(causes) == 4


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (
            ActivityFailed("a/ship#2", error_type="E", message="no 7", attempts=3),
            Cause("E", "ship", "no <number>"),
        ),
        (
            WorkerLost("a/ship#2", error_type="WorkerLost", message="m", attempts=1),
            Cause("WorkerLost", "ship", "m"),
        ),
        (ActivityFailed("gone", error_type="E", message="m", attempts=1), Cause("E", "gone", "m")),
        (Fail("no stock of 'tea'"), Cause("Kept", "the flow of trip", "kept")),
        (SignalTimedOut("a/ship#2", name="ship"), Cause("Kept", "ship", "kept")),
    ],
)
def test_the_cause_of_a_run_that_failed_is_that_of_the_activity_that_has(error, cause):
    """By its own class and message, whatever number of attempts it took."""
    kept = {"type": "Kept", "message": "kept"}
    names = {"a/ship#2": "ship"}.get
    assert cause_of_end(error, kept, process="trip", names=names) == cause


@pytest.mark.parametrize("make", [ActivityFailed], ids=["activity"])
def test_an_error_with_attributes_of_any_kind_has_the_cause_that_was_kept(make):
    for value in (None, 3, object()):
        error = make("k", error_type="E", message="m", attempts=1)
        error.message = value
        found = cause_of_end(
            error, {"type": "T", "message": "m"}, process="p", names=lambda _key: None
        )
        assert found == Cause("T", "the flow of p", "m")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (marked({"type": "X", "message": "y"}, Cause("A", "b", "c")), Cause("A", "b", "c")),
        (
            {"type": "ActivityFailed", "message": "a/ship#2 failed after 3 attempt(s): E: no 7: 8"},
            Cause("E", "ship", "no <number>: <number>"),
        ),
        (
            {"type": "WorkerLost", "message": "m", "activity": "ship#2"},
            Cause("WorkerLost", "ship", "m"),
        ),
        ({"type": "KeyError", "message": "'x'"}, Cause("KeyError", "the flow of trip", "<text>")),
        ({}, Cause("Error", "the flow of trip", "")),
        ("no object", Cause("Error", "the flow of trip", "no object")),
        (None, Cause("Error", "the flow of trip", "None")),
    ],
)
def test_an_error_of_an_older_release_gets_its_cause_when_it_is_read(error, cause):
    assert cause_in(error, "trip") == cause


def test_a_remedy_names_what_to_mend_and_what_to_type():
    both = remedy_for("WorkerLost", "abc", incidents=1, failed=2)
    assert "out of memory" in both
    assert "perennial resume --cause abc" in both
    assert "perennial retry --cause abc" in both
    assert "resume" not in remedy_for("E", "abc", incidents=0, failed=2)
    assert remedy_for("E", "abc", incidents=0, failed=0) == "Mend what the message says"
