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
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.core.approvals import Decision, Outcome
from orchestrator.core.calendars import Clock
from orchestrator.core.codec import encode
from orchestrator.core.declarative_binding import (
    Bound,
    contradictions,
    find_entry,
    input_type_of,
    takes_input,
    unknown_entry,
)
from orchestrator.core.declarative_grammar import DeclarativeSpec, read_grammar, refuse
from orchestrator.core.definition import Process, Registry, Stage, default_registry
from orchestrator.core.flow import Flow
from orchestrator.core.kinds.base import SoFar
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
    entries: list[Bound] = []
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
    spec: DeclarativeSpec, entries: Sequence[Bound], *, name: str, version: int, where: str
) -> Process:
    expires_after = spec.expires_after
    return Process(
        name=name,
        version=version,
        flow=_flow_over(entries, spec),
        kind="declarative",
        input_type=input_type_of([each.entry for each in entries]),
        result_type=DeclarativeResult,
        takes_input=any(takes_input(each.entry) for each in entries),
        queue=spec.queue,
        expires_after_seconds=expires_after.total_seconds() if expires_after else None,
        spec=spec.as_spec(),
        where=where,
    )


def _flow_over(
    entries: Sequence[Bound], spec: DeclarativeSpec
) -> Callable[..., Coroutine[Any, Any, DeclarativeResult]]:
    timeout, escalation = spec.timers.approval_timeout, spec.timers.escalation_after
    calendar = None if spec.calendar is None else spec.calendar.calendar

    async def declarative(flow: Flow, value: Any = None) -> DeclarativeResult:
        results: dict[str, Any] = {}
        plain: dict[str, Any] = {}
        decisions: dict[str, Decision] = {}
        refusal: Decision | None = None
        for name, kind, entry in entries:
            if refusal is not None and not (isinstance(entry, Stage) and entry.always):
                continue
            clock = None if calendar is None else Clock(flow.now, calendar)
            so_far = SoFar(value, results, decisions, timeout, escalation, clock)
            ask = kind.of_entry(entry, so_far)
            answer = await flow.ask(ask, name)
            if isinstance(answer, Decision):
                decisions[name] = answer
                refusal = None if answer.approved else answer
            else:
                results[name] = answer
                plain[name] = json.loads(encode(answer, ask.result_type, what=f"result of {name}"))
        return _result(plain, decisions, refusal)

    return declarative


def _result(
    results: dict[str, Any], decisions: dict[str, Decision], refusal: Decision | None
) -> DeclarativeResult:
    timed_out = refusal is not None and refusal.outcome is Outcome.TIMED_OUT
    return DeclarativeResult(
        outcome="completed" if refusal is None else "timed_out" if timed_out else "rejected",
        decided_at_stage=None if refusal is None else refusal.approval,
        results=results,
        decisions=decisions,
    )
