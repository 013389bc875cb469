"""Keys: no request takes the place of another in the journal."""

from __future__ import annotations

from orchestrator import Flow, Retry, RunStatus, process, stage, step


def test_a_named_key_cannot_take_the_place_of_a_numbered_one(harness):
    """The second `a` is numbered `a#2`. Authors' keys have no `#`, so none of theirs can be that
    one, and no request is lost to another.
    """

    @stage(registry=harness.registry)
    def a(number: int) -> int:
        return number

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[int]:
        return await flow.gather(flow.stage(a, 1, key="a#2"), flow.stage(a, 2), flow.stage(a, 3))

    run = harness.run(p)
    view = harness.client.get(run)
    assert (view.error or {}).get("type") == "DefinitionError" or view.output == [1, 2, 3]


def test_a_key_cannot_take_the_place_of_a_stages_step(harness):
    """Step `charge` of stage `work` is recorded as `work/charge`. Authors' keys have no `/`: if
    one were that row, the step could not be recorded, and every attempt would call it again.
    """
    charged = []

    def charge() -> int:
        charged.append(1)
        return 1

    @stage(registry=harness.registry, retry=Retry(delay_seconds=0))
    def work() -> int:
        return step(charge)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        handles = [flow.sleep(3600, key="work/charge")]
        return await flow.stage(work) * len(handles)

    run = harness.run(p)
    assert harness.status(run) in (RunStatus.COMPLETED, RunStatus.INCIDENT)
    assert len(charged) <= 1
