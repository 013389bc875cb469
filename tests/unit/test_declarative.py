"""Declarative processes: what YAML may say, what it is told when it may not, and how it runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from textwrap import dedent
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from orchestrator.core import codec, declarative_grammar, declarative_source
from orchestrator.core.approvals import Decision, Outcome
from orchestrator.core.declarative import DeclarativeResult, load_process, process_from_spec
from orchestrator.core.decorators import approval, stage
from orchestrator.core.definition import Process, Registry
from orchestrator.core.journal import Activity, ActivityKind, ActivityState
from orchestrator.core.kinds import Ask, AskPeople, StageCall
from orchestrator.core.replay import RunContext, take_turn
from orchestrator.core.run import RunStatus
from orchestrator.errors import DefinitionError, UnknownProcess, UnknownStage

# The form that DESIGN §4 promises, letter for letter.
DESIGN = """\
process:
  name: access-request
  stages: [validate-request, wait-for-manager-approval, wait-for-security-review, provision-access, notify-requester]
  timers: {approval_timeout_hours: 48, escalation_after_hours: 24}
"""
NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)


class AccessRequest(BaseModel):
    user: str
    manager: str


class Grant(BaseModel):
    role: str
    since: datetime


ANA = AccessRequest(user="ana", manager="mira")
GRANT = Grant(role="reader", since=NOW)
ANSWERS = {bool: True, Grant: GRANT, str: "done"}
"""What a stage answers by its declared result, where a test says nothing."""


@pytest.fixture(scope="module")
def registry() -> Registry:
    """The stages and approvals of DESIGN §4, and some that fit badly."""
    known = Registry()

    @stage(registry=known)
    def validate_request(request: AccessRequest) -> bool: ...

    @approval("wait-for-manager-approval", escalate_to=["director"], registry=known)
    def manager(request: AccessRequest) -> list[str]:
        return [request.manager]

    @approval("wait-for-security-review", registry=known)
    def security(request: AccessRequest) -> list[str]:
        return ["security"]

    @stage(registry=known)
    def provision_access(request: AccessRequest) -> Grant: ...

    @stage(always=True, registry=known)
    def notify_requester(
        request: AccessRequest,
        *,
        decision: Decision | None,
        decisions: dict[str, Decision],
        validate_request: bool,
        provision_access: Grant | None = None,
        channel: str = "mail",
    ) -> None: ...

    @stage(registry=known)
    def tick() -> str: ...

    @stage(registry=known)
    def validate_other(request: Grant) -> None: ...

    @stage(registry=known)
    def needs_grant(request: AccessRequest, provision_access: Grant) -> None: ...

    @stage(always=True, registry=known)
    def always_needs_grant(request: AccessRequest, provision_access: Grant) -> None: ...

    @stage(always=True, registry=known)
    def always_logs(request: AccessRequest) -> str: ...

    @stage(always=True, registry=known)
    def always_needs_log(request: AccessRequest, always_logs: str) -> None: ...

    @stage(registry=known)
    def decision(request: AccessRequest) -> None: ...

    @stage(registry=known)
    def by_keyword(*, request: AccessRequest) -> None: ...

    @stage(name="provision.access", registry=known)
    def provision_elsewhere(request: AccessRequest) -> None: ...

    @stage(name="sign", registry=known)
    def sign_stage(request: AccessRequest) -> None: ...

    @approval("sign", registry=known)
    def sign_approval(request: AccessRequest) -> list[str]: ...

    return known


def refused(text: str, registry: Registry) -> DefinitionError:
    with pytest.raises(DefinitionError) as caught:
        load_process(text, source="access.yaml", registry=registry)
    return caught.value


def under_process(body: str) -> str:
    return "process:\n" + "".join(f"  {line}\n" for line in dedent(body).strip().splitlines())


# -- running -------------------------------------------------------------------------------------


@dataclass
class FakeFlow:
    """Answers each stage and approval at once, and keeps what was asked."""

    results: Mapping[str, Any] = field(default_factory=dict)
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    called: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def ask(self, ask: Ask, name: str) -> Any:
        if isinstance(ask, StageCall):
            first, *_ = [*ask.stage.parameters, None]
            args = (ask.arguments[first],) if first is not None else ()
            further = {each: given for each, given in ask.arguments.items() if each != first}
            self.called.append((name, args, further))
            return self.results.get(name, ANSWERS.get(ask.stage.result_type))
        assert isinstance(ask, AskPeople)
        approval = ask.approval
        self.asked[name] = {
            "assign": list(approval.assignees),
            "escalate": {
                timedelta(seconds=each.after_seconds): each.assignees
                for each in approval.escalations
            },
            "timeout": None
            if approval.timeout_seconds is None
            else timedelta(seconds=approval.timeout_seconds),
        }
        return Decision(name, self.outcomes.get(name, Outcome.APPROVED), by="mira", at=NOW)


def run(process: Process, flow: FakeFlow, value: Any = ANA) -> DeclarativeResult:
    result = asyncio.run(process.flow(flow, value))
    assert isinstance(result, DeclarativeResult)
    return result


def test_the_form_of_the_design_runs_as_it_stands(registry):
    process = load_process(DESIGN, source="access.yaml", registry=registry)
    flow = FakeFlow(results={"validate-request": True, "provision-access": GRANT})

    result = run(process, flow)

    assert (process.name, process.version, process.kind) == ("access-request", 1, "declarative")
    assert [name for name, _, _ in flow.called] == [
        "validate-request",
        "provision-access",
        "notify-requester",
    ]
    assert list(flow.asked) == ["wait-for-manager-approval", "wait-for-security-review"]
    assert (result.outcome, result.decided_at_stage) == ("completed", None)
    assert result.results == {
        "validate-request": True,
        "provision-access": {"role": "reader", "since": "2026-03-02T09:00:00Z"},
        "notify-requester": None,
    }


def test_the_form_of_the_design_runs_on_the_real_kernel(registry):
    process = load_process(DESIGN, source="access.yaml", registry=registry)
    context = RunContext(UUID(int=1), process.name, 1, None, ANA.model_dump(), NOW)
    answers = {
        "validate-request": True,
        "provision-access": GRANT.model_dump(mode="json"),
        "notify-requester": None,
    }
    journal: list[Activity] = []
    while True:
        turn = take_turn(process, context, journal, [], registry=registry, perform_step=_no_steps)
        if turn.status is RunStatus.COMPLETED:
            break
        assert turn.error is None
        (opened,) = turn.opened
        request = opened.request
        decision = Decision(request.name, Outcome.APPROVED, by="mira", at=NOW)
        decided = json.loads(codec.encode(decision, what="decision"))
        result = decided if request.kind is ActivityKind.APPROVAL else answers[request.name]
        journal.append(
            Activity(
                request.key,
                request.scope,
                request.ordinal,
                request.kind,
                request.name,
                ActivityState.DONE,
                result=result,
                settled_at=NOW,
            )
        )
    assert [entry.key for entry in journal] == process.spec["stages"]
    result = codec.decode(json.loads(turn.output or ""), process.result_type, what="result")
    assert result.outcome == "completed"
    assert result.decisions["wait-for-manager-approval"].by == "mira"


def _no_steps(*_: Any) -> Activity:
    raise AssertionError("a declarative process has no steps")


def test_the_timers_are_the_defaults_of_every_approval(registry):
    flow = FakeFlow()
    run(load_process(DESIGN, registry=registry), flow)

    assert flow.asked["wait-for-manager-approval"] == {
        "assign": ["mira"],
        "escalate": {timedelta(hours=24): ("director",)},
        "timeout": timedelta(hours=48),
    }
    assert flow.asked["wait-for-security-review"] == {
        "assign": ["security"],
        "escalate": {},  # it names nobody to escalate to
        "timeout": timedelta(hours=48),
    }


def test_without_timers_an_approval_waits_for_ever(registry):
    flow = FakeFlow()
    text = under_process("name: a\nstages: [wait-for-manager-approval]")
    run(load_process(text, registry=registry), flow)
    assert flow.asked["wait-for-manager-approval"] == {
        "assign": ["mira"],
        "escalate": {},
        "timeout": None,
    }


def test_timers_may_be_fractions_of_hours(registry):
    flow = FakeFlow()
    text = under_process(
        "name: a\nstages: [wait-for-manager-approval]\ntimers: {approval_timeout_hours: 0.5}"
    )
    run(load_process(text, registry=registry), flow)
    assert flow.asked["wait-for-manager-approval"]["timeout"] == timedelta(minutes=30)


@pytest.mark.parametrize(
    ("outcome", "said"), [(Outcome.REJECTED, "rejected"), (Outcome.TIMED_OUT, "timed_out")]
)
def test_after_a_refusal_only_stages_that_always_run_still_run(registry, outcome, said):
    process = load_process(DESIGN, registry=registry)
    flow = FakeFlow(
        results={"validate-request": True}, outcomes={"wait-for-manager-approval": outcome}
    )

    result = run(process, flow)

    assert [name for name, _, _ in flow.called] == ["validate-request", "notify-requester"]
    assert list(flow.asked) == ["wait-for-manager-approval"]
    assert (result.outcome, result.decided_at_stage) == (said, "wait-for-manager-approval")
    assert list(result.results) == ["validate-request", "notify-requester"]


def test_each_stage_gets_the_input_and_what_its_parameters_name(registry):
    flow = FakeFlow(results={"validate-request": True, "provision-access": GRANT})
    result = run(load_process(DESIGN, registry=registry), flow)
    calls = {name: (args, kwargs) for name, args, kwargs in flow.called}

    assert calls["validate-request"] == ((ANA,), {})
    assert calls["notify-requester"] == (
        (ANA,),
        {
            "decision": result.decisions["wait-for-security-review"],
            "decisions": result.decisions,
            "validate_request": True,
            "provision_access": GRANT,
        },
    )


def test_a_parameter_keeps_its_default_when_the_stage_it_names_was_skipped(registry):
    flow = FakeFlow(outcomes={"wait-for-security-review": Outcome.REJECTED})
    run(load_process(DESIGN, registry=registry), flow)
    _, _, kwargs = flow.called[-1]
    assert "provision_access" not in kwargs
    assert kwargs["decision"].outcome is Outcome.REJECTED


def test_a_stage_that_always_runs_may_count_on_another_that_does(registry):
    flow = FakeFlow(
        results={"always-logs": "seen"}, outcomes={"wait-for-security-review": Outcome.REJECTED}
    )
    text = under_process(
        "name: a\nstages: [wait-for-security-review, always-logs, always-needs-log]"
    )
    run(load_process(text, registry=registry), flow)
    assert flow.called[-1] == ("always-needs-log", (ANA,), {"always_logs": "seen"})


def test_the_decision_is_none_before_anyone_was_asked(registry):
    flow = FakeFlow(results={"validate-request": True})
    text = under_process("name: a\nstages: [validate-request, notify-requester]")
    run(load_process(text, registry=registry), flow)
    _, _, kwargs = flow.called[-1]
    assert kwargs == {"decision": None, "decisions": {}, "validate_request": True}


def test_a_stage_without_parameters_is_called_without_the_input(registry):
    flow = FakeFlow()
    process = load_process(under_process("name: a\nstages: [tick]"), registry=registry)
    run(process, flow)
    assert flow.called == [("tick", (), {})]
    assert not process.takes_input


def test_the_result_survives_the_record(registry):
    flow = FakeFlow(results={"validate-request": True, "provision-access": GRANT})
    process = load_process(DESIGN, registry=registry)
    result = run(process, flow)
    text = codec.encode(result, process.result_type, what="result")
    assert codec.decode(json.loads(text), process.result_type, what="result") == result


# -- the process that is made --------------------------------------------------------------------


def test_the_input_type_is_that_of_the_first_entry_that_says_one(registry):
    assert load_process(DESIGN, registry=registry).input_type is AccessRequest
    approvals = under_process("name: a\nstages: [tick, wait-for-security-review]")
    assert load_process(approvals, registry=registry).input_type is AccessRequest
    assert (
        load_process(under_process("name: a\nstages: [tick]"), registry=registry).input_type is Any
    )


def test_version_queue_and_expiry_reach_the_process(registry):
    text = under_process(
        "name: a\nversion: 3\nstages: [tick]\nqueue: IAM.high\nexpires_after_hours: 1.5"
    )
    process = load_process(text, registry=registry)
    assert (process.version, process.queue, process.expires_after_seconds) == (3, "IAM.high", 5400)


def test_a_worker_makes_the_same_process_of_the_deployed_spec(registry):
    text = DESIGN + "  queue: iam\n  expires_after_hours: 720\n"
    loaded = load_process(text, registry=registry)
    through_the_record = json.loads(json.dumps(loaded.spec))

    made = process_from_spec(through_the_record, name=loaded.name, version=1, registry=registry)

    assert replace(made, flow=loaded.flow, where=loaded.where) == loaded
    assert made.fingerprint == loaded.fingerprint
    flow = FakeFlow(results={"validate-request": True, "provision-access": GRANT})
    assert run(made, flow).outcome == "completed"


def test_the_spec_says_only_what_differs_from_the_defaults(registry):
    text = under_process("name: a\nversion: 1\nstages: [tick]\ntimers: {}")
    assert load_process(text, registry=registry).spec == {"stages": ["tick"]}


@pytest.mark.parametrize("missing", ["validate-request", "wait-for-manager-approval"])
def test_a_worker_without_a_stage_or_approval_leaves_the_run(registry, missing):
    spec = load_process(DESIGN, registry=registry).spec
    lacking = Registry()
    lacking.stages = {name: known for name, known in registry.stages.items() if name != missing}
    lacking.approvals = {
        name: known for name, known in registry.approvals.items() if name != missing
    }
    with pytest.raises(UnknownStage, match=missing):
        process_from_spec(spec, name="access-request", version=1, registry=lacking)


def test_a_worker_too_old_for_a_spec_says_it_does_not_know_the_process(registry):
    spec = {"stages": ["tick"], "weather": "fair"}
    with pytest.raises(UnknownProcess, match=r"process a version 1 .*: weather: Extra .* Upgrade"):
        process_from_spec(spec, name="a", version=1, registry=registry)


def test_stages_that_no_longer_fit_a_deployed_spec_are_refused_with_its_name(registry):
    with pytest.raises(DefinitionError) as caught:
        process_from_spec({"stages": ["needs-grant"]}, name="a", version=7, registry=registry)
    assert caught.value.where == "process a version 7"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param("# why\n\n" + DESIGN.replace("  name", "  # who\n  name"), id="comments"),
        pytest.param(
            """\
            process:
              timers:
                escalation_after_hours: 24.0
                approval_timeout_hours: 4.8e1
              version: 1
              stages:
                - validate-request
                - "wait-for-manager-approval"
                - 'wait-for-security-review'
                - provision-access
                - notify-requester
              name: access-request
            """,
            id="block style, order and defaults",
        ),
        pytest.param("\ufeff" + DESIGN.replace("\n", "\r\n"), id="a file from Windows"),
        pytest.param(
            DESIGN.replace("48", "&hours 48") + "# *hours",
            id="an anchor",
        ),
    ],
)
def test_the_same_meaning_in_another_form_has_the_same_fingerprint(registry, other):
    first = load_process(DESIGN, registry=registry)
    assert load_process(dedent(other), registry=registry).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("48", "49"),
        ("escalation_after_hours: 24", ""),
        (", provision-access", ""),
        (
            "wait-for-manager-approval, wait-for-security-review",
            "wait-for-security-review, wait-for-manager-approval",
        ),
        ("name: access-request", "name: access-requests"),
        ("name: access-request", "name: access-request\n  version: 2"),
        ("name: access-request", "name: access-request\n  queue: iam"),
        ("name: access-request", "name: access-request\n  expires_after_hours: 1"),
    ],
)
def test_another_meaning_has_another_fingerprint(registry, old, new):
    changed = DESIGN.replace(old, new)
    assert changed != DESIGN
    first = load_process(DESIGN, registry=registry)
    assert load_process(changed, registry=registry).fingerprint != first.fingerprint


# -- refusals ------------------------------------------------------------------------------------

OK = "name: a\nstages: [validate-request, wait-for-manager-approval]"

REFUSALS: dict[str, tuple[str, int, str, str]] = {
    # what is wrong: (text, line, part of the problem, part of the remedy)
    "an unclosed list": ("process:\n  stages: [a\n  name: b\n", 3, "not YAML", "close brackets"),
    "a tab as indent": ("process:\n\tname: a\n", 2, "not YAML", "indent with spaces"),
    "a colon in plain text": ("process:\n  name: a: b\n", 2, "not YAML", "quote text"),
    "a control character": ("process:\n  name: a\x00\n", 2, "U+0000", "Mend it"),
    "an escape beyond Unicode": ('a: "\\UFFFFFFFF"', 1, "not YAML", "Mend it"),
    "a version of YAML beyond any": (f"%YAML {'9' * 5000}.1\n---\na", 1, "not YAML", "Mend it"),
    "a key twice": ("process:\n  name: a\n  name: b\n", 3, "first on line 2", "Keep one"),
    "a key that is a list": ("process:\n  [name]: a\n", 2, "a key is a list", "plain word"),
    "a tag": ("process:\n  name: !!python/name:os.system a\n", 2, "python/name", "Take it away"),
    "an alias of nothing": ("process:\n  name: *who\n", 2, "*who", "&who"),
    "an alias of itself": ("process: &p\n  name: *p\n", 2, "*p", "&p"),
    "two documents": (under_process(OK) + "---\n", 4, "second document", "own file"),
    "too many characters": ("#" * 262_145, 1, "the bound is 262144", "Split it"),
    "too many values": (
        "process: [" + "a, " * 10_000 + "]",
        1,
        "more than 10000 values",
        "Split it",
    ),
    "too deep": ("\n" + "[" * 50, 2, "deeper than 32 levels", "Flatten it"),
    "an empty file": ("", 1, "declares no process", "Write `process:`"),
    "only comments": ("# nothing\n", 1, "declares no process", "Write `process:`"),
    "a list": ("\n- process\n", 2, "declares no process", "Write `process:`"),
    "an empty process": ("\nprocess:\n", 2, "`process` can't be nothing", "Write `process:`"),
    "a process that is a word": ("process: x\n", 1, "`process` can't be 'x'", "Write `process:`"),
    "no process": ("\n\nproces:\n  name: a\n", 3, "unknown key 'proces'", "Did you mean 'process'"),
    "no name": (under_process("stages: [tick]"), 1, "`process.name` is missing", "such as `name: "),
    "a name left blank": (
        under_process("name:\nstages: [tick]"),
        2,
        "`process.name` can't be nothing",
        "`name: ",
    ),
    "an empty name": (under_process("name: ''\nstages: [tick]"), 2, "''", "Use lower-case letters"),
    "a name in capitals": (
        under_process("stages: [tick]\nname: NO"),
        3,
        "name 'NO' is not allowed",
        "lower-case",
    ),
    "a name that is a number": (
        under_process("name: 5\nstages: [tick]"),
        2,
        "`process.name` can't be 5",
        "such as `name: ",
    ),
    "no stages": (under_process("name: a"), 1, "`process.stages` is missing", "`stages: ["),
    "stages left blank": (
        under_process("name: a\nstages:"),
        3,
        "`process.stages` can't be nothing",
        "`stages: [",
    ),
    "an empty list of stages": (
        under_process("name: a\nstages: []"),
        3,
        "`process.stages` can't be []",
        "`stages: [",
    ),
    "stages that are a word": (
        under_process("name: a\nstages: tick"),
        3,
        "`process.stages` can't be 'tick'",
        "a list",
    ),
    "a stage that is no name": (
        under_process("name: a\nstages:\n- tick\n- {run: tick}"),
        5,
        "`process.stages[1]` can't be {'run': 'tick'}",
        "a list of registered stages",
    ),
    "more stages than fit": (
        under_process(f"name: a\nstages: [{'tick, ' * 1001}]"),
        3,
        "can't be ['tick'",
        "at most 1000",
    ),
    "a stage twice": (
        under_process("name: a\nstages:\n- tick\n- validate-request\n- tick"),
        6,
        "'tick' stands in `stages` twice",
        "Keep one",
    ),
    "a stage nobody registered": (
        under_process("name: a\nstages:\n- tick\n- validate-requests"),
        5,
        "no stage or approval 'validate-requests' is registered",
        (
            "Did you mean 'validate-request'? Or define it with @stage(name='validate-requests') "
            "or @approval('validate-requests'), and import that module first. Known: "
        ),
    ),
    "a name like no other": (
        under_process("name: a\nstages: [zzz]"),
        3,
        "'zzz'",
        "Or define it with @stage(name='zzz')",
    ),
    "a stage that is an approval too": (
        under_process("name: a\nstages:\n- tick\n- sign"),
        5,
        "both a stage",
        "Rename one",
    ),
    "stages that differ in punctuation": (
        under_process("name: a\nstages: [provision-access,\nprovision.access]"),
        4,
        "differ in punctuation alone",
        "Rename one",
    ),
    "an unknown key": (
        under_process(OK + "\ntimer: {}"),
        4,
        "unknown key 'timer'",
        "Did you mean 'timers'",
    ),
    "a key like no other": (
        under_process(OK + "\nzzz: 1"),
        4,
        "unknown key 'zzz'",
        "Known here: stages, timers, calendar, queue",
    ),
    "an unknown timer": (
        under_process(OK + "\ntimers:\n  approval_timeout_hour: 1"),
        5,
        "unknown key 'approval_timeout_hour'",
        "Did you mean 'approval_timeout_hours'",
    ),
    "a timer outside of timers": (
        under_process(OK + "\napproval_timeout_hours: 1"),
        4,
        "unknown key 'approval_timeout_hours'",
        "Indent it to stand under `process.timers`",
    ),
    "a process inside of a process": (
        under_process(OK + "\nprocess: {}"),
        4,
        "unknown key 'process'",
        "left margin",
    ),
    "a merge key, which YAML 1.2 has not": (
        under_process(OK + "\n<<: {}"),
        4,
        "unknown key '<<'",
        "Known here",
    ),
    "a duration that is none": (
        under_process(OK + "\ntimers:\n  timeout: soon"),
        5,
        "'soon' is no duration",
        "2 business days",
    ),
    "working time without a calendar": (
        under_process(OK + "\ntimers:\n  timeout: 2 business days"),
        5,
        "no calendar says when 2 business days are over",
        "calendar: {zone: Europe/Amsterdam, holidays: NL}",
    ),
    "a calendar for nothing": (
        under_process(OK + "\ntimers: {timeout: 48h}\ncalendar: {zone: UTC}"),
        5,
        "`calendar` counts for nothing",
        "or take `calendar` away",
    ),
    "a calendar of no place": (
        under_process(
            OK + "\ntimers: {timeout: 2 business days}\ncalendar: {zone: UTC, holidays: XX}"
        ),
        5,
        "no holidays are known of 'XX'",
        "ISO 3166",
    ),
    "a timeout said twice": (
        under_process(OK + "\ntimers: {timeout: 48h, approval_timeout_hours: 48}"),
        4,
        "say one thing twice",
        "Keep one",
    ),
    "an escalation after the working days are over": (
        under_process(
            OK + "\ntimers:\n  timeout: 1 business day\n  escalation: 2 business days"
            "\ncalendar: {zone: UTC}"
        ),
        6,
        "it escalates after 2 business days but times out after 1 business day",
        "Escalate earlier",
    ),
    "timers left blank": (
        under_process(OK + "\ntimers:"),
        4,
        "`process.timers` can't be nothing",
        "hours by name",
    ),
    "a timer left blank": (
        under_process(OK + "\ntimers:\n  approval_timeout_hours:"),
        5,
        "can't be nothing",
        "hours above 0",
    ),
    "a timeout for no approval": (
        under_process("name: a\nstages: [tick]\ntimers: {approval_timeout_hours: 1}"),
        4,
        "`timers` are for approvals",
        "Register what waits for people with @approval",
    ),
    "nobody to escalate to": (
        under_process(
            "name: a\nstages: [wait-for-security-review]\ntimers:\n  escalation_after_hours: 1"
        ),
        5,
        "nobody to escalate to",
        "escalate_to=['director']",
    ),
    "a version of 0": (under_process(OK + "\nversion: 0"), 4, "can't be 0", "whole number from 1"),
    "half a version": (
        under_process(OK + "\nversion: 1.5"),
        4,
        "can't be 1.5",
        "whole number from 1",
    ),
    "a version in words": (
        under_process(OK + "\nversion: 'two'"),
        4,
        "'two'",
        "whole number from 1",
    ),
    "a version of yes": (under_process(OK + "\nversion: true"), 4, "True", "whole number from 1"),
    "a queue with a space": (under_process(OK + "\nqueue: a b"), 4, "'a b'", "Celery queue"),
    "no time to run in": (
        under_process(OK + "\nexpires_after_hours: 0"),
        4,
        "can't be 0",
        "`expires_after_hours: 720`",
    ),
    "an argument from a later stage": (
        under_process("name: a\nstages:\n- needs-grant\n- provision-access"),
        4,
        "stage 'needs-grant' needs 'provision_access', and no stage before it is called so",
        "It can have: decision, decisions. Or give 'provision_access' a default",
    ),
    "an argument that a refusal skips": (
        under_process(
            "name: a\nstages:\n- wait-for-security-review\n- provision-access\n- always-needs-grant"
        ),
        6,
        "stage 'always-needs-grant' always runs, but 'provision_access' is missing",
        "Give it a default",
    ),
    "a stage called as a parameter is": (
        under_process("name: a\nstages: [decision]"),
        3,
        "no stage can be called 'decision'",
        "Rename it",
    ),
    "an input by keyword": (
        under_process("name: a\nstages: [by-keyword]"),
        3,
        "by keyword only",
        "Take away the `*`",
    ),
    "two input types": (
        under_process("name: a\nstages: [tick, validate-request,\nvalidate-other]"),
        4,
        "'validate-other' takes Grant as its input, but 'validate-request' takes AccessRequest",
        "one type",
    ),
}


@pytest.mark.parametrize("wrong", REFUSALS)
def test_a_refusal_says_where_and_what_to_do(registry, wrong):
    text, line, problem, remedy = REFUSALS[wrong]
    error = refused(text, registry)
    assert error.where == f"access.yaml:{line}"
    assert problem in error.problem
    assert remedy in error.remedy


@pytest.mark.parametrize("key", ["approval_timeout_hours", "escalation_after_hours"])
@pytest.mark.parametrize(
    "value", ["soon", "'48'", "48h", "9:30", "1_000", "-1", "0", "1e-9", ".inf", ".nan", "1e400",
              "9" * 5000, "876001", "true", "[1]", "{}", "2026-03-02"]
)  # fmt: skip
def test_a_timer_is_a_number_of_hours_within_bounds(registry, key, value):
    error = refused(under_process(f"{OK}\ntimers:\n  # hours\n  {key}: {value}"), registry)
    assert error.where == "access.yaml:6"
    assert f"`process.timers.{key}` can't be " in error.problem
    assert error.remedy == f"Write hours above 0 and up to 100 years, such as `{key}: " + (
        "48` or 0.5." if key == "approval_timeout_hours" else "24` or 0.5."
    )


@pytest.mark.parametrize("after", [48, 48.0, 49])
def test_an_escalation_at_or_after_the_timeout_is_refused(registry, after):
    error = refused(DESIGN.replace("hours: 24", f"hours: {after}"), registry)
    assert error.where == "access.yaml:4"
    assert "nobody would ever be asked" in error.problem
    assert error.remedy == "Escalate earlier or time out later."


def test_an_escalation_needs_no_timeout(registry):
    load_process(DESIGN.replace("approval_timeout_hours: 48, ", ""), registry=registry)


def test_an_empty_registry_says_that_nothing_was_imported():
    error = refused(DESIGN, Registry())
    assert error.remedy.endswith("Known: none; nothing was imported that defines any")


def test_a_long_registry_is_not_listed_whole():
    known = Registry()
    for number in range(25):
        stage(name=f"s{number:02}", registry=known)(lambda: None)
    assert refused(DESIGN, known).remedy.endswith("s18, s19 and 5 more")


def test_all_problems_of_a_file_are_told_at_once_misspelt_keys_first(registry):
    error = refused("process:\n  nam: a\n  stages: []\n  version: 0\n", registry)
    assert str(error).startswith("access.yaml:2: unknown key 'nam'. Did you mean 'name'?")
    assert [note.partition(". ")[0] for note in error.__notes__] == [
        "also access.yaml:3: `process.stages` can't be []",
        "also access.yaml:1: `process.name` is missing",
        "also access.yaml:4: `process.version` can't be 0",
    ]
    unbound = refused(under_process("name: a\nstages:\n- nope\n- tick\n- nada"), registry)
    assert (unbound.where, len(unbound.__notes__)) == ("access.yaml:4", 1)
    assert unbound.__notes__[0].startswith("also access.yaml:6: no stage or approval 'nada'")


# -- reading YAML --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NO", "NO"), ("yes", "yes"), ("9:30", "9:30"), ("2026-03-02", "2026-03-02"),
        ("1_000", "1_000"), ("010", 10), ("0o10", 8), ("0x1F", 31), ("-3", -3), ("1.", 1.0),
        (".5", 0.5), ("1e3", 1000.0), ("-.inf", float("-inf")), ("true", True), ("False", False),
        ("~", None), ("", None), ("'5'", "5"), ('"true"', "true"), ("=", "="),
    ],
)  # fmt: skip
@pytest.mark.parametrize("head", ["", "%YAML 1.1\n---\n"])
def test_scalars_mean_what_yaml_1_2_says_whatever_the_file_claims(head, text, value):
    read = declarative_source.read_yaml(f"{head}on: {text}\n", source="a.yaml")
    assert read.value == {"on": value}
    assert type(read.value["on"]) is type(value)


def test_an_alias_means_what_its_anchor_does_and_stands_on_its_own_line():
    read = declarative_source.read_yaml("a: &x\n  - 1\n  - {b: 2}\nc: *x\n", source="a.yaml")
    assert read.value["c"] == [1, {"b": 2}]
    assert read.where(("a", 1, "b")) == "a.yaml:3"
    assert read.where(("c", 1, "b")) == "a.yaml:4"


def test_aliases_that_multiply_are_stopped_at_the_bound():
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    with pytest.raises(DefinitionError, match=r"a\.yaml:4: the file holds more than 10000 values"):
        declarative_source.read_yaml(bomb, source="a.yaml")


# -- properties ----------------------------------------------------------------------------------

_words = st.sampled_from(
    ["process", "name", "stages", "timers", "version", "queue", "tick", "sign", "decision", "NO",
     "approval_timeout_hours", "escalation_after_hours", "wait-for-manager-approval", "*a", "&a",
     "!!int", "!x", "|", ">", "%YAML 1.1", "---", "...", "- ", ": ", "? ", "[", "]", "{", "}", ",",
     "#", "\n", "\n  ", "\n    ", "\t", "'", '"', "\\", "\\x", "\\U99999999", "\\ud800", "48", "-1",
     ".nan", "~", "<<", "\ufeff", "\x85", "\u2028"]
)  # fmt: skip
_yamlish = st.lists(_words | st.text(max_size=3), max_size=40).map("".join)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | _words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words, inner, max_size=4),
    max_leaves=12,
)
_mutated = st.tuples(st.integers(0, len(DESIGN)), st.integers(0, 6), _yamlish).map(
    lambda cut: DESIGN[: cut[0]] + cut[2] + DESIGN[cut[0] + cut[1] :]
)


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(st.text(), id="any text"),
        pytest.param(st.text(st.characters(codec=None)), id="with surrogates"),
        pytest.param(_yamlish, id="what looks like YAML"),
        pytest.param(_mutated, id="a good file with a slip"),
        pytest.param(_values.map(json.dumps), id="any JSON"),
        pytest.param(
            _values.map(lambda value: json.dumps({"process": value})), id="any JSON as a process"
        ),
    ],
)
def test_no_text_raises_anything_but_a_definition_error(registry, texts):
    refusals: list[DefinitionError] = []

    @given(texts)
    def check(text: str) -> None:
        try:
            process = load_process(text, source="a.yaml", registry=registry)
        except DefinitionError as error:
            refusals.append(error)
        else:
            again = process_from_spec(
                json.loads(json.dumps(process.spec)),
                name=process.name,
                version=process.version,
                registry=registry,
            )
            assert again.fingerprint == process.fingerprint

    check()
    assert all(error.where.startswith("a.yaml:") and error.remedy for error in refusals)


@given(
    timeout=st.floats(declarative_grammar.HOURS_MIN, declarative_grammar.HOURS_MAX) | st.none(),
    escalation=st.floats(declarative_grammar.HOURS_MIN, declarative_grammar.HOURS_MAX) | st.none(),
)
def test_timers_that_load_are_timers_an_approval_takes(timeout, escalation):
    """Whatever passes at deploy must never be refused in a running process."""
    from orchestrator.core.approval_requests import request_approval

    known = Registry()
    approval("ok", escalate_to=["director"], registry=known)(lambda _: ["mira"])
    timers = {"approval_timeout_hours": timeout, "escalation_after_hours": escalation}
    said = {name: hours for name, hours in timers.items() if hours is not None}
    text = json.dumps({"process": {"name": "a", "stages": ["ok"], "timers": said}})
    try:
        process = load_process(text, registry=known)
    except DefinitionError:
        assert timeout is not None
        assert escalation is not None
        assert timedelta(hours=escalation) >= timedelta(hours=timeout)
        return
    flow = FakeFlow()
    run(process, flow)
    request_approval("ok", **flow.asked["ok"])
