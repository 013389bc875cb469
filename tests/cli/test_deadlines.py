"""`perennial deadline`: when something would be due, for people and for programs."""

from __future__ import annotations

import json

ASCENSION = ("--from", "2026-05-13 16:00", "--zone", "Europe/Amsterdam", "--holidays", "NL")


def test_three_things_fall_on_three_moments_and_a_holiday_is_named(perennial):
    page = perennial("deadline", "1 business day", "9 business hours", "48h", *ASCENSION).stdout
    asked, day, hours, elapsed, holidays = (line.split() for line in page.splitlines())
    assert asked == ["asked", "Wed", "2026-05-13", "16:00", "CEST"]
    assert day[3:] == ["Fri", "2026-05-15", "16:00", "CEST", "2", "d", "later"]
    assert hours[3:] == ["Fri", "2026-05-15", "17:00", "CEST", "2", "d", "1", "h", "later"]
    assert elapsed[1:] == ["Fri", "2026-05-15", "16:00", "CEST", "2", "d", "later"]
    assert " ".join(holidays) == "No working time: Ascension Day (Thu 2026-05-14)."


def test_what_is_asked_on_a_saturday_is_asked_outside_of_working_time(perennial):
    page = perennial("deadline", "1 business day", "--from", "2026-05-09T12:00").stdout
    assert "outside of working time" in page.splitlines()[0]
    assert "Tue 2026-05-12 09:00 UTC" in page


def test_a_program_reads_it(perennial):
    found = json.loads(perennial("deadline", "2 business days", *ASCENSION, "--json").stdout)
    assert found["asked_at"] == "2026-05-13T14:00:00Z"
    assert found["deadlines"] == [{"after": "2 business days", "due_at": "2026-05-18T14:00:00Z"}]
    assert found["holidays"] == [{"day": "2026-05-14", "name": "Ascension Day"}]


def test_what_means_nothing_is_refused_in_a_sentence(perennial):
    for typed, said in (
        (("soon",), "'soon' is no duration"),
        (("2d", "--zone", "Mars"), "there is no time zone 'Mars'"),
        (("2d", "--from", "x"), "'x' is no moment"),
        (("2d", "--hours", "always"), "working hours 'always' can't be read"),
        (("2d", "--holidays", "XX"), "no holidays are known of 'XX'"),
    ):
        refused = perennial("deadline", *typed)
        assert refused.exit_code
        assert said in refused.stderr
