"""What people see. The words are checked, the layout was looked at."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from rich.console import Console

from orchestrator.cli.listings import checked_page
from orchestrator.cli.times import Clock, spell
from orchestrator.core.checking import Class
from orchestrator.core.journal import ActivityKind
from orchestrator.core.run import RunStatus
from orchestrator.core.selection import RunFilter
from orchestrator.core.views import FailedActivity, Upcoming, Wait
from orchestrator.engine.check import Checked, CheckedGroup
from tests.cli.samples import APPROVAL, HISTORY, MANAGER, NOW, RUN_ID, WAITING, ago, ahead, summary

QUESTIONS = ("Waiting for", "Who can act", "Since", "Next")

DIFF = """in the flow:
    1. stage validate-request
  - 2. approval manager   (in the journal)
  + 2. approval director   (asked by the flow now)"""


def test_a_check_says_worst_first_what_to_do(capsys):
    stranded = CheckedGroup("hire", 3, Class.CONTRADICTS, DIFF, 41, ("ann", "bob", "carol"))
    fine = CheckedGroup("hire", 3, Class.UNCHANGED, "", 1, ("dan",))
    Console(width=100).print(checked_page(Checked(42, (stranded, fine))))
    page = capsys.readouterr().out
    assert page.index("contradiction  41 runs of hire v3") < page.index("unchanged  1 run of hire")
    assert "ann, bob, carol and 38 more" in page
    assert "- 2. approval manager   (in the journal)" in page
    assert "→ raise the version" in page
    assert "Some runs could not go on with this code." in page


def test_show_answers_the_five_questions_of_a_waiting_run(perennial, client):
    page = perennial("show", "permit-17").stdout
    assert "Waiting for  approval wait-for-manager-approval" in page
    assert "Who can act  alice" in page
    assert "Since        2 h 5 min ago  (2026-03-02 09:55:00 UTC)" in page
    assert "escalates to director  in 21 h 55 min  (2026-03-03 09:55:00 UTC)" in page
    assert "times out  in 1 d 21 h  (2026-03-04 09:55:00 UTC)" in page
    assert "perennial approve permit-17 wait-for-manager-approval --by alice" in page
    assert client.calls == [("get", ("permit-17",), {})]


def test_what_a_flow_says_stands_where_its_run_is_shown(perennial, client):
    said = replace(WAITING, status_text="3 of 10 are sent", attributes={"customer": "C-17"})
    client.answers["get"], client.answers["list"] = said, [summary(said)]
    page = perennial("show", "permit-17").stdout
    assert "says           3 of 10 are sent" in page
    assert 'attributes     {"customer": "C-17"}' in page
    assert "3 of 10 are sent; approval" in perennial("ps").stdout
    assert perennial("query", "permit-17", "customer").stdout == "7\n"


def test_a_listing_is_narrowed_by_attributes_as_they_are_typed(perennial, client):
    client.answers["list"] = []
    where = ("customer=C-17", "amount>=12.50", "due < 2031-05-06T07:08Z")
    page = perennial("ps", *(part for each in where for part in ("--where", each))).stdout
    ((_, _, named),) = client.calls
    assert [str(each) for each in named["matching"].where] == [
        'customer = "C-17"',
        "amount >= 12.50",
        'due < "2031-05-06T07:08:00.000000Z"',
    ]
    assert 'No run where customer = "C-17" and amount >= 12.50 and due <' in page
    assert "--where 'customer': say NAME=VALUE" in perennial("ps", "--where", "customer").stderr


@pytest.mark.parametrize("status", list(RunStatus))
@pytest.mark.parametrize("waits", [(), (MANAGER,)])
def test_show_answers_the_five_questions_in_every_status(perennial, client, status, waits):
    closed_at = ago(minutes=4) if status.is_closed else None
    client.answers["get"] = replace(WAITING, status=status, waits=waits, closed_at=closed_at)
    page = perennial("show", "permit-17").stdout
    assert [question for question in QUESTIONS if question not in page] == []


def test_show_of_an_incident_has_the_readable_diff_and_the_safe_button(perennial, client):
    error = {"type": "contradiction", "message": DIFF, "process": "access-request version 1"}
    error["cause"] = "3f2a91c04b7d"
    client.answers["get"] = replace(WAITING, status=RunStatus.INCIDENT, waits=(), error=error)
    page = perennial("show", "permit-17").stdout
    for line in DIFF.splitlines():
        assert line in page
    assert "perennial resume permit-17" in page
    assert "perennial incidents 3f2a91c04b7d" in page
    error = {"type": "CompensationFailed", "message": "could not be compensated: stage charge"}
    client.answers["get"] = replace(WAITING, status=RunStatus.INCIDENT, waits=(), error=error)
    assert "perennial retry permit-17" in perennial("show", "permit-17").stdout


def test_show_of_a_failed_run_says_why_and_that_nothing_follows(perennial, client):
    error = {"type": "ActivityFailed", "message": "provision-access failed after 8 attempt(s)"}
    client.answers["get"] = replace(
        WAITING, status=RunStatus.FAILED, waits=(), closed_at=ago(seconds=3), error=error
    )
    page = perennial("show", "permit-17").stdout
    assert "provision-access failed after 8 attempt(s)" in page
    assert "start it once more: perennial restart permit-17" in page
    assert "nothing: it failed" in page
    assert "nothing happens by itself" in page
    next_id = UUID(int=7)
    client.answers["get"] = replace(
        client.answers["get"], business_key=None, former_key="permit-17", followed_by=next_id
    )
    page = perennial("show", str(RUN_ID)).stdout
    assert "permit-17, until it was started anew" in page
    assert f"It was started anew: perennial show {next_id}" in page
    assert "restart" not in page
    client.answers["get"] = replace(WAITING, follows=RUN_ID)
    assert re.search(f"follows +{RUN_ID}", perennial("show", "permit-17").stdout)


@pytest.mark.parametrize(
    ("status", "how", "option"),
    [
        (RunStatus.CANCELLED, "is cancelled", "--again"),
        (RunStatus.FAILED, "is failed", "--again"),
        (RunStatus.COMPLETED, "has completed", "--even-if-completed"),
        (RunStatus.WAITING, "is waiting", ""),
    ],
)
def test_start_says_how_the_run_stands_that_has_the_key(perennial, client, status, how, option):
    client.answers["start"] = replace(client.answers["start"], created=False, status=status)
    page = perennial("start", "access-request", "--key", "permit-17").stdout
    assert f"The key 'permit-17' has its run already, which {how}: access-request v1" in page
    assert ("Nothing runs under the key" in page) is bool(option)
    assert f"start … {option}`" in page or not option


def test_restart_says_whether_it_was_done_before(perennial, client):
    assert "Started once more: access-request v2" in perennial("restart", "permit-17").stdout
    client.answers["restart"] = replace(client.answers["start"], created=False)
    assert "Followed already (running)" in perennial("restart", "permit-17").stdout


def test_show_has_the_tracebacks_of_what_failed(perennial, client):
    trace = 'Traceback (most recent call last):\n  File "/app/shop.py", line 7, in charge\nValueError: no money\n'
    failed = FailedActivity("charge", 8, "ValueError", "no money", trace)
    error = {"type": "ActivityFailed", "message": "charge failed", "traceback": "of the flow"}
    closed = {"status": RunStatus.FAILED, "waits": (), "closed_at": ago(seconds=3)}
    client.answers["get"] = replace(WAITING, **closed, error=error, failures=(failed,))
    page = perennial("show", "permit-17").stdout
    assert trace.strip() in page
    assert "charge, attempt 8" in page
    assert "of the flow" not in page  # it only says that the stage failed
    own = {"type": "KeyError", "message": "'x'", "traceback": "of the flow"}
    incident = {"status": RunStatus.INCIDENT, "waits": (), "error": own}
    client.answers["get"] = replace(WAITING, **incident)
    assert "of the flow" in perennial("show", "permit-17").stdout


def test_show_cuts_a_message_that_is_a_payload(perennial, client):
    """An author may raise what should have been stored; the page stays one that can be read."""
    error = {"type": "Fail", "message": "x" * 10_000}
    client.answers["get"] = replace(
        WAITING, status=RunStatus.FAILED, waits=(), closed_at=ago(seconds=3), error=error
    )
    page = perennial("show", "permit-17").stdout
    assert 3_000 < page.count("x") < 4_100
    assert "…" in page


@pytest.mark.parametrize("waits", [(), (MANAGER,)])
def test_show_says_when_no_worker_takes_the_turn(perennial, client, waits):
    """Beside whatever else the run waits for: that alone would not move it."""
    untaken = "handed off 5 times, and no worker took it"
    client.answers["get"] = replace(WAITING, waits=waits, queue="iam", untaken_turn=untaken)
    page = perennial("show", "permit-17").stdout
    assert f"Waiting for  its next turn: {untaken}" in page
    assert "Who can act  a worker on queue iam that has access-request version 1" in page
    assert ("approval wait-for-manager-approval" in page) is bool(waits)


def test_show_lists_every_wait_of_a_gather_and_the_line_that_ends_it(perennial, client):
    stage = Wait(
        ActivityKind.STAGE,
        "iam/provision",
        "provision",
        ("worker-1@host",),
        ago(seconds=4),
        (Upcoming("attempt 2 times out", ahead(minutes=29)),),
        attempt=2,
        detail="TimeoutError: no answer",
    )
    signal = Wait(
        ActivityKind.SIGNAL, "docs", "docs", ("whoever sends signal docs",), ago(seconds=4)
    )
    client.answers["get"] = replace(WAITING, waits=(stage, signal), business_key=None)
    page = perennial("show", str(RUN_ID)).stdout
    assert "stage provision (iam/provision), attempt 2: TimeoutError: no answer" in page
    assert "worker-1@host" in page
    assert f"perennial signal {RUN_ID} docs '{{...}}'" in page


def test_show_says_when_the_run_expires_in_order_of_time(perennial, client):
    client.answers["get"] = replace(WAITING, expires_at=ahead(hours=30))
    page = perennial("show", "permit-17").stdout
    assert page.index("escalates to") < page.index("the run expires") < page.index("times out")


def test_what_should_have_happened_by_now_is_due(perennial, client):
    wait = replace(MANAGER, next=(Upcoming("times out", ago(seconds=1)),))
    client.answers["get"] = replace(WAITING, waits=(wait,))
    assert "times out  due now" in perennial("show", "permit-17").stdout


def test_lines_to_copy_are_never_folded(perennial, client):
    perennial.width = 60
    client.answers["get"] = replace(WAITING, business_key="a key with spaces, and long")
    line = "perennial approve 'a key with spaces, and long' wait-for-manager-approval --by alice"
    assert any(line in shown for shown in perennial("show", "x").stdout.splitlines())


def test_what_users_wrote_is_shown_and_never_obeyed_by_the_terminal(perennial, client):
    evil = "\x1b[2J\x1b[31m[bold]fine[/bold]\u202e\x07"
    client.answers["get"] = replace(WAITING, business_key=evil, input={"note": evil})
    client.answers["list"] = [replace(summary(WAITING), business_key=evil)]
    for page in (perennial("show", "x").stdout, perennial("ps").stdout):
        assert not {"\x1b", "\x07", "\u202e"} & set(page)
        assert "[bold]fine[/bold]" in page


@pytest.mark.parametrize("width", [80, 100])
def test_ps_fits_the_terminal_and_keeps_a_run_id_whole(perennial, client, width):
    perennial.width = width
    client.answers["list"] = [
        summary(WAITING),
        replace(summary(WAITING), business_key=None, status=RunStatus.INCIDENT),
    ]
    page = perennial("ps").stdout
    assert max(map(len, page.splitlines())) <= width
    for shown in (str(RUN_ID), "permit-17", "access-request v1", "incident", "in 21 h 55 min"):
        assert shown in page


def test_ps_in_a_pipe_has_one_line_for_each_run(perennial):
    perennial.width = 200
    header, rule, row = perennial("ps").stdout.splitlines()
    assert header.split() == [
        "RUN",
        "PROCESS",
        "STATUS",
        "PROGRESS",
        "WAITING",
        "FOR",
        "NEXT",
        "TIMER",
    ]
    assert set(rule) == {"─"}
    assert "approval wait-for-manager-approval" in row


def test_ps_hands_its_filters_to_the_client_and_tells_how_to_go_on(perennial, client):
    result = perennial(
        "ps", "--status", "waiting", "--status", "incident", "--process", "p", "--limit", "1"
    )
    asked = RunFilter(process="p", statuses=(RunStatus.WAITING, RunStatus.INCIDENT))
    assert client.calls[0][2] == {"matching": asked, "limit": 1, "after": None}
    assert f"--after {RUN_ID}" in result.stderr


def test_an_empty_list_says_what_to_do_next(perennial, client):
    client.answers |= {"list": [], "approvals": []}
    assert "perennial start PROCESS" in perennial("ps").stdout
    assert "Nothing waits for alice." in perennial("approvals", "--for", "alice").stdout


def test_history_tells_who_what_when_and_the_move(perennial):
    page = perennial("history", "permit-17").stdout
    for shown in ("2026-03-02 09:55:00 UTC", "worker-1@host", "stage-done", "running → waiting"):
        assert shown in page
    assert "validate-request (attempt 2)" in page
    assert len(HISTORY) == 2


def test_the_inbox_tells_deadlines_and_the_line_that_decides(perennial, client):
    page = perennial("approvals", "--for", "alice").stdout
    assert "escalates in 21 h 55 min" in page
    assert "times out in 1 d 21 h" in page
    assert "perennial approve permit-17 wait-for-manager-approval --by alice" in page
    assert client.calls[0][2]["assignee"] == "alice"


def test_colours_are_for_terminals_and_no_color_is_honoured(perennial):
    assert "\x1b[" in perennial("show", "x", FORCE_COLOR="1", TERM="xterm-256color").stdout
    plain = perennial("show", "x", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm-256color").stdout
    assert "\x1b[3" not in plain


@pytest.mark.parametrize(
    ("seconds", "spelled"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min 59 s"),
        (47 * 3600 + 59 * 60, "1 d 23 h"),
        (86_400, "1 d"),
        (86_400 + 59, "1 d"),
        (400 * 86_400, "400 d"),
    ],
)
def test_a_span_is_its_two_largest_units_rounded_down(seconds, spelled):
    assert spell(seconds) == spelled


def test_a_moment_is_past_now_or_ahead():
    clock = Clock(NOW)
    second = timedelta(seconds=1)
    assert [clock.relative(NOW + shift * second) for shift in (-90, 0, 90)] == [
        "1 min 30 s ago",
        "now",
        "in 1 min 30 s",
    ]


def test_the_inbox_and_the_run_name_the_asking_that_they_show(perennial, client):
    """A name may be asked twice, and a key be a former run's: the line to copy decides what is shown."""
    again = replace(APPROVAL, key="boss#2", name="boss", follows=UUID(int=7))
    client.answers["approvals"] = [again]
    client.answers["get"] = replace(
        WAITING, waits=(replace(MANAGER, key="boss#2", name="boss"),), follows=UUID(int=7)
    )
    for page in (perennial("approvals").stdout, perennial("show", "permit-17").stdout):
        assert f"perennial approve {RUN_ID} 'boss#2' --by alice" in page
    assert "boss (boss#2)" in perennial("approvals").stdout


