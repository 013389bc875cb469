"""`skip`, `complete`, `fail` and `edit`: an activity gets its end, or other arguments, from an operator."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import ActivityFailed, Flow, Retry, RunStatus, hours, process, stage
from orchestrator.engine.turn import advance
from orchestrator.errors import OperationRefused
from orchestrator.store.transitions.claim import claim_activity_if_pending
from tests.harness import Harness
from tests.modes import NORMAL, modes_of


class Shop:
    """A stage that fails until it is given another number, and what it was given."""

    def __init__(self, harness: Harness) -> None:
        self.got: list[int] = []
        self.is_away = True

        @stage(registry=harness.registry, retry=Retry(max_attempts=3, delay_seconds=600))
        def ship(number: int, to: str = "ada") -> int:
            self.got.append(number)
            if self.is_away and number < 10:
                raise ConnectionError
            return number

        @process(version=1, registry=harness.registry)
        async def p(flow: Flow) -> Any:
            try:
                shipped = await flow.stage(ship, 1)
            except ActivityFailed as error:
                return f"{error.error_type}: {error.message}"
            return [shipped, await flow.signal("go", type=int, timeout=hours(1))]

        @process(version=1, registry=harness.registry)
        async def strict(flow: Flow) -> Any:
            return [await flow.stage(ship, 1), await flow.sleep(hours(1))]

        self.p, self.strict = p, strict


@pytest.fixture
def shop(harness: Harness) -> Shop:
    return Shop(harness)


def end(harness: Harness, verb: str, run: Any, key: str, **given: Any) -> Any:
    return getattr(harness.client.operations, verb)(run, key, by="ann", reason="so", **given)


@pytest.mark.parametrize("verb", ["skip", "complete"])
def test_an_activity_gets_its_result_by_hand(harness, shop, verb):
    """One at rest until its retry, and a wait for a signal; deadlines go with them."""
    run = harness.run(shop.p)
    assert harness.client.get(run).waits[0].attempt == 2
    end(harness, verb, run, "ship", result=7)
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING
    end(harness, verb, run, "go", result=8)
    harness.drain()
    assert harness.client.result(run) == [7, 8]
    assert shop.got == [1]
    harness.assert_ended_cleanly(run)
    event = {"skip": "skipped", "complete": "completed by hand"}[verb]
    told = [each for each in harness.client.history(run) if each.event == event]
    assert [(each.actor, each.key, each.detail) for each in told] == [
        ("ann", "ship", {"reason": "so", "was": "retrying"}),
        ("ann", "go", {"reason": "so", "was": "pending"}),
    ]


def test_a_failed_run_goes_on_past_what_is_skipped(harness, shop):
    run = harness.run(shop.strict)
    for _ in range(2):
        harness.move(seconds=700)
        harness.drain()
        harness.move(seconds=1300)
        harness.drain()
    assert harness.status(run) is RunStatus.FAILED
    preview = end(harness, "skip", run, "ship", result=7, dry_run=True).preview
    assert preview.goes_on == (
        "stage ship, which is failed, is left out; the given result stands in for its own",
    )
    end(harness, "skip", run, "ship", result=7, digest=preview.digest)
    harness.drain()
    end(harness, "complete", run, "sleep")
    harness.drain()
    assert harness.client.result(run) == [7, None]
    assert shop.got == [1, 1, 1]
    assert harness.events(run).count("left the journal") == 1


def test_a_failure_by_hand_is_met_at_the_await(harness, shop):
    run = harness.run(shop.p)
    end(harness, "fail", run, "ship", error="the account is locked", error_type="Locked")
    harness.drain()
    assert harness.client.result(run) == "Locked: the account is locked"
    ends = harness.run(shop.strict)
    preview = end(harness, "fail", ends, "ship", error="no more", dry_run=True).preview
    assert "would end as failed" in preview.notes[0]
    end(harness, "fail", ends, "ship", error="no more")
    harness.drain()
    assert harness.status(ends) is RunStatus.FAILED


def test_a_stage_at_rest_gets_other_arguments(harness, shop):
    """The flow asked for others, and is replayed over them."""
    run = harness.run(shop.p)
    end(harness, "edit", run, "ship", arguments={"number": 12})
    harness.move(seconds=700)
    harness.drain()
    assert shop.got == [1, 12]
    harness.client.signal(run, "go", 1)
    harness.drain()
    assert harness.client.result(run) == [12, 1]
    (told,) = [each for each in harness.client.history(run) if each.event == "arguments replaced"]
    assert (told.detail["before"], told.detail["after"]) == (
        {"number": 1},
        {"number": 12},
    )
    harness.assert_ended_cleanly(run)


@modes_of(NORMAL, because="what is refused is the same in all")
class TestRefusals:
    def test_of_another_type(self, harness, shop):
        run = harness.run(shop.p)
        with pytest.raises(OperationRefused, match=r"result of stage ship .* valid integer"):
            end(harness, "skip", run, "ship", result="seven")
        with pytest.raises(OperationRefused, match=r"number.*valid integer"):
            end(harness, "edit", run, "ship", arguments={"number": "x"})
        with pytest.raises(OperationRefused, match="no parameter nummer; it takes number, to"):
            end(harness, "edit", run, "ship", arguments={"nummer": 1})
        end(harness, "skip", run, "ship", result=1)
        harness.drain()
        with pytest.raises(OperationRefused, match="valid integer"):
            end(harness, "complete", run, "go", result="x")

    def test_of_what_is_worked_on(self, harness, shop):
        """Guards `refuse_what_is_worked_on`."""
        run = harness.start(shop.p)
        advance(harness.context, run.run_id)
        worker_id = harness.beat(harness.context)
        with harness.context.connection() as connection:
            claim_activity_if_pending(connection, run.run_id, "ship", 1, worker_id=worker_id)
        for verb, given in (
            ("skip", {}),
            ("complete", {}),
            ("fail", {"error": "x"}),
            ("edit", {"arguments": {}}),
        ):
            with pytest.raises(OperationRefused, match="is being worked on by worker-1 since"):
                end(harness, verb, run, "ship", **given)

    def test_of_what_is_no_such_thing(self, harness, shop):
        @process(version=1, registry=harness.registry)
        async def asks(flow: Flow) -> None:
            await flow.approval("boss", assign=["bob"])

        run = harness.run(asks)
        with pytest.raises(OperationRefused, match=r"people decide: `perennial approve RUN boss`"):
            end(harness, "skip", run, "boss")
        with pytest.raises(OperationRefused, match="Did you mean 'boss'"):
            end(harness, "skip", run, "bos")
        with pytest.raises(OperationRefused, match="is of kind approval, no stage"):
            end(harness, "edit", run, "boss", arguments={})
        harness.client.cancel(run)
        with pytest.raises(OperationRefused, match="people decide"):
            end(harness, "complete", run, "boss")

    def test_of_what_has_its_end(self, harness, shop):
        run = harness.run(shop.p)
        end(harness, "complete", run, "ship", result=1)
        harness.drain()
        for verb, given in (("complete", {"result": 2}), ("edit", {"arguments": {}})):
            with pytest.raises(OperationRefused, match=r"`perennial rewind RUN --to ship`"):
                end(harness, verb, run, "ship", **given)
        harness.client.cancel(run)
        with pytest.raises(OperationRefused, match=r"is cancelled.*`perennial restart RUN`"):
            end(harness, "complete", run, "go", result=2)
