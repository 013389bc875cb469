"""Defining: stages, processes and what a flow's methods take; nothing connects and nothing runs."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator import Flow, Registry, Retry, days, hours, minutes, process, seconds, stage
from orchestrator.core.definition import Stage
from orchestrator.core.journal import ActivityKind
from orchestrator.core.kinds import Sleep, StageCall
from orchestrator.core.run import CLOSED, MOVES, MOVING, RunStatus
from orchestrator.errors import DefinitionError, UnknownProcess, UnknownStage
from tests.unit.replaying import BEGIN, RUN_ID, World, define

REGISTRY = Registry()


@stage(registry=REGISTRY, queue="iam", retry=Retry(max_attempts=3), timeout_seconds=60)
def provision_access(user: str, role: str = "reader") -> str:
    """Give access."""
    return f"{user}:{role}"


def asked(asks: Any, **options: Any) -> Any:
    """The one activity that a flow opens."""

    async def flow(flow: Flow) -> None:
        await asks(flow)

    (opened,) = World(define(flow, **options), REGISTRY).turn().opened
    return opened


def test_a_stage_called_directly_is_its_function():
    assert provision_access("ann", role="admin") == "ann:admin"
    assert (provision_access.name, provision_access.__doc__) == ("provision-access", "Give access.")


@pytest.mark.parametrize(
    "asks",
    [
        lambda flow: flow.stage(provision_access, "ann"),
        lambda flow: flow.stage("provision-access", user="ann"),
    ],
)
def test_a_stage_is_asked_for_by_itself_or_by_name_with_its_arguments_by_name(asks):
    opened = asked(asks)
    assert (opened.request.kind, opened.request.name, opened.queue) == (
        ActivityKind.STAGE,
        "provision-access",
        "iam",
    )
    assert opened.input == '{"user":"ann"}'
    assert opened.policy["max_attempts"] == 3
    assert opened.timeout_seconds == 60
    assert isinstance(opened.request.ask, StageCall)


@pytest.mark.parametrize("duration", [timedelta(minutes=2), 120, 120.0])
def test_a_sleep_takes_a_timedelta_or_seconds(duration):
    assert asked(lambda flow: flow.sleep(duration)).request.ask == Sleep(delay_seconds=120.0)


def test_a_sleep_until_takes_a_moment_even_one_that_has_passed():
    at = datetime(1999, 1, 1, tzinfo=UTC)
    assert asked(lambda flow: flow.sleep_until(at)).timers[0].at == at


def test_an_approval_arms_its_escalations_and_its_timeout():
    opened = asked(
        lambda flow: flow.approval(
            "m", assign=["b"], escalate={hours(2): ["d"], hours(1): ["c"]}, timeout=hours(3)
        )
    )
    assert [(timer.kind, timer.delay_seconds, timer.level) for timer in opened.timers] == [
        ("escalation", 3600, 1),
        ("escalation", 7200, 2),
        ("approval-timeout", 10800, 0),
    ]


def test_a_flow_knows_which_run_it_is():
    async def who(flow: Flow) -> list[Any]:
        return [
            str(flow.run_id),
            flow.business_key,
            flow.process,
            flow.version,
            flow.now.isoformat(),
        ]

    output = World(define(who)).turn().output
    assert output == f'["{RUN_ID}","KEY","who",1,"{BEGIN.isoformat()}"]'


def test_units_read_as_they_sound():
    assert (days(1), hours(24), minutes(1440), seconds(86400)) == (timedelta(days=1),) * 4


# -- definitions ---------------------------------------------------------------------------------


def test_a_process_is_an_async_def_with_a_flow_and_at_most_one_input():
    def not_async(flow: Flow) -> None: ...

    async def two_inputs(flow: Flow, first: int, second: int) -> None: ...

    async def none() -> None: ...

    for wrong in (not_async, two_inputs, none):
        with pytest.raises(DefinitionError):
            define(wrong)


@pytest.mark.parametrize("version", [0, -1])
def test_versions_count_from_one(version):
    async def p(flow: Flow) -> None: ...

    with pytest.raises(DefinitionError, match="count from 1"):
        process(version=version, registry=Registry())(p)


@pytest.mark.parametrize("name", ["", "Upper", "with space", "a" * 101, "1st", "naïve"])
def test_names_that_cannot_travel_are_refused(name):
    with pytest.raises(DefinitionError, match="is not allowed"):
        stage(name=name or " ", registry=Registry())(lambda: None)


def test_parameters_that_cannot_be_recorded_by_name_are_refused():
    def variadic(*values: int) -> None: ...

    with pytest.raises(DefinitionError, match="can't be recorded by name"):
        stage(variadic)


def test_a_name_belongs_to_one_function():
    registry = Registry()

    def make(marker: str) -> Any:
        def work() -> str:
            return marker

        return work

    stage(registry=registry)(make("a"))
    stage(registry=registry)(
        make("again")
    )  # the same place in the source: a module that was reloaded

    def elsewhere() -> None: ...

    with pytest.raises(DefinitionError, match="is defined already"):
        stage(registry=registry, name="work")(elsewhere)


def test_a_registry_says_what_it_knows():
    with pytest.raises(UnknownStage, match="known: provision-access"):
        REGISTRY.stage("unknown")
    with pytest.raises(UnknownProcess, match="known: none"):
        Registry().process("unknown")


def test_the_newest_version_is_the_one_meant():
    registry = Registry()

    async def first(flow: Flow) -> None: ...

    async def second(flow: Flow) -> None: ...

    process(version=10, name="p", registry=registry)(second)
    process(version=9, name="p", registry=registry)(first)
    assert registry.process("p").version == 10
    assert registry.process("p", 9).version == 9


def test_a_definition_with_other_content_has_another_fingerprint():
    async def p(flow: Flow) -> None: ...

    async def changed(flow: Flow) -> None:
        await flow.sleep(1)

    base = define(p, name="p")
    assert define(p, name="p").fingerprint == base.fingerprint
    assert define(changed, name="p").fingerprint != base.fingerprint
    assert dataclasses.replace(base, queue="slow").fingerprint != base.fingerprint
    assert define(p, name="p", expires_after=hours(1)).fingerprint != base.fingerprint


def test_listeners_hear_of_the_stages_before_and_after_them():
    registry, heard = Registry(), []

    def work() -> None: ...

    def later() -> None: ...

    stage(registry=registry)(work)
    registry.for_each_stage(heard.append)
    stage(registry=registry)(later)
    assert [each.name for each in heard] == ["work", "later"]
    assert all(isinstance(each, Stage) for each in heard)


# -- the states of a run -------------------------------------------------------------------------


def test_every_status_has_its_moves_and_a_closed_one_has_none():
    assert set(MOVES) == set(RunStatus)
    assert {status for status, targets in MOVES.items() if not targets} == CLOSED
    assert MOVING.isdisjoint(CLOSED)


def test_every_open_run_can_be_cancelled_and_can_expire():
    for status in set(RunStatus) - CLOSED:
        assert {RunStatus.CANCELLED, RunStatus.EXPIRED} <= MOVES[status]
