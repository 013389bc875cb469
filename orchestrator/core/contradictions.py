"""What is said when a flow and its journal contradict each other: the first place that differs, in words."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.core.argument_digests import different_arguments
from orchestrator.core.journal import AHEAD, Activity
from orchestrator.core.kinds.base import Request

SAME_LINES_BEFORE = 2
"""So many lines that agree stand before the one that doesn't, to find the place by."""


def explain_contradiction(
    scope: str, recorded: Iterable[Activity], asked: Iterable[Request]
) -> str:
    """The first place of a scope where journal (`-`) and flow (`+`) differ, and what stands just before it."""
    placed = (entry for entry in recorded if entry.scope == scope and entry.ordinal != AHEAD)
    before = {entry.ordinal: entry for entry in placed}
    after = {request.ordinal: request for request in asked if request.scope == scope}
    where = f"in {scope}:" if scope else "in the flow:"
    # What is asked and isn't recorded is new, or a step that nobody has awaited yet.
    places = sorted(before)
    first = next((place for place in places if _differ(before[place], after.get(place))), None)
    if first is None:
        return where
    same = [place for place in places if place < first]
    lines = [where]
    if len(same) > SAME_LINES_BEFORE:
        lines.append(f"    … {len(same) - SAME_LINES_BEFORE} more, in both alike")
    lines += [f"    {place}. {before[place].describe()}" for place in same[-SAME_LINES_BEFORE:]]
    entry, request = before[first], after.get(first)
    lines.append(f"  - {first}. {entry.describe()}   (in the journal)")
    if request is not None:
        other = _other_arguments(entry, request)
        lines.append(f"  + {first}. {request.describe()}{other}   (asked by the flow now)")
    return "\n".join(lines)


def _differ(entry: Activity, request: Request | None) -> bool:
    return (
        request is None
        or entry.describe() != request.describe()
        or bool(_names_of_others(entry, request))
    )


def _names_of_others(entry: Activity, request: Request) -> list[str]:
    if entry.asked is None or entry.describe() != request.describe():
        return []
    return different_arguments(entry.asked, request.asked)


def _other_arguments(entry: Activity, request: Request) -> str:
    """Their names alone: values may be secret."""
    names = _names_of_others(entry, request)
    return f", with another {' and another '.join(names)}" if names else ""
