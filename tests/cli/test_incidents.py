"""`perennial incidents`: a line for each cause, what to do, and what is known of it; and the options of a query."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator import Between, RunFilter, RunStatus
from orchestrator.core.causes import CauseSummary, Sample, cause_of
from tests.cli.samples import NOW, RUN_ID, ago

CAUSE = cause_of("ConnectionError", "connect to 10.0.0.1:5432 failed", "provision-access")
SUMMARY = CauseSummary(
    CAUSE.digest,
    CAUSE,
    ("access-request",),
    runs=312,
    incidents=2,
    first=ago(hours=30),
    last=ago(minutes=4),
    samples=(Sample(RUN_ID, "permit-17"), Sample(RUN_ID, None)),
)


@pytest.fixture
def listed(client):
    client.answers |= {
        "incidents": [SUMMARY],
        "cause": SUMMARY,
        "note_cause": None,
        "mute_cause": None,
        "mend_cause": None,
    }
    return client


def test_the_list_says_how_many_since_when_and_which(perennial, listed):
    page = perennial("incidents").stdout
    assert f"{CAUSE.digest}  ConnectionError at provision-access  2 parked, 310 failed" in page
    assert "connect to <address> failed" in page
    assert "first 1 d 6 h ago, last 4 min ago: permit-17," in page
    assert "and 310 more" in page
    (call,) = listed.calls
    assert call[2] == {"process": None, "failed": True, "since": NOW - timedelta(days=7)}


def test_one_cause_says_what_to_do(perennial, listed):
    for words in ((CAUSE.digest,), ("show", CAUSE.digest)):
        page = perennial("incidents", *words).stdout
        assert f"perennial resume --cause {CAUSE.digest}" in page
        assert f"perennial ps --cause {CAUSE.digest}" in page
    assert [call[1] for call in listed.calls] == [(CAUSE.digest,)] * 2


def test_a_cause_that_is_back_says_since_when_it_was_mended(perennial, listed):
    mended = replace(
        SUMMARY, mended_by="ann", mended_at=ago(days=2), note="see OPS-17", noted_by="bob"
    )
    listed.answers["incidents"] = [mended]
    assert "mended 2 d ago by ann, none since" in perennial("incidents").stdout
    listed.answers["incidents"] = [replace(mended, runs_since_mended=3)]
    page = perennial("incidents").stdout
    assert "returned: mended 2 d ago by ann, 3 runs since" in page
    assert "note of bob: see OPS-17" in page


def test_what_is_muted_is_counted_and_listed_on_demand(perennial, listed):
    listed.answers["incidents"] = [replace(SUMMARY, muted_by="ann", muted_at=ago(days=1))]
    told = perennial("incidents")
    assert CAUSE.digest not in told.stdout
    assert "1 muted" in told.stderr
    assert CAUSE.digest in perennial("incidents", "--muted").stdout
    listed.answers["incidents"] = []
    assert "No incidents" in perennial("incidents", "--open").stdout


def test_json_has_the_cause_field_by_field(perennial, listed):
    (told,) = perennial.json("incidents")["causes"]
    assert perennial.json("incidents", CAUSE.digest) == told
    assert (told["digest"], told["failed"], told["samples"][0]["business_key"]) == (
        CAUSE.digest,
        310,
        "permit-17",
    )


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (("note", "abc", "known"), ("note_cause", ("abc", "known"), {"by": "ann"})),
        (("mute", "abc"), ("mute_cause", ("abc",), {"by": "ann", "undo": False})),
        (("mended", "abc", "--undo"), ("mend_cause", ("abc",), {"by": "ann", "undo": True})),
    ],
)
def test_what_is_said_of_a_cause_is_said_by_somebody(perennial, listed, words, call):
    assert perennial.json("incidents", *words, "--by", "ann")["cause"] == "abc"
    assert listed.calls == [call]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (
            ("--failed", "--error", "ConnectionError", "--stage", "provision", "--since", "7d"),
            RunFilter(
                statuses=(RunStatus.FAILED,),
                error_type="ConnectionError",
                stage="provision",
                progressed=Between(after=NOW - timedelta(days=7)),
            ),
        ),
        (
            (
                "--process",
                "trip",
                "--of-version",
                "2",
                "--of-revision",
                "4",
                "--cause",
                "abc",
                "--waiting-for",
                "approval m",
            ),
            RunFilter(
                process="trip", version=2, code_revision=4, cause="abc", waiting_for="approval m"
            ),
        ),
        (
            (
                "--key",
                "k",
                "--key-prefix",
                "p-",
                "--attribute",
                "n=17",
                "--attribute",
                "team=sales",
            ),
            RunFilter(key="k", key_prefix="p-", attributes={"n": 17, "team": "sales"}),
        ),
        (
            (
                "--started-since",
                "2026-03-01",
                "--started-until",
                "30min",
                "--until",
                "2026-03-02T10:00:00+01:00",
            ),
            RunFilter(
                created=Between(datetime(2026, 3, 1, tzinfo=UTC), NOW - timedelta(minutes=30)),
                progressed=Between(before=datetime(2026, 3, 2, 9, tzinfo=UTC)),
            ),
        ),
    ],
)
def test_ps_takes_the_options_of_a_query(perennial, client, words, asked):
    client.answers["list"] = []
    told = perennial("ps", *words)
    assert client.calls == [("list", (), {"matching": asked, "limit": 50, "after": None})]
    assert asked.in_words() in " ".join(told.stdout.split())


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--since", "yesterday"), "'yesterday' is no time"),
        (("--attribute", "team"), "say NAME=VALUE"),
    ],
)
def test_what_no_query_can_mean_is_refused(perennial, client, words, why):
    told = perennial("ps", *words)
    assert told.exit_code == 2
    assert why in told.stderr
    assert client.calls == []
