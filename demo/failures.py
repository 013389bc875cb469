"""What stops a demo."""

from __future__ import annotations

from orchestrator.errors import PerennialError


class DemoFailed(PerennialError):
    """The demo could not do its part; says what, and what to do about it."""
