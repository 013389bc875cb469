"""The class of an edit: what an amendment of a version by it would be, for the runs that are open."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from orchestrator.core.checking import Class


class EditClass(StrEnum):
    """From harmless to worst."""

    NONE = "none"
    """What is deployed is the same, to the letter."""
    COSMETIC = "cosmetic"
    """It means the same: format, comments, docstrings, names of local variables."""
    COMPATIBLE = "compatible"
    """All open runs go on with it."""
    NEEDS_A_PLAN = "needs a plan"
    """Some contradict their history: they stay with the code that they have, or are migrated by a plan."""
    IMPOSSIBLE = "impossible"
    """For some, what is recorded can't be read, a stage is missing, or the flow breaks: mend it first."""


_IMPOSSIBLE = frozenset({Class.LACKS, Class.UNREADABLE, Class.BREAKS})


def class_of(
    found: Iterable[Class], *, is_same: bool = False, text_is_same: bool = False
) -> EditClass:
    """The class of an edit of which a check has found these. `is_same`: its fingerprint is that of what is deployed."""
    if is_same:
        return EditClass.NONE if text_is_same else EditClass.COSMETIC
    classes = set(found)
    if classes & _IMPOSSIBLE:
        return EditClass.IMPOSSIBLE
    if Class.CONTRADICTS in classes:
        return EditClass.NEEDS_A_PLAN
    return EditClass.COMPATIBLE
