"""What an operator's verb would do, decided of a journal alone: no clock, no database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from orchestrator import Fail, Flow, Registry, RunStatus, process, stage
from orchestrator.core.journal import Activity, ActivityKind, ActivityState
from orchestrator.core.outcome import RunContext
from orchestrator.core.reentry.retry import Retrying, preview_retry
from orchestrator.core.reentry.rewind import Rewinding, preview_rewind
from orchestrator.core.reentry.settle import ByHand, preview_fail, preview_skip
from orchestrator.core.reentry.standing import Code, Entry, Standing
from orchestrator.errors import ActivityFailed, OperationRefused

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
RUN = RunContext(UUID(int=7), "p", 1, "k", None, NOW - timedelta(hours=9))


def entry(
    ordinal: int,
    key: str,
    state: str = "done",
    *,
    scope: str = "",
    opened: int | None = None,
    **more: Any,
) -> Entry:
    is_settled = state in ("done", "failed", "timed_out", "cancelled")
    error = {"type": "OSError", "message": "away"} if state == "failed" else None
    at = NOW - timedelta(hours=8) + timedelta(minutes=ordinal if opened is None else opened)
    activity = Activity(
        key=key,
        scope=scope,
        ordinal=ordinal,
        kind=ActivityKind.STAGE,
        name=key.rpartition("/")[2],
        state=ActivityState(state),
        error=error,
        settled_at=at + timedelta(seconds=9) if is_settled else None,
        settled_revision=ordinal * 2 if is_settled else None,
    )
    return Entry(replace(activity, **more), opened_at=at)


def standing(*entries: Entry, status: RunStatus = RunStatus.FAILED, **more: Any) -> Standing:
    return Standing(
        run=RUN, status=status, revision=99, now=NOW, entries=entries, signals=(), **more
    )


def code_of(body: Any) -> Code:
    registry = Registry()
    stages = {}
    for name in "abc":

        def work() -> None: ...

        stages[name] = stage(name=name, registry=registry)(work)

    async def p(flow: Flow) -> Any:
        return await body(flow, stages)

    return Code(process(version=1, name="p", registry=registry)(p), registry)


async def gathers(flow: Flow, stages: Any) -> Any:
    await flow.stage(stages["a"])
    return await flow.gather(flow.stage(stages["b"]), flow.stage(stages["c"]))


async def wraps(flow: Flow, stages: Any) -> Any:
    await flow.stage(stages["a"])
    try:
        await flow.stage(stages["b"])
    except ActivityFailed as error:
        raise Fail("no way on") from error


async def bears(flow: Flow, stages: Any) -> Any:
    try:
        await flow.stage(stages["a"])
    except ActivityFailed:
        await flow.stage(stages["b"])
    return await flow.stage(stages["c"])


@pytest.mark.parametrize(
    ("body", "states", "again"),
    [
        (gathers, ("done", "failed", "done"), ["b"]),
        (gathers, ("done", "failed", "failed"), ["b", "c"]),
        (gathers, ("failed",), ["a"]),
        (wraps, ("done", "failed"), ["b"]),
        (bears, ("failed", "done", "failed"), ["c"]),
    ],
)
def test_what_failed_is_found_by_replay(body, states, again):
    """All of a gather; what an error was wrapped around; and not what the flow has borne."""
    run = standing(*(entry(n, "abc"[n - 1], state) for n, state in enumerate(states, 1)))
    preview = preview_retry(run, Retrying(), code_of(body))
    assert preview.change is not None
    assert list(preview.change.removed) == again
    assert preview.change.attempts_before == dict.fromkeys(again, 1)


def test_without_the_code_what_failed_was_followed_by_nothing():
    run = standing(entry(1, "a", "failed"), entry(2, "b"), entry(3, "c", "failed"))
    preview = preview_retry(run, Retrying(), None)
    assert preview.change is not None
    assert preview.change.removed == ("c",)


def test_a_digest_is_of_the_consequences():
    """The same for the same, whatever the revision; another for another result that is given."""
    run = standing(entry(1, "a", "failed"))
    once, later = (
        preview_retry(each, Retrying(), code_of(gathers)).digest
        for each in (run, replace(run, revision=100))
    )
    assert once == later
    assert len(once) == 12
    skips = {preview_skip(run, ByHand("a", result), None).digest for result in ("1", "2")}
    assert len({once, *skips}) == 3


@pytest.mark.parametrize(
    ("verb", "asked"),
    [(preview_skip, ByHand("a", "1")), (preview_rewind, Rewinding("a"))],
)
def test_what_is_worked_on_is_left_to_its_worker(verb, asked):
    run = standing(
        replace(entry(1, "a", "claimed"), worker="w1", claimed_at=NOW), status=RunStatus.RUNNING
    )
    with pytest.raises(OperationRefused, match=r"by w1 since 2026-03-02T12:00:00"):
        verb(run, asked, None)


def test_rewind_takes_what_hangs_on_the_point_and_no_more():
    async def branches(flow: Flow, stages: Any) -> Any:
        async def branch(first: str) -> None:
            await flow.stage(stages[first])
            await flow.stage(stages["c"])

        return await flow.gather(branch("a"), branch("b"), key="g")

    run = standing(
        entry(1, "g/0/a", scope="g/0", opened=1),
        entry(1, "g/1/b", scope="g/1", opened=1),
        entry(2, "g/0/c", scope="g/0", opened=2),
        entry(2, "g/1/c", scope="g/1", opened=3),
        status=RunStatus.COMPLETED,
    )
    asked = Rewinding("g/0/a", even_if_completed=True)
    by_replay = preview_rewind(run, asked, code_of(branches)).change
    alone = preview_rewind(run, asked, None).change
    assert by_replay is not None
    assert alone is not None
    assert by_replay.removed == ("g/0/a", "g/0/c")
    assert alone.removed == ("g/0/a", "g/0/c", "g/1/c")


def test_rewind_takes_what_has_seen_the_point_by_what_branches_share():
    """And no more of that branch than what it has asked for since."""

    async def shares(flow: Flow, stages: Any) -> Any:
        seen: list[str] = []

        async def one() -> None:
            await flow.stage(stages["a"])
            seen.append("a")

        async def other() -> None:
            await flow.stage(stages["b"])
            await flow.stage(stages["c"], key=f"c-{len(seen)}")

        return await flow.gather(one(), other(), key="g")

    run = standing(
        entry(1, "g/0/a", scope="g/0"),
        entry(1, "g/1/b", scope="g/1"),
        entry(2, "g/1/c-1", scope="g/1", name="c"),
        status=RunStatus.COMPLETED,
    )
    asked = Rewinding("g/0/a", even_if_completed=True)
    change = preview_rewind(run, asked, code_of(shares)).change
    assert change is not None
    assert change.removed == ("g/0/a", "g/1/c-1")


def test_a_run_that_has_failed_does_not_fail_by_hand():
    with pytest.raises(OperationRefused, match="has failed already"):
        preview_fail(standing(entry(1, "a", "failed")), ByHand("a", error={}), None)
