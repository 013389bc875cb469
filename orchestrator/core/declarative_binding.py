"""The names of a declarative process, bound to what is registered; and every reason they can't be.

How a stage gets its arguments: its first parameter is the run's input. A further one named like an
earlier stage (`provision_access` for `provision-access`) gets that stage's result; `decision` gets
the latest Decision, or None; `decisions` all of them by approval. Any other must have a default.
So must one that names a stage which a refusal skips, when its own stage runs `always`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

from orchestrator.core.declarative_grammar import DeclarativeSpec, did_you_mean
from orchestrator.core.declarative_source import YamlPath
from orchestrator.core.declarative_timers import WhereOf, timer_problems
from orchestrator.core.definition import Approval, Registry, Stage
from orchestrator.core.kinds import KINDS, Ask, AskPeople, StageCall
from orchestrator.core.kinds.stage import parameter_of
from orchestrator.errors import DefinitionError, UnknownStage

Entry = Stage[..., Any] | Approval | Any
"""What a kind has in the registry under that name (`Ask.entries_in`)."""

_DECISIONS = ("decision", "decisions")
_TAKEN = (*_DECISIONS, "key")  # `key` is flow.stage's own argument
_LISTED_MAX = 20

_STAGES: YamlPath = ("process", "stages")


class Bound(NamedTuple):
    """A name of `stages`, the kind that has it, and what that kind has under it."""

    name: str
    kind: type[Ask]
    entry: Entry


def find_entry(name: str, registry: Registry, *, where: str) -> Bound:
    """What that name means. Raises UnknownStage, or DefinitionError if it means two things."""
    found = [Bound(name, kind, names[name]) for kind, names in _names(registry) if name in names]
    if not found:
        raise UnknownStage(
            f"no {_words(registry)} {name!r} is registered here; known: {_known(registry)}"
        )
    if len(found) > 1:
        first, second = (f"{_a(each.kind)} ({_place(each.entry)})" for each in found[:2])
        raise DefinitionError(
            f"{name!r} is both {first} and {second}", where=where, remedy="Rename one of them."
        )
    return found[0]


def _a(kind: type[Ask]) -> str:
    return f"{'an' if kind.kind[0] in 'aeiou' else 'a'} {kind.kind}"


def _place(entry: Entry) -> str:
    return str(getattr(entry, "where", "") or "registered")


def _names(registry: Registry) -> list[tuple[type[Ask], Mapping[str, Any]]]:
    """Of each kind that YAML can name."""
    return [(kind, names) for kind in KINDS.values() if (names := kind.entries_in(registry))]


def _words(registry: Registry) -> str:
    """`stage or approval`, and any other kind that has entries."""
    others = [kind.kind for kind, _ in _names(registry)]
    return " or ".join(dict.fromkeys([StageCall.kind, AskPeople.kind, *others]))


def unknown_entry(name: str, registry: Registry, *, where: str) -> DefinitionError:
    """The refusal of a name that nothing is registered under."""
    suggestion = did_you_mean(name, [each for _, names in _names(registry) for each in names])
    return DefinitionError(
        f"no {_words(registry)} {name!r} is registered",
        where=where,
        remedy=f"{suggestion}Or define it with @stage(name={name!r}) or @approval({name!r}), "
        f"and import that module first. Known: {_known(registry)}",
    )


def contradictions(
    spec: DeclarativeSpec, bound: Sequence[Bound], where_of: WhereOf
) -> Iterator[DefinitionError]:
    """Everything that keeps these entries from running as this spec says."""
    entries = [each.entry for each in bound]
    yield from _clashes(bound, where_of)
    approvals = [entry for entry in entries if isinstance(entry, Approval)]
    yield from timer_problems(spec, approvals, where_of)
    yield from _missing_arguments(entries, where_of)
    yield from _input_conflicts(entries, where_of)


def input_type_of(entries: Sequence[Entry]) -> Any:
    """What the first entry that says it takes as input; Any where none says."""
    return next((declared for _, _, declared in _declared_inputs(entries)), Any)


def takes_input(entry: Entry) -> bool:
    """Whether it has a parameter for the run's input."""
    return not isinstance(entry, Stage) or bool(entry.parameters)


