"""Many runs have failed, by three causes; those of one are taken up again, at a rate, and nothing is done twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from orchestrator import Flow, Retry, RunFilter, RunStatus, process, stage
from orchestrator.core.bulk import OperationState
from orchestrator.errors import PerennialError
from tests.harness import Harness
from tests.modes import NORMAL, modes_of

pytestmark = modes_of(NORMAL, because="workers do what they always do")

RUNS = 300
CAUSES = (ConnectionError, LookupError, ValueError)


def test_failed_runs_of_one_cause_are_retried_from_where_they_failed(harness: Harness):
    """Finished stages repeated: 0. One that fails again is failed once more, and stays so."""
    effects: Counter[tuple[str, int]] = Counter()
    is_mended: set[type[Exception]] = set()

    @stage(registry=harness.registry)
    def validate(number: int) -> int:
        effects["validate", number] += 1
        return number

    @stage(registry=harness.registry, retry=Retry(max_attempts=1))
    def provision(number: int) -> int:
        effects["provision", number] += 1
        kind = CAUSES[number % 3]
        if kind not in is_mended or number == 0:
            raise kind(f"order {number} of 'ann' was refused after {number / 7:.2f} s")
        return number

    @process(version=1, registry=harness.registry)
    async def hire(flow: Flow, number: int) -> int:
        await flow.stage(validate, number)
        return await flow.stage(provision, number)

    harness.freeze()
    client, operations = harness.client, harness.client.operations
    client.processes.deploy(hire)
    client.start_many("hire", list(range(RUNS)), keys=[f"k{number}" for number in range(RUNS)])
    harness.drain()
    causes = {each.cause.type: each for each in operations.incidents()}
    assert {kind: each.runs for kind, each in causes.items()} == {
        kind.__name__: RUNS // 3 for kind in CAUSES
    }

    asked = RunFilter(process="hire", error_type="ConnectionError", stage="provision")
    shown = operations.bulk.preview("retry", asked, by="ann", reason="the partner is back")
    assert len(shown.runs) == RUNS // 3
    ((_, says),) = shown.looks
    assert any("provision" in each for each in says)
    is_mended.add(ConnectionError)
    harness.move(minutes=1)
    operations.mend_cause(causes["ConnectionError"].digest, by="ann")
    harness.move(minutes=1)
    done = operations.bulk.apply(shown.digest, by="ann", reason="the partner is back")
    assert (done.state, dict(done.counts)) == (OperationState.FINISHED, {"done": RUNS // 3})
    harness.drain()

    assert Counter(str(run.status) for run in client.list(limit=1000)) == {
        "completed": RUNS // 3 - 1,
        "failed": 2 * RUNS // 3 + 1,
    }
    assert {effects["validate", number] for number in range(RUNS)} == {1}
    assert {effects["provision", number] for number in range(0, RUNS, 3)} == {2}
    assert {effects["provision", number] for number in range(RUNS) if number % 3} == {1}
    assert client.get("k0").status is RunStatus.FAILED
    again = operations.cause(causes["ConnectionError"].digest)
    assert (again.runs, again.runs_since_mended, again.samples[0].name) == (1, 1, "k0")
    told: Any = next(entry for entry in client.history("k3") if entry.event == "retried")
    assert (told.actor, told.detail["operation"], told.detail["reason"]) == (
        "ann",
        str(done.id),
        "the partner is back",
    )


def test_a_retry_of_many_looks_at_one_of_each_kind_before_anything_is_done(harness: Harness):
    """By the verb's own preview; what that refuses, each run's line says too."""

    @stage(registry=harness.registry, retry=Retry(max_attempts=1))
    def work() -> None:
        raise LookupError

    @process(version=1, registry=harness.registry, expires_after=60)
    async def brief(flow: Flow) -> None:
        await flow.stage(work)

    harness.freeze()
    bulk = harness.client.operations.bulk
    run = harness.start(brief, key="k")
    harness.drain()
    harness.move(minutes=2)
    shown = bulk.preview("retry", RunFilter(process="brief"))
    ((name, says),) = shown.looks
    assert (name, says[0][:37]) == ("k", "refused: run k would expire at once: ")
    refused = bulk.apply(shown.digest)
    assert dict(refused.counts) == {"refused": 1}
    assert "would expire at once" in bulk.results(refused.id)[0].what
    longer = bulk.preview("retry", RunFilter(process="brief"), expires_in_seconds=3600)
    assert dict(bulk.apply(longer.digest).counts) == {"done": 1}
    assert harness.status(run) is RunStatus.RUNNING


def test_other_verbs_take_an_activity_and_what_stands_for_it(harness: Harness):
    """Each is refused without what it needs; each run's history names the operation."""

    @stage(registry=harness.registry, retry=Retry(max_attempts=1))
    def work() -> int:
        raise LookupError

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        await flow.signal("go")
        return await flow.stage(work)

    client, bulk = harness.client, harness.client.operations.bulk
    client.processes.deploy(p)
    client.start_many("p", [None] * 3, keys=["a", "b", "c"])
    harness.drain()
    for key in "abc":
        client.signal(key, "go")
    harness.drain()
    failed = RunFilter(process="p", statuses=(RunStatus.FAILED,))
    for given, why in (
        ({}, "skip of many runs needs key"),
        ({"key": "work", "to": "x"}, "skip of many runs takes no to"),
        ({"key": "work", "result": object()}, "result of work"),
    ):
        with pytest.raises(PerennialError, match=why):
            bulk.preview("skip", failed, **given)
    shown = bulk.preview("skip", failed, by="ann", reason="by hand", key="work", result=7)
    assert "the given result stands in for its own" in shown.looks[0][1][0]
    assert dict(bulk.apply(shown.digest, by="ann").counts) == {"done": 3}
    harness.drain()
    assert [client.result(key) for key in "abc"] == [7, 7, 7]
    rewound = bulk.preview(
        "rewind", RunFilter(process="p", statuses=(RunStatus.COMPLETED,), key="a"), to="go"
    )
    assert [each.reason for each in rewound.refused] == [
        "it is completed, and rewind acts on cancelled or expired or failed or incident or paused or running or waiting"
    ]
