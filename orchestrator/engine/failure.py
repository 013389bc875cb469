"""What is recorded of an error that the author's code has raised."""

from __future__ import annotations

from traceback import walk_tb
from typing import Any

from orchestrator.core import codec

_KERNEL = ("orchestrator.core.", "orchestrator.engine.")


def error_of(error: BaseException) -> dict[str, Any]:
    """An error as the record keeps it: its type, its message, and where it was raised, outside of the kernel."""
    at = ""
    for frame, line in walk_tb(error.__traceback__):
        if not frame.f_globals.get("__name__", "").startswith(_KERNEL):
            at = f"{frame.f_code.co_filename}:{line}"
    return {
        "type": type(error).__name__,
        "message": codec.readable(str(error)),
        "at": codec.readable(at),
    }
