"""`Flow.patched` in a record: marked once, told in history, and retired when no open run needs the former code."""

from __future__ import annotations

from typing import Any

from orchestrator import Flow, process, stage
from orchestrator.engine.check import check
from tests.harness import Harness
from tests.modes import EAGER, EVICT, NORMAL, TWICE, modes_of

modes = modes_of(NORMAL, EVICT, TWICE, EAGER, because="what a replay answers must hold in them")


def version_of(harness: Harness, *, is_patched: bool) -> Any:
    @stage(registry=harness.registry)
    def review(who: str) -> str:
        return who

    async def p(flow: Flow) -> Any:
        await flow.signal("go")
        first = flow.patched("two-reviews") if is_patched else False
        said = [await flow.stage(review, "ann")]
        if first:
            said.append(await flow.stage(review, "bob", key="second"))
        await flow.signal("end")
        return [*said, await flow.step(len, "abc")]

    return process(version=1, name="p", registry=harness.registry)(p)


def now_patched(harness: Harness) -> None:
    """The code changes under the version. (What a closure holds is no part of its fingerprint.)"""
    del harness.registry.processes["p", 1]
    version_of(harness, is_patched=True)


@modes
def test_runs_that_were_further_keep_the_former_code(harness):
    definition = version_of(harness, is_patched=False)
    first, further = harness.run(definition, key="first"), harness.run(definition, key="further")
    harness.client.signal(further, "go")
    harness.drain()
    now_patched(harness)
    harness.client.signal(first, "go")
    harness.drain()
    uses = check(harness.context).patches
    assert [str(use) for use in uses] == ["patched 'two-reviews': 1 of 2 open runs are without it"]
    assert harness.events(first).count("patched") == 1
    harness.client.signal(further, "end")
    harness.drain()
    (use,) = check(harness.context).patches
    assert str(use) == (
        "patched 'two-reviews': 0 of 1 open runs are without it: the old branch can go"
    )
    harness.client.signal(first, "end")
    harness.drain()
    assert harness.client.result(first) == ["ann", "bob", 3]
    assert harness.client.result(further) == ["ann", 3]
    for run in (first, further):
        harness.assert_ended_cleanly(run)
