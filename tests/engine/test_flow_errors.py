"""What becomes of a run whose flow raises what it doesn't catch: parked, or failed, as its process says."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import (
    ActivityFailed,
    DefinitionError,
    Flow,
    OperationRefused,
    Retry,
    RunStatus,
    process,
    stage,
)
from tests.modes import NORMAL, modes_of


def of_three_ways(harness, **options: Any) -> Any:
    @stage(registry=harness.registry)
    def count(number: int) -> int:
        return number

    async def branch(flow: Flow, number: int) -> int:
        return [10, 20][await flow.stage(count, number)]

    @process(version=1, registry=harness.registry, **options)
    async def p(flow: Flow, way: str) -> int:
        if way == "itself":
            return await branch(flow, 7)
        if way == "in a gather":
            return (await flow.gather(branch(flow, 1), branch(flow, 7)))[0]
        found = await flow.map(count, [1])
        return (await flow.map(lambda number: branch(flow, number), [*found.values, 7]))[0]

    return p


@pytest.mark.parametrize("way", ["itself", "in a gather", "in a map"])
@pytest.mark.parametrize(
    ("options", "status"), [({}, RunStatus.INCIDENT), ({"on_error": "fail"}, RunStatus.FAILED)]
)
def test_an_exception_that_no_flow_catches_parks_its_run_or_fails_it(harness, way, options, status):
    run = harness.run(of_three_ways(harness, **options), way)
    view = harness.client.get(run)
    assert view.status is status
    assert view.error["type"] == "IndexError"
    assert "branch" in view.error["traceback"]
    assert view.error["cause"]
    if status is RunStatus.INCIDENT:
        assert "test_flow_errors.py:" in view.error["message"]
        assert 'on_error="fail"' in view.error["advice"]
    else:
        assert view.error["message"] == "list index out of range"
        assert "test_flow_errors.py:" in view.error["at"]
        harness.assert_ended_cleanly(run)
        with pytest.raises(OperationRefused, match="raises it itself, and would again"):
            harness.client.operations.retry(run)


@modes_of(NORMAL, because="it is about what a flow's error is, not about messages")
def test_what_is_no_error_of_the_flows_code_parks_whatever_its_process_says(harness):
    """A contradiction, and a record that other code has written: nothing is wrong with the run."""

    @stage(registry=harness.registry, retry=Retry(max_attempts=1))
    def count() -> int:
        raise KeyError("no")

    kept = []

    @process(version=1, registry=harness.registry, on_error="fail")
    async def forgets(flow: Flow) -> None:
        kept.append(flow.stage(count))

    @process(version=1, registry=harness.registry, on_error="fail")
    async def reads(flow: Flow, number: int) -> None: ...

    @process(version=1, registry=harness.registry, on_error="fail")
    async def catches(flow: Flow) -> str:
        try:
            await flow.stage(count)
        except ActivityFailed:
            return "caught"
        return ""

    assert harness.status(harness.run(forgets)) is RunStatus.INCIDENT
    run = harness.start(reads, 1)
    harness.database.rows("UPDATE perennial.run SET input = '\"x\"'")
    harness.drain()
    error = harness.client.get(run).error
    assert (harness.status(run), error["type"]) == (RunStatus.INCIDENT, "PayloadMismatch")
    assert "advice" not in error
    assert harness.client.result(harness.run(catches)) == "caught"


def test_to_fail_is_a_part_of_what_a_version_means_and_else_its_fingerprint_is_as_it_was(harness):
    async def p(flow: Flow) -> None: ...

    plain = process(version=1, registry=harness.registry)(p)
    parks = process(version=1, registry=harness.registry, on_error="park")(p)
    fails = process(version=1, registry=harness.registry, on_error="fail")(p)
    assert plain.fingerprint_by_way == parks.fingerprint_by_way
    for way, of_fails in fails.fingerprint_by_way.items():
        assert of_fails != plain.fingerprint_by_way[way], way
    with pytest.raises(DefinitionError, match='on_error is "park" or "fail"'):
        process(version=1, registry=harness.registry, on_error="retry")(p)  # type: ignore[arg-type]
