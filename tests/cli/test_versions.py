"""`perennial processes`: open runs by version, who can run them, and which version new runs take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.run import RunStatus
from orchestrator.core.views import DeployedRevision, DeployedVersion, ProcessEvent
from orchestrator.errors import VersionRefused
from tests.cli.samples import WAITING, ago, summary

SERVED = DeployedVersion(
    name="access-request",
    version=2,
    kind="python",
    code_revision=3,
    deployed_at=ago(days=2),
    deployed_by="ann",
    is_current=True,
    set_by="bob",
    retired_at=None,
    retired_by="",
    revisions=(
        DeployedRevision(3, 41, 4, ("a@one", "b@two", "c@three", "d@four")),
        DeployedRevision(2, 1, 1, ("old@five",)),
    ),
)
UNSERVED = replace(
    SERVED,
    version=1,
    code_revision=1,
    is_current=False,
    set_by=None,
    retired_at=ago(hours=3),
    retired_by="bob",
    revisions=(DeployedRevision(1, 7, 0, ()),),
)


@pytest.fixture
def deployed(client):
    client.answers |= {
        "list": [SERVED, UNSERVED],
        "history": [
            ProcessEvent(ago(hours=1), "", "unretired", 1),
            ProcessEvent(ago(hours=2), "ann", "current", 1, reason="2 is slow"),
            ProcessEvent(ago(hours=3), "bob", "retired", 1),
            ProcessEvent(ago(hours=4), "ann", "amended", 2, code_revision=3, reason="a fix"),
            ProcessEvent(ago(hours=5), "ann", "deployed", 2, code_revision=1),
        ],
        "set_current": None,
        "retire": None,
        "unretire": None,
    }
    return client


def test_the_list_says_what_is_open_who_can_run_it_and_what_nobody_can(perennial, deployed):
    page = perennial("processes").stdout
    assert "access-request v2  new runs take it, set by bob  deployed by ann 2 d ago" in page
    assert "  revision 3  41 open runs  4 workers: a@one, b@two, c@three and 1 more" in page
    assert "  revision 2  1 open run  1 worker: old@five" in page
    assert "access-request v1  retired by bob 3 h ago" in page
    assert (
        "revision 1  7 open runs  waiting for a worker that can run access-request version 1; none is alive"
        in " ".join(page.split("\n")).replace("  revision", " revision")
    )
    perennial("processes", "access-request")
    assert [call[:2] for call in deployed.calls] == [
        ("list", (None,)),
        ("list", ("access-request",)),
        ("history", ("access-request",)),
    ]


def test_the_page_of_one_process_says_who_decided_what_and_why(perennial, deployed):
    page = " ".join(perennial("processes", "access-request").stdout.split())
    assert (
        "ann new runs take version 1, and took the newest version that is served before: 2 is slow"
        in page
    )
    assert "bob no new run takes version 1" in page
    assert "somebody new runs may take version 1 again" in page
    assert "ann version 2 amended to revision 3: a fix" in page
    assert "ann version 2 deployed" in page
    (first, *_) = perennial.json("processes", "show", "access-request")["history"]
    assert set(first) == {
        "at", "by", "event", "version", "former_version", "code_revision", "reason",
    }  # fmt: skip
    assert "History" not in perennial("processes").stdout


def test_the_document_has_each_version_with_its_revisions(perennial, deployed):
    (first, _) = perennial.json("processes")["processes"]
    assert first["set_by"] == "bob"
    assert first["revisions"][1] == {
        "code_revision": 2,
        "open_runs": 1,
        "served_by": 1,
        "workers": ["old@five"],
    }


def test_nothing_deployed_says_what_to_do(perennial, client):
    client.answers |= {"list": [], "history": []}
    assert (
        "No process is deployed. `perennial deploy` deploys one." in perennial("processes").stdout
    )
    assert "No version of x is deployed" in perennial("processes", "x").stdout


def test_the_version_that_new_runs_take_is_set_and_unset(perennial, deployed):
    page = perennial("processes", "current", "access-request", "1", "--by", "ann").stdout
    assert "New runs of access-request take version 1." in page
    page = perennial("processes", "current", "access-request", "--default").stdout
    assert "take the newest version that is served." in page
    assert [call[1] for call in deployed.calls] == [("access-request", 1), ("access-request", None)]
    assert deployed.calls[0][2] == {"by": "ann", "reason": ""}
    for words in ((), ("1", "--default")):
        refused = perennial("processes", "current", "access-request", *words)
        assert refused.exit_code == 2
        assert "Give a VERSION, or --default" in refused.stderr


def test_a_version_is_retired_and_taken_back_and_a_refusal_is_a_sentence(perennial, deployed):
    words = ("processes", "retire", "access-request", "1")
    assert "No new run takes access-request version 1" in perennial(*words, "--by", "ann").stdout
    undone = perennial(*words, "--undo", "--by", "ann", "--reason", "it was needed")
    assert "New runs may take it again" in undone.stdout
    perennial(*words, "--force", "--by", "ann")
    assert deployed.calls == [
        ("retire", ("access-request", 1), {"even_the_last": False, "by": "ann", "reason": ""}),
        ("unretire", ("access-request", 1), {"by": "ann", "reason": "it was needed"}),
        ("retire", ("access-request", 1), {"even_the_last": True, "by": "ann", "reason": ""}),
    ]
    deployed.answers["retire"] = VersionRefused("version 1 is the only version")
    refused = perennial(*words)
    assert refused.exit_code == 1
    assert "error: version 1 is the only version" in refused.stderr


def test_a_run_that_no_living_worker_can_move_says_so(perennial, client):
    needs = "a worker that can run access-request version 1; none is alive"
    client.answers["get"] = replace(WAITING, is_unserved=True)
    assert needs in " ".join(perennial("show", "x").stdout.split())
    waits = replace(summary(WAITING), is_unserved=True)
    runs = replace(waits, status=RunStatus.RUNNING)
    client.answers["list"] = [waits]
    perennial.width = 200
    assert f"wait-for-manager-approval; then {needs}" in perennial("ps").stdout
    client.answers["list"] = [runs]
    page = perennial("ps").stdout
    assert needs in page
    assert "then" not in page
