"""`--json`: one document whose shape scripts may rely on."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.cli.samples import NOW, RUN_ID

RUN = {
    "id",
    "process",
    "version",
    "business_key",
    "status",
    "stage",
    "previous_stage",
    "revision",
    "input",
    "output",
    "error",
    "attributes",
    "created_at",
    "started_at",
    "last_progress_at",
    "expires_at",
    "closed_at",
    "next_timer_at",
    "waiting_for",
    "active_milliseconds",
    "waits",
    "queue",
    "untaken_turn",
    "failures",
    "former_key",
    "follows",
    "followed_by",
    "code_revision",
    "is_unserved",
    "status_text",
    "chapter",
    "chapter_at",
    "parent_id",
    "parent_key",
    "on_parent_end",
    "children_started",
    "children",
}
ROW = {
    "id",
    "process",
    "version",
    "business_key",
    "status",
    "stage",
    "waiting_for",
    "created_at",
    "last_progress_at",
    "closed_at",
    "next_timer_at",
    "is_unserved",
    "status_text",
}
APPROVAL = {
    "run_id",
    "key",
    "name",
    "process",
    "business_key",
    "state",
    "assignees",
    "escalated",
    "opened_at",
    "escalates_at",
    "deadline",
    "decided_by",
    "decided_at",
    "comment",
    "follows",
    "input",
    "edition",
    "changed",
    "votes",
    "progress",
    "why",
}
DECISION = {"approval", "outcome", "by", "reason", "at", "escalated"}


def test_show_prints_the_run_with_its_waits(perennial):
    run = perennial.json("show", "permit-17")
    assert set(run) == RUN
    assert (run["id"], run["status"]) == (str(RUN_ID), "waiting")
    (wait,) = run["waits"]
    assert set(wait) == {
        "kind",
        "key",
        "name",
        "who",
        "since",
        "next",
        "attempt",
        "detail",
        "edition",
        "changed",
        "heartbeat",
        "heartbeat_at",
    }
    assert run["failures"] == []
    assert (wait["kind"], wait["who"]) == ("approval", ["alice"])
    assert set(wait["next"][0]) == {"what", "at"}


def test_times_are_iso_8601_with_their_zone(perennial):
    row = perennial.json("ps")["runs"][0]
    assert datetime.fromisoformat(row["next_timer_at"]) > NOW
    assert row["closed_at"] is None


def test_lists_stand_in_an_object_under_one_name(perennial):
    assert [set(row) for row in perennial.json("ps")["runs"]] == [ROW]
    assert [set(row) for row in perennial.json("approvals")["approvals"]] == [APPROVAL]
    assert [set(row) for row in perennial.json("history", "x")["history"]] == [
        {"at", "actor", "event", "key", "attempt", "from_status", "to_status", "detail"}
    ] * 2


def test_start_tells_the_run_and_whether_it_is_new(perennial):
    assert perennial.json("start", "access-request") == {
        "run_id": str(RUN_ID),
        "process": "access-request",
        "version": 1,
        "created": True,
        "status": "running",
    }
    assert perennial.json("restart", "permit-17")["version"] == 2


@pytest.mark.parametrize(
    ("options", "if_closed"),
    [
        ([], "existing"),
        (["--again"], "again"),
        (["--even-if-completed"], "always"),
        (["--again", "--even-if-completed"], "always"),
    ],
)
def test_a_key_is_used_again_by_whoever_says_so(perennial, client, options, if_closed):
    perennial.json("start", "access-request", "--key", "k", *options)
    assert client.calls[-1][2]["if_closed"] == if_closed


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_a_decision_prints_what_was_recorded(perennial, verb):
    assert set(perennial.json(verb, "permit-17")) == DECISION


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_an_operators_word_is_acknowledged(perennial, verb):
    assert perennial.json(verb, "permit-17") == {"run": "permit-17", "action": verb}


def test_a_signal_goes_to_whoever_awaits_a_correlation_key(perennial, client):
    assert perennial.json("signal", "--correlation", "PAY-1", "paid", "{}") == {
        "correlation": "PAY-1",
        "signal": "paid",
        "accepted": True,
    }
    assert "PAY-1" in str(client.calls[-1])
    assert "not both" in perennial("signal", "r", "paid", "1", "--correlation", "PAY-1").output


def test_a_signal_tells_whether_it_was_the_first_of_its_id(perennial, client):
    assert perennial.json("signal", "x", "docs")["accepted"] is True
    client.answers["signal"] = False
    assert perennial.json("signal", "x", "docs", "--id", "7") == {
        "run": "x",
        "signal": "docs",
        "accepted": False,
    }


def test_a_result_is_bare_json_for_people_and_wrapped_for_programs(perennial):
    assert perennial("result", "x").stdout == '{\n  "outcome": "completed"\n}\n'
    assert perennial.json("result", "x") == {"result": {"outcome": "completed"}}


def test_json_is_never_coloured_or_folded(perennial):
    perennial.width = 40
    printed = perennial("show", "x", "--json", FORCE_COLOR="1", TERM="xterm-256color").stdout
    assert "\x1b" not in printed
    assert '"next_timer_at": "2026-03-03T09:55:00Z"' in printed


def test_version_tells_what_a_bug_report_needs(perennial):
    assert set(perennial.json("version")) == {
        "perennial",
        "python",
        "platform",
        "celery",
        "sqlalchemy",
    }
