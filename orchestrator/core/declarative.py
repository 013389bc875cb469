"""Declarative processes: YAML that one generic flow runs, over the same kernel as any other flow.

    process:
      name: access-request
      stages: [validate-request, wait-for-manager-approval, provision-access, notify-requester]
      timers: {approval_timeout_hours: 48, escalation_after_hours: 24}

Optional: `version` (1), `queue`, `expires_after_hours`. Each name in `stages` is a registered
stage or approval. `load_process` reads text: declarative_source.py gives values their lines,
declarative_grammar.py their shape, declarative_binding.py their meaning. What is deployed is the
spec; `process_from_spec` makes the process of it again, wherever its stages are registered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.core.approvals import Decision, Outcome
from orchestrator.core.codec import encode
from orchestrator.core.declarative_binding import (
    Entry,
    arguments_of,
    contradictions,
    find_entry,
    input_type_of,
    takes_input,
    unknown_entry,
)
from orchestrator.core.declarative_grammar import DeclarativeSpec, Timers, read_grammar, refuse
from orchestrator.core.definition import Approval, Process, Registry, Stage, default_registry
from orchestrator.core.flow import Flow, Pending
from orchestrator.errors import DefinitionError, UnknownProcess, UnknownStage


class DeclarativeResult(BaseModel):
    """What came of a declarative process.

    `decided_at_stage` names the approval that was refused or timed out. `results` are plain JSON,
    by stage; `decisions` by approval. Both hold only what was reached, in order.
    """

    model_config = ConfigDict(frozen=True)

    outcome: Literal["completed", "rejected", "timed_out"]
    decided_at_stage: str | None = None
    results: dict[str, Any]
    decisions: dict[str, Decision]


def load_process(
    text: str, *, source: str = "<yaml>", registry: Registry = default_registry
) -> Process:
    """The process that a YAML text declares, its names bound to what `registry` holds.

    `source` is the file's name for messages. Raises DefinitionError, with `source:line` and what to
    do about it; further problems of the file are its notes.
    """
    declared, read = read_grammar(text, source=source)
    entries: list[Entry] = []
    unbound: list[DefinitionError] = []
    for index, name in enumerate(declared.stages):
        where = read.where(("process", "stages", index))
        try:
            entries.append(find_entry(name, registry, where=where))
        except UnknownStage:
            unbound.append(unknown_entry(name, registry, where=where))
        except DefinitionError as error:
            unbound.append(error)
    refuse(unbound)
    refuse(contradictions(declared, entries, read.where))
    return _process(declared, entries, name=declared.name, version=declared.version, where=source)


def process_from_spec(
    spec: dict[str, Any], *, name: str, version: int, registry: Registry, where: str = ""
) -> Process:
    """The deployed process again, of its spec.

    Raises UnknownStage where this worker lacks a stage or approval, and UnknownProcess where it is
    too old to read the spec: another worker may have or know it. Raises DefinitionError where the
    stages registered here don't fit together.
    """
    place = where or f"process {name} version {version}"
    try:
        parsed = DeclarativeSpec.model_validate(spec)
    except ValidationError as error:
        reasons = (f"{each['loc'][0]}: {each['msg']}" for each in error.errors() if each["loc"])
        message = (
            f"{place} can't be read here: {'; '.join(reasons)}. "
            "A newer release may have deployed it. Upgrade this worker."
        )
        raise UnknownProcess(message) from None
    entries = [find_entry(entry, registry, where=place) for entry in parsed.stages]
    refuse(contradictions(parsed, entries, lambda _: place))
    return _process(parsed, entries, name=name, version=version, where=place)


def _process(
    spec: DeclarativeSpec, entries: Sequence[Entry], *, name: str, version: int, where: str
) -> Process:
    expires_after = spec.expires_after
    return Process(
        name=name,
        version=version,
        flow=_flow_over(entries, spec.timers),
        kind="declarative",
        input_type=input_type_of(entries),
        result_type=DeclarativeResult,
        takes_input=any(takes_input(entry) for entry in entries),
        queue=spec.queue,
        expires_after_seconds=expires_after.total_seconds() if expires_after else None,
        spec=spec.as_spec(),
        where=where,
    )


def _flow_over(
    entries: Sequence[Entry], timers: Timers
) -> Callable[..., Coroutine[Any, Any, DeclarativeResult]]:
    async def declarative(flow: Flow, value: Any = None) -> DeclarativeResult:
        results: dict[str, Any] = {}
        decisions: dict[str, Decision] = {}
        refusal: Decision | None = None
        for entry in entries:
            if refusal is not None and not _runs_after_refusal(entry):
                continue
            if isinstance(entry, Approval):
                decision = await _ask(flow, entry, value, timers)
                decisions[entry.name] = decision
                refusal = None if decision.approved else decision
            else:
                inputs = (value,) if takes_input(entry) else ()
                arguments = arguments_of(entry, results, decisions)
                results[entry.name] = await flow.stage(entry, *inputs, **arguments)
        return _result(entries, results, decisions, refusal)

    return declarative


def _runs_after_refusal(entry: Entry) -> bool:
    return isinstance(entry, Stage) and entry.always


def _ask(flow: Flow, approval: Approval, value: Any, timers: Timers) -> Pending[Decision]:
    escalate: dict[timedelta, tuple[str, ...]] = {}
    if timers.escalation_after is not None and approval.escalate_to:
        escalate[timers.escalation_after] = approval.escalate_to
    return flow.approval(
        approval.name, assign=approval(value), escalate=escalate, timeout=timers.approval_timeout
    )


def _result(
    entries: Sequence[Entry],
    results: dict[str, Any],
    decisions: dict[str, Decision],
    refusal: Decision | None,
) -> DeclarativeResult:
    timed_out = refusal is not None and refusal.outcome is Outcome.TIMED_OUT
    plain = {
        entry.name: json.loads(
            encode(results[entry.name], entry.result_type, what=f"result of {entry.name}")
        )
        for entry in entries
        if isinstance(entry, Stage) and entry.name in results
    }
    return DeclarativeResult(
        outcome="completed" if refusal is None else "timed_out" if timed_out else "rejected",
        decided_at_stage=None if refusal is None else refusal.approval,
        results=plain,
        decisions=decisions,
    )
