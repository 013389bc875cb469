"""What a deployment may change: all of a version that no run has used, and nothing of one that a run has."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator import Flow, Registry, hours, process
from orchestrator.core import definition as defining
from orchestrator.engine.comparing import changed_since_deployed
from orchestrator.errors import ProcessChanged
from orchestrator.store.statement import Statement
from tests.harness import Harness, Thread, wait_until_blocked
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="no worker has a part in it")

FINGERPRINT = "SELECT fingerprint FROM perennial.process WHERE name = 'p'"


def p_waiting(hours_: float, queue: str | None = None) -> Any:
    """A version whose content is told apart by its expiry."""

    async def p(flow: Flow) -> None:
        await flow.signal("go")

    define = process(
        version=1, name="p", queue=queue, expires_after=hours(hours_), registry=Registry()
    )
    return define(p)


def test_a_version_that_no_run_has_used_is_replaced(harness: Harness):
    (first,) = harness.client.processes.deploy(p_waiting(24), by="ann")
    (second,) = harness.client.processes.deploy(p_waiting(48, "slow"), by="bob")
    assert [first.created, first.replaced, second.created, second.replaced] == [
        True,
        False,
        False,
        True,
    ]
    assert harness.database.value(FINGERPRINT) == second.fingerprint != first.fingerprint
    run = harness.client.get(harness.client.start("p"))
    assert (run.queue, run.expires_at - run.created_at) == ("slow", hours(48))
    (row,) = harness.database.rows("SELECT deployed_by, spec FROM perennial.process")
    assert (row.deployed_by, row.spec) == ("bob", p_waiting(48).spec)


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_version_that_a_run_has_used_keeps_its_content(harness: Harness, is_closed):
    """Also one that has ended: its history was made by that content. Guards `replace_process`."""
    harness.client.processes.deploy(p_waiting(24))
    runs = [harness.client.start("p", key=f"k{number}") for number in range(5)]
    if is_closed:
        for run in runs:
            harness.client.cancel(run)
    with pytest.raises(ProcessChanged) as refusal:
        harness.client.processes.deploy(p_waiting(48))
    how = "cancelled" if is_closed else "running"
    assert (
        f"and it has 5 run(s), {0 if is_closed else 5} of them open: k4 ({how}), k3 ({how}), k2 ({how}), …"
        in str(refusal.value)
    )
    assert "Raise its version to 2" in str(refusal.value)
    assert harness.database.value(FINGERPRINT) == p_waiting(24).fingerprint


def test_one_that_is_refused_leaves_all_as_they_were(harness: Harness):
    async def q(flow: Flow) -> None: ...

    harness.client.processes.deploy(p_waiting(24))
    harness.client.start("p")
    with pytest.raises(ProcessChanged):
        harness.client.processes.deploy(process(version=1, registry=Registry())(q), p_waiting(48))
    assert harness.database.value("SELECT count(*) FROM perennial.process") == 1


def test_what_a_release_before_deployed_is_the_same_and_has_its_new_fingerprint(harness: Harness):
    """Runs depend on it, and the code is the same. Guards `fingerprints` in `deploy_process`."""
    version = p_waiting(24)
    harness.client.processes.deploy(version)
    harness.client.start("p")
    former = version.fingerprints[1]
    harness.database.rows("UPDATE perennial.process SET fingerprint = :former", former=former)
    assert not harness.client.processes.deploy(version)[0].created
    assert harness.database.value(FINGERPRINT) == version.fingerprint
    with pytest.raises(ProcessChanged):
        harness.client.processes.deploy(p_waiting(48))


def test_a_version_keeps_what_it_was_deployed_with_as_its_revision(harness: Harness):
    """And a run stands on the one that is current when it starts."""
    harness.client.processes.deploy(p_waiting(24), by="ann")
    harness.client.processes.deploy(p_waiting(48), by="bob")
    harness.client.processes.deploy(p_waiting(48), by="cy")
    version = p_waiting(48)
    (row,) = harness.database.rows("SELECT * FROM perennial.process_revision")
    assert (row.process, row.version, row.code_revision, row.deployed_by) == ("p", 1, 1, "bob")
    assert (row.fingerprint, row.fingerprints) == (version.fingerprint, version.fingerprint_by_way)
    assert (row.spec, row.source) == (version.spec, version.source)
    assert "await flow.signal" in row.source
    harness.database.rows("UPDATE perennial.process SET code_revision = 3")
    for key in (None, "k"):
        assert harness.client.get(harness.client.start("p", key=key)).code_revision == 3


def test_a_start_that_is_not_committed_yet_holds_its_version(harness: Harness):
    """And the deployment doesn't wait for it. Guards `lock_process_if_unused`."""
    harness.client.processes.deploy(p_waiting(24))
    with harness.database.psycopg() as producer:
        harness.client.start("p", connection=producer)
        with pytest.raises(ProcessChanged, match="a run of it is being started"):
            harness.client.processes.deploy(p_waiting(48))
        producer.rollback()
    assert harness.client.processes.deploy(p_waiting(48))[0].replaced


def test_two_that_replace_a_version_at_once_go_one_after_the_other(harness: Harness):
    harness.client.processes.deploy(p_waiting(24))
    with harness.database.psycopg() as holder:
        holder.execute("SELECT FROM perennial.process FOR UPDATE")
        threads = [Thread(lambda: harness.client.processes.deploy(p_waiting(48))) for _ in range(2)]
        wait_until_blocked(harness.database, 2)
        holder.rollback()
    outcomes = [thread.outcome()[0] for thread in threads]
    assert sorted(each.replaced for each in outcomes) == [False, True]
    assert harness.database.value(FINGERPRINT) == p_waiting(48).fingerprint


def test_a_program_whose_code_is_not_what_was_deployed_is_told_which(harness: Harness):
    """One that is not deployed is not meant, nor what a release before recorded for the same code."""
    harness.client.processes.deploy(p_waiting(24))

    def changed(*versions: Any) -> list[str]:
        registry = Registry()
        for version in versions:
            registry.add_process(version)
        return [
            each.name
            for each in changed_since_deployed(harness.worker("worker-2", registry=registry))
        ]

    assert changed() == []
    assert changed(p_waiting(24)) == []
    assert changed(p_waiting(24), dataclasses.replace(p_waiting(1), name="new")) == []
    assert changed(p_waiting(48)) == ["p"]
    former = p_waiting(24).fingerprints[1]
    harness.database.rows("UPDATE perennial.process SET fingerprint = :former", former=former)
    assert changed(p_waiting(24)) == []


def test_definitions_are_looked_at_before_the_first_statement(
    harness: Harness, monkeypatch
) -> None:
    """Postgres ends a transaction that has nothing to do for seconds, and reading a flow may take as long."""
    seen: list[str] = []
    look = defining.reached_by

    def reached(flow: Any, **how: Any) -> Any:
        seen.append("looked")
        return look(flow, **how)

    def sent(statement: Statement, *given: Any, **parameters: Any) -> Any:
        seen.append(statement.name)
        return rows(statement, *given, **parameters)

    rows = Statement.rows
    definitions = [
        process(version=1, name=name, registry=Registry())(flow_of()) for name in ("one", "two")
    ]
    monkeypatch.setattr(defining, "reached_by", reached)
    monkeypatch.setattr(Statement, "rows", sent)
    harness.client.processes.deploy(*definitions)
    assert seen == ["looked", "looked", "deploy_process", "deploy_process"]


def flow_of() -> Any:
    """A flow of its own each time, of which nothing is known."""

    async def p(flow: Flow) -> None:
        await flow.sleep(1)

    return p
