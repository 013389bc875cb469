"""A flow that asks for other things than are recorded parks its run, and goes on when its code is put back."""

from __future__ import annotations

from typing import Any

from orchestrator import Flow, RunStatus, process, stage
from tests.modes import NORMAL, TWICE, modes_of

TRICKY = [
    1e22,
    1e16,
    -0.0,
    100.0,
    1e-7,
    0.1,
    2**63,
    {"long key": 1, "b": {"z": 1, "a": [1.0, 1.50]}, "a": None},
    "é\u2028\U0001f600",
    [],
    {},
]


@modes_of(NORMAL, TWICE, because="a flow that stays where it is meets its journal when replayed")
def test_another_argument_parks_the_run_until_the_code_is_put_back(harness):
    paid = []

    @stage(registry=harness.registry)
    def pay(amount: int, to: str) -> int:
        paid.append((amount, to))
        return amount

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        amount = await flow.stage(pay, amounts[0], "ann")
        await flow.signal("go")
        return amount

    amounts = [100]
    run = harness.run(p)
    amounts[0] = 1_000_000
    harness.client.signal(run, "go")
    harness.drain()
    assert harness.status(run) is RunStatus.INCIDENT
    message = harness.database.value("SELECT error ->> 'message' FROM perennial.run")
    assert "  + 1. stage pay, with another amount   (asked by the flow now)" in message
    assert "1000000" not in message
    amounts[0] = 100
    harness.client.operations.resume(run, by="ops")
    harness.drain()
    assert harness.client.result(run) == 100
    assert set(paid) == {(100, "ann")}


def test_what_a_stage_has_answered_is_the_same_argument_at_each_pass(harness):
    """Numbers as jsonb keeps them, keys in its order: no value that the record gives back is another one."""

    @stage(registry=harness.registry)
    def find() -> Any:
        return TRICKY

    @stage(registry=harness.registry)
    def take(value: Any, all_of: Any) -> None:
        return None

    def look(value: Any) -> None:
        return None

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        found = await flow.stage(find)
        for value in found:
            await flow.stage(take, value, found)
            await flow.step(look, value)
            await flow.step(look, flow.now)
        await flow.sleep(flow.now - flow.now)
        await flow.signal("go")
        return len(found)

    run = harness.run(p)
    harness.client.signal(run, "go")
    harness.drain()
    assert harness.client.result(run) == len(TRICKY)
