"""An activity gets its end, or other arguments, by hand (core.reentry.settle)."""

from __future__ import annotations

from orchestrator.core.reentry.settle import (
    ByHand,
    Editing,
    preview_complete,
    preview_edit,
    preview_fail,
    preview_skip,
)
from orchestrator.engine.operations.re_enter import Verb

SKIP: Verb[ByHand] = Verb("skip", preview_skip, moves_on=False)
COMPLETE: Verb[ByHand] = Verb("complete", preview_complete, moves_on=False)
FAIL: Verb[ByHand] = Verb("fail", preview_fail, moves_on=False)
EDIT: Verb[Editing] = Verb("edit", preview_edit, moves_on=False)