def _clashes(bound: Sequence[Bound], where_of: WhereOf) -> Iterator[DefinitionError]:
    """Names are journal keys, and parameters too: both must be unique."""
    names: dict[str, str] = {}
    for index, (name, _, entry) in enumerate(bound):
        parameter, where = parameter_of(name), where_of((*_STAGES, index))
        if isinstance(entry, Stage) and parameter in _TAKEN:
            yield DefinitionError(
                f"no stage can be called {name!r} here: that parameter means something else",
                where=where,
                remedy=f"Rename it in {entry.where}; {', '.join(_TAKEN)} are taken.",
            )
        other = names.get(parameter)
        if other == name:
            yield DefinitionError(
                f"{name!r} stands in `stages` twice",
                where=where,
                remedy="Keep one; to do the same work again, register it under a second name.",
            )
        elif other is not None:
            yield DefinitionError(
                f"{other!r} and {name!r} differ in punctuation alone",
                where=where,
                remedy="Rename one of them.",
            )
        names[parameter] = name


def _missing_arguments(entries: Sequence[Entry], where_of: WhereOf) -> Iterator[DefinitionError]:
    sure: list[str] = []  # results that are there whenever a later stage runs
    skippable: list[str] = []  # results that are missing once an approval was refused
    can_be_refused = False
    for index, entry in enumerate(entries):
        if isinstance(entry, Approval):
            can_be_refused = True
        if not isinstance(entry, Stage):
            continue
        where = where_of((*_STAGES, index))
        parameters = list(inspect.signature(entry.function).parameters.values())
        if parameters and parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
            yield DefinitionError(
                f"stage {entry.name!r} takes its input, {parameters[0].name!r}, by keyword only",
                where=where,
                remedy=f"Take away the `*` in {entry.where}.",
            )
        for parameter in parameters[1:]:
            if parameter.default is not parameter.empty or parameter.name in (*_DECISIONS, *sure):
                continue
            if parameter.name not in skippable:
                yield _no_such_argument(entry, parameter.name, [*sure, *skippable], where)
            elif entry.always:
                yield DefinitionError(
                    f"stage {entry.name!r} always runs, but {parameter.name!r} is missing "
                    "once an approval was refused",
                    where=where,
                    remedy=f"Give it a default, such as None, in {entry.where}.",
                )
        is_skippable = can_be_refused and not entry.always
        (skippable if is_skippable else sure).append(parameter_of(entry.name))


def _no_such_argument(
    stage: Stage[..., Any], parameter: str, given: Sequence[str], where: str
) -> DefinitionError:
    return DefinitionError(
        f"stage {stage.name!r} needs {parameter!r}, and no stage before it is called so",
        where=where,
        remedy=f"{did_you_mean(parameter, given)}It can have: {', '.join([*given, *_DECISIONS])}. "
        f"Or give {parameter!r} a default in {stage.where}.",
    )


def _input_conflicts(entries: Sequence[Entry], where_of: WhereOf) -> Iterator[DefinitionError]:
    declared = list(_declared_inputs(entries))
    for index, entry, wanted in declared[1:]:
        _, first, expected = declared[0]
        if wanted != expected:
            yield DefinitionError(
                f"{entry.name!r} takes {_type_name(wanted)} as its input, "
                f"but {first.name!r} takes {_type_name(expected)}",
                where=where_of((*_STAGES, index)),
                remedy=f"Give their first parameters one type, in {first.where} and {entry.where}.",
            )


def _declared_inputs(entries: Sequence[Entry]) -> Iterator[tuple[int, Entry, Any]]:
    for index, entry in enumerate(entries):
        declared: Any = Any
        if isinstance(entry, Stage):
            declared = next(iter(entry.parameters.values()), Any)
        elif isinstance(entry, Approval):
            declared = _first_annotation(entry)
        if declared is not Any:
            yield index, entry, declared


def _first_annotation(approval: Approval) -> Any:
    plain = inspect.unwrap(approval.assignees)
    try:
        hints = get_type_hints(plain, include_extras=True)
        return next((hints.get(name, Any) for name in inspect.signature(plain).parameters), Any)
    except (NameError, TypeError, ValueError):  # names unknown at run time, or no function
        return Any


def _known(registry: Registry) -> str:
    names = sorted({each for _, names in _names(registry) for each in names})
    listed = ", ".join(names[:_LISTED_MAX]) or "none; nothing was imported that defines any"
    more = len(names) - _LISTED_MAX
    return f"{listed} and {more} more" if more > 0 else listed


def _type_name(declared: Any) -> str:
    return str(getattr(declared, "__name__", declared))