def test_the_inbox_says_why_a_stage_may_be_tried_again(perennial, client):
    """Its first line; all of it is in the JSON."""
    why = "charge failed after 2 attempts: ConnectionError: the bank is away\nmore"
    asked = replace(APPROVAL, key="charge#again/exhausted-1", name="retry charge", why=why)
    client.answers["approvals"] = [asked]
    page = perennial("approvals", COLUMNS="300").stdout
    assert why.partition("\n")[0] in page
    assert "more" not in page
    assert "perennial approve permit-17 'charge#again/exhausted-1' --by alice" in page
    assert perennial.json("approvals")["approvals"][0]["why"] == why


def test_an_asking_that_was_changed_is_decided_with_its_edition(perennial, client):
    again = replace(APPROVAL, edition=2)
    client.answers |= {
        "approvals": [again],
        "get": replace(WAITING, waits=(replace(MANAGER, edition=2),)),
    }
    inbox = perennial("approvals").stdout
    assert "edition 2: asked anew" in " ".join(inbox.split())
    for page in (inbox, perennial("show", "permit-17").stdout):
        (line,) = [each for each in page.splitlines() if "perennial approve" in each]
        words = shlex.split(line[line.index("perennial approve") :])[1:]
        assert words[words.index("--edition") + 1] == "2"
        perennial(*words)
        assert client.calls[-1][2]["edition"] == 2
    perennial("reject", "permit-17", "--by", "alice")
    assert client.calls[-1][2]["edition"] is None
