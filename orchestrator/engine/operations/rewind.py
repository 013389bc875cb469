"""Rewind: a run goes back to where an activity was asked for (core.reentry.rewind)."""

from __future__ import annotations

from orchestrator.core.reentry.rewind import Rewinding, preview_rewind
from orchestrator.engine.operations.re_enter import Verb

REWIND: Verb[Rewinding] = Verb("rewind", preview_rewind)
