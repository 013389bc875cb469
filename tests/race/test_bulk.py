"""Two commands at one operation: the first counts as dead, and is at a run all the same when the second comes to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator import Flow, RunFilter, process
from orchestrator.engine.operations import bulk_verbs
from orchestrator.engine.operations.bulk import Applying
from tests.harness import Database, Harness, Thread, wait_until_blocked


def test_two_commands_at_one_run_act_on_it_once(database: Database, monkeypatch):
    """What the second has done is undone when it finds the line settled. Guards settle_line."""
    with Harness(database) as harness:
        harness.freeze()

        @process(version=1, registry=harness.registry)
        async def p(flow: Flow) -> None:
            await flow.signal("go")

        runs = [harness.start(p) for _ in range(3)]
        harness.drain()
        second: list[Thread] = []

        def mark(_context: Any, connection: Any, run_id: Any, asked: Any) -> str:
            if run_id == runs[1].run_id and not second:
                harness.move(seconds=20)  # the first has been silent for longer than its lease
                second.append(Thread(lambda: applying("bob").go_on(by="bob")))
                wait_until_blocked(database, 1)
            connection.exec_driver_sql(
                "UPDATE perennial.run SET previous_stage = concat(previous_stage, 'x') WHERE id = %s",
                (run_id,),
            )
            return asked.by

        def applying(name: str) -> Applying:
            return Applying(
                harness.client._context, shown.operation_id, name, lambda _seconds: None
            )

        monkeypatch.setitem(
            bulk_verbs.VERBS, "mark", replace(bulk_verbs.VERBS["pause"], name="mark", perform=mark)
        )
        shown = harness.client.operations.bulk.preview("mark", RunFilter(process="p"))
        applying("ann").go_on(by="ann")
        assert dict(second[0].outcome().counts) == {"done": 3}
        marks = database.rows("SELECT previous_stage FROM perennial.run")
        assert [row[0] for row in marks] == ["x"] * 3
