"""What stands on more than one page: a status, a run as one types it, a line to copy."""

from __future__ import annotations

import shlex
from uuid import UUID

from rich.text import Text

from orchestrator.cli.output import text
from orchestrator.core.run import RunStatus
from orchestrator.core.views import RunSummary, RunView

_STATUS_STYLES = {
    RunStatus.RUNNING: "cyan",
    RunStatus.WAITING: "blue",
    RunStatus.PAUSED: "yellow",
    RunStatus.INCIDENT: "bold red",
    RunStatus.COMPLETED: "green",
    RunStatus.FAILED: "red",
    RunStatus.CANCELLED: "magenta",
    RunStatus.EXPIRED: "magenta",
}


def status_text(status: RunStatus) -> Text:
    return Text(status, _STATUS_STYLES[status])


def surely(run_id: UUID, business_key: str | None, follows: UUID | None) -> str:
    """The run as one types it to decide: a key that a former run had too may mean that one."""
    return shlex.quote(business_key if business_key and follows is None else str(run_id))


def called(run: RunView) -> str:
    """The run as one types it in a shell."""
    return shlex.quote(run.business_key or str(run.id))


def command(line: str, *, label: str = "", style: str = "green") -> Text:
    """A line to copy, so it is never folded."""
    shown = Text(label, "dim") + text(line, style)
    shown.no_wrap, shown.overflow = True, "ignore"
    return shown


def no_worker(run: RunView | RunSummary) -> str:
    """That nobody can move it: what it needs, and that it goes on by itself."""
    return f"a worker that can run {run.process} version {run.version}; none is alive"
