"""A version that runs have used gets other content: which runs move to it, which stay, and who says so."""

from __future__ import annotations

from typing import Any

from orchestrator import Flow, Registry, hours, process
from orchestrator.core.schemas import InputSchema
from orchestrator.store.transitions.amend import amend_if_current
from tests.harness import Harness
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="no worker has a part in it")


def p_waiting(hours_: float) -> Any:
    """A version whose content is told apart by its expiry."""

    async def p(flow: Flow) -> None:
        await flow.signal("go")

    return process(version=1, name="p", expires_after=hours(hours_), registry=Registry())(p)


def test_of_two_amendments_of_one_revision_one_is_made(harness: Harness):
    """Guards `amend_process`."""
    harness.client.processes.deploy(p_waiting(24), by="ann")
    first = harness.client.start("p")
    with harness.context.transaction() as connection:
        made = [
            amend_if_current(
                connection,
                p_waiting(hours_),
                InputSchema(),
                current=1,
                by="bob",
                reason="it is slower",
                diff={"words": [str(hours_)]},
            )
            for hours_ in (48, 72)
        ]
    assert made == [2, None]
    rows = harness.database.rows(
        "SELECT code_revision, fingerprint, deployed_by, reason, diff FROM perennial.process_revision ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [
        (1, p_waiting(24).fingerprint, "ann", "", None),
        (2, p_waiting(48).fingerprint, "bob", "it is slower", {"words": ["48"]}),
    ]
    assert harness.client.get(first).code_revision == 1
    assert harness.client.get(harness.client.start("p")).code_revision == 2
