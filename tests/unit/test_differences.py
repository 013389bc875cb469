"""What an amendment changes, in words; where runs stand by it; and the class of an edit."""

from __future__ import annotations

import pytest

from orchestrator import Flow, Process, Registry, hours, process
from orchestrator.core.checking import Class
from orchestrator.core.declarative import load_process
from orchestrator.core.decorators import approval, stage
from orchestrator.core.journal import Activity, ActivityKind, ActivityState
from orchestrator.core.versions.classes import EditClass, class_of
from orchestrator.core.versions.content import Content
from orchestrator.core.versions.differences import Standing, difference


def declared(stages: str, more: str = "") -> Process:
    registry = Registry()
    for name in "abcd":
        stage(name=name, registry=registry)(lambda: None)
    approval(name="m", escalate_to=["dee"], registry=registry)(lambda _value: ["bob"])
    return load_process(f"process: {{name: p, stages: [{stages}]{more}}}", registry=registry)


def content_of(process: Process, *, source: str | None = None) -> Content:
    return Content(
        1,
        process.fingerprint,
        process.fingerprint_by_way,
        process.kind,
        process.spec,
        source or process.source,
        process.queue,
        process.expires_after_seconds,
    )


def says(former: Process, now: Process) -> list[str]:
    return [each.says for each in difference(content_of(former), now).changes]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("a, b, c", "a, c, b", ["b now after c"]),
        ("a, b, c", "b, c, a", ["a now after c"]),
        ("a, b, c", "c, a, b", ["c now first, before a"]),
        ("a, b", "a, d, b", ["d is new, after a"]),
        ("a, b", "d, a, b", ["d is new, first, before a"]),
        ("a, b, c", "a, c", ["b is gone"]),
        ("a, b", "d", ["a is gone", "b is gone", "d is new, alone"]),
        ("a, b", "a, b", []),
    ],
)
def test_what_moved_in_yaml_is_said(before, after, words):
    assert says(declared(before), declared(after)) == words


def test_what_else_yaml_changes_is_said():
    timers = ", timers: {approval_timeout_hours: 48, escalation_after_hours: 1}"
    assert says(declared("m"), declared("m", timers + ", queue: slow, expires_after_hours: 1")) == [
        "approvals time out after 48 hours, where it was never; those that are open keep theirs",
        "approvals escalate after 1 hour, where it was never; those that are open keep theirs",
        "its turns are taken on queue slow, where it was the default queue",
        "a run expires after 1 hour, where it never expires; runs that are open keep the moment they have",
    ]


def in_python(hours_: int, body: str = "first") -> Process:
    registry = Registry()
    if body == "first":

        @process(version=1, name="p", expires_after=hours(hours_), registry=registry)
        async def p(flow: Flow) -> None:
            await flow.sleep(hours(1))
    else:

        @process(version=1, name="p", expires_after=hours(hours_), registry=registry)
        async def p(flow: Flow) -> None:
            await flow.sleep(hours(2))

    return p


def test_a_flow_in_python_is_shown_as_a_diff():
    found = difference(content_of(in_python(1)), in_python(1, "second"))
    assert found.changes == ()
    assert [line for line in found.text.splitlines() if line[:1] in "+-"] == [
        "--- p version 1 revision 1",
        "+++ the code at hand",
        "-    await flow.sleep(hours(1))",
        "+    await flow.sleep(hours(2))",
    ]
    (change, other) = difference(content_of(in_python(1)), in_python(2)).changes
    assert change.says == "the flow's own text is the same"
    assert other.says.startswith("a run expires after 2 hours, where it expires after 1 hour")


def test_a_flow_that_becomes_yaml_and_one_without_its_text_are_said():
    assert says(in_python(1), declared("a"))[0] == "it was a flow in Python, and is YAML"
    bare = Content(1, "f", {}, "python", {}, None, None, 3600)
    assert [each.says for each in difference(bare, in_python(1)).changes] == [
        "the text of one of the two was not kept, so no diff can be shown"
    ]


def at(*done: str, open_: str = "") -> list[Activity]:
    return [
        Activity(
            key=name,
            scope="",
            ordinal=ordinal,
            kind=ActivityKind.STAGE,
            name=name,
            state=ActivityState.PENDING if name == open_ else ActivityState.DONE,
        )
        for ordinal, name in enumerate([*done, *([open_] if open_ else [])])
    ]


def test_where_runs_stand_is_said_beside_what_moved():
    found = difference(content_of(declared("a, b, c")), declared("a, c, b"))
    standing = Standing(found.stages())
    for journal in (*[at("a")] * 41, at("a", open_="b"), *[at("a", "b", "c")] * 3):
        standing.count(journal)
    assert found.words(standing) == (
        "b now after c; 41 runs stand before it, 1 stands at it, 3 have passed it",
    )
    assert found.words(Standing(found.stages())) == ("b now after c",)


@pytest.mark.parametrize(
    ("found", "is_same", "edit"),
    [
        ([], True, EditClass.COSMETIC),
        ([Class.UNCHANGED, Class.DIFFERS, Class.RECOVERS], False, EditClass.COMPATIBLE),
        ([Class.UNCHANGED, Class.CONTRADICTS], False, EditClass.NEEDS_A_PLAN),
        ([Class.CONTRADICTS, Class.LACKS], False, EditClass.IMPOSSIBLE),
        ([Class.UNREADABLE], False, EditClass.IMPOSSIBLE),
        ([Class.BREAKS], False, EditClass.IMPOSSIBLE),
    ],
)
def test_the_class_of_an_edit(found, is_same, edit):
    assert class_of(found, is_same=is_same) is edit
    assert class_of([], is_same=True, text_is_same=True) is EditClass.NONE
