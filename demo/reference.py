"""The reference fleet that the demo runs: `workers/` and `tasks/` of this repository."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from demo.failures import DemoFailed
from demo.plan import ESCALATION_HOURS, TIMEOUT_HOURS

ROOT = Path(__file__).resolve().parents[1]
APP = "workers.app"
TASKS = "tasks.access_request"


class DirectoryEffect(Protocol):
    """Something that was done in the directory, and how often it was asked for."""

    @property
    def key(self) -> str: ...
    @property
    def effect(self) -> str: ...
    @property
    def calls(self) -> int: ...


class Directory(Protocol):
    """The stub directory service, `tasks.access_request.directory`."""

    def create(self) -> None: ...
    def effects(self) -> Sequence[DirectoryEffect]: ...


def directory() -> Directory:
    """The stub directory service."""
    return cast("Directory", importlib.import_module(f"{TASKS}.directory"))


def declarative_process(*, hour_seconds: float) -> str:
    """The text of `access-request.yaml`, its two durations scaled to the demo's hours."""
    path = ROOT / "tasks" / "access_request" / "access-request.yaml"
    text = path.read_text(encoding="utf-8")
    for name, hours in (
        ("approval_timeout_hours", TIMEOUT_HOURS),
        ("escalation_after_hours", ESCALATION_HOURS),
    ):
        if f"{name}: {hours}" not in text:
            raise DemoFailed(
                f"{path} does not say `{name}: {hours}`, which the demo's oracle assumes"
            )
        text = text.replace(f"{name}: {hours}", f"{name}: {hours * hour_seconds / 3600:.9f}")
    return text
