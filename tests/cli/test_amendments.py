"""`perennial deploy --amend`: what would become of the runs is shown, and nothing is done before it is confirmed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator import Flow, Process, Registry, process
from orchestrator.core.checking import Class
from orchestrator.core.versions.classes import EditClass
from orchestrator.engine.operations.amend import Amended, AmendedGroup, Amendment, Others
from orchestrator.engine.operations.staying import Staying
from tests.cli.samples import FakeClient, Terminal

SHOWN = Amendment(
    process="hire",
    version=1,
    code_revision=1,
    is_current=False,
    fingerprint="f00",
    edit=EditClass.NEEDS_A_PLAN,
    others=Others.STAY,
    words=("review now after provision; 41 runs stand before it, 3 have passed it",),
    diff="--- a\n+++ b\n-    old\n+    new",
    runs=44,
    groups=(
        AmendedGroup(Class.CONTRADICTS, "- 2. stage a", "stays", 3, ("k1", "k2", "k3")),
        AmendedGroup(Class.UNCHANGED, "", "moves", 41, ("k4", "k5", "k6")),
    ),
    digest="0123456789ab",
    staying=(Staying(1, 3, 1, ("old@one",)),),
)
DONE = Amended("hire", 1, 2, moved=40, stayed=3, parked=0, busy=1)


@pytest.fixture
def hire(perennial: Terminal, client: FakeClient, monkeypatch: Any) -> Process:
    """An app that registers one process, which is deployed with other content."""

    @process(version=1, registry=Registry())
    async def hire(flow: Flow) -> None: ...

    monkeypatch.setattr("orchestrator.cli.apps.load_app", lambda _session: None)
    monkeypatch.setattr("orchestrator.cli.apps.registered_processes", lambda: [hire])
    client.answers |= {
        "needs_amendment": True,
        "preview_amendment": SHOWN,
        "amend": DONE,
        "deploy": [],
    }
    return hire


def verbs(client: FakeClient) -> list[str]:
    return [verb for verb, _, _ in client.calls]


def test_it_is_shown_with_its_digest_and_not_done(perennial, client, hire):
    told = perennial("deploy", "--amend", "--others", "stay")
    assert told.exit_code == 1
    page = told.stdout
    assert "hire v1: revision 2 of its code" in page
    assert "class of the edit: needs a plan" in page
    assert "review now after provision; 41 runs stand before it, 3 have passed it" in page
    assert "contradiction  3 runs: stay on the revision that they have" in page
    assert "→ migrate them by a plan, or raise the version" in page
    assert (
        "3 runs on revision 1: old@one has that code and can move them. Keep it until `perennial processes`"
    ) in " ".join(page.split())
    assert "unchanged  41 runs: go on with it" in page
    assert "k4, k5, k6 and 38 more" in page
    assert "41 runs would move, 3 stay; new runs start with it. digest 0123456789ab" in page
    assert "nothing was done. To do this, add --yes 0123456789ab" in " ".join(told.stderr.split())
    assert verbs(client) == ["needs_amendment", "preview_amendment"]


def test_where_no_worker_has_the_code_of_those_that_stay_it_says_what_becomes_of_them(
    perennial, client, hire
):
    many = tuple(f"old@{number}" for number in range(5))
    client.answers["preview_amendment"] = replace(
        SHOWN, staying=(Staying(1, 1, 0, ()), Staying(2, 2, 5, many))
    )
    page = " ".join(perennial("deploy", "--amend").stdout.split())
    assert "1 run on revision 1: no living worker has that code. They stand still, in sight" in page
    assert "or make incidents of them: --others park" in page
    assert "2 runs on revision 2: old@0, old@1, old@2 and 2 more have that code" in page


def test_it_is_done_when_the_digest_is_given(perennial, client, hire):
    page = perennial(
        "deploy", "--amend", "--yes", SHOWN.digest, "--by", "ann", "--reason", "a fix"
    ).stdout
    assert "hire v1 is at revision 2: 40 runs moved, 3 stayed" in page
    assert "1 run changed under every try: call this again to move them" in page
    assert client.calls[-2] == ("deploy", (), {"by": "ann"})
    (verb, (given,), options) = client.calls[-1]
    assert (verb, given.name, options["shown"]) == ("amend", "hire", SHOWN)
    assert (options["by"], options["reason"]) == ("ann", "a fix")


def test_another_digest_is_refused_with_the_one_of_now(perennial, client, hire):
    code, error = perennial.refusal("deploy", "--amend", "--yes", "ffffffffffff")
    assert (code, error["type"]) == (1, "StalePreview")
    assert "now has the digest 0123456789ab, not ffffffffffff" in error["message"]
    assert "amend" not in verbs(client)


def test_a_program_reads_what_would_be_and_what_was_done(perennial, client, hire):
    document = perennial.json("deploy", "--amend")
    assert (document["digest"], document["amended"]) == (SHOWN.digest, None)
    (amendment,) = document["amendments"]
    assert (amendment["edit"], amendment["groups"][0]["becomes"]) == ("needs a plan", "stays")
    assert amendment["groups"][0]["remedy"] == "migrate them by a plan, or raise the version"
    assert "amend" not in verbs(client)
    document = perennial.json("deploy", "--amend", "--yes", SHOWN.digest)
    assert document["amended"][0]["moved"] == 40


def test_where_nothing_is_to_be_amended_it_is_a_deployment(perennial, client, hire):
    client.answers["needs_amendment"] = False
    assert perennial.json("deploy", "--amend")["amended"] == []
    assert client.calls[-1][1][0].name == "hire"
    client.answers |= {
        "needs_amendment": True,
        "preview_amendment": replace(SHOWN, is_current=True, groups=SHOWN.groups[:1]),
    }
    assert perennial.json("deploy", "--amend")["amended"] == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--yes", "f"), "--yes and --reason are of an amendment"),
        (("--reason", "r"), "--yes and --reason are of an amendment"),
        (("--amend", "--others", "go"), "--others is stay or park, not 'go'"),
    ],
)
def test_options_that_mean_nothing_are_refused(perennial, client, hire, options, told):
    code, error = perennial.refusal("deploy", *options)
    assert (code, error["type"]) == (2, "CommandRefused")
    assert told in error["message"]
    assert client.calls == []
