"""The command line with a made-up Client behind it."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest

from orchestrator.cli.session import Session
from orchestrator.core.approvals import Decision, Outcome
from orchestrator.core.views import Started
from tests.cli.samples import (
    APPROVAL,
    HISTORY,
    NOW,
    RUN_ID,
    WAITING,
    FakeClient,
    Terminal,
    summary,
)


@pytest.fixture
def client() -> FakeClient:
    return FakeClient(
        {
            "start": Started(RUN_ID, "access-request", 1, created=True),
            "restart": Started(RUN_ID, "access-request", 2, created=True),
            "list": [summary(WAITING)],
            "get": WAITING,
            "history": HISTORY,
            "approvals": [APPROVAL],
            "approve": Decision(
                "wait-for-manager-approval", Outcome.APPROVED, "alice", "fine", NOW
            ),
            "reject": Decision("wait-for-manager-approval", Outcome.REJECTED, "alice", "no", NOW),
            "signal": True,
            "query": 7,
            "cancel": None,
            "pause": None,
            "resume": None,
            "result": {"outcome": "completed"},
        }
    )


@pytest.fixture
def perennial(client: FakeClient, tmp_path: Any, monkeypatch: Any) -> Terminal:
    monkeypatch.chdir(tmp_path)  # no `.perennial` of this checkout may answer
    session = Session(open_client=lambda _url: client, now=lambda: NOW, zone=UTC)
    session.app = (
        "no_app_is_here"  # else this checkout's own, which the folder of the tests makes importable
    )
    return Terminal(client, session)
