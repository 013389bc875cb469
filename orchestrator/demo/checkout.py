"""The reference fleet that the demo runs: `workers/` and `tasks/`, which only a checkout has."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import orchestrator
from orchestrator.demo.failures import DemoFailed
from orchestrator.demo.plan import ESCALATION_HOURS, TIMEOUT_HOURS

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


@dataclass(frozen=True, slots=True)
class Checkout:
    """Where the checkout is. `find` puts it on the import path."""

    root: Path

    @classmethod
    def find(cls) -> Checkout:
        """The working directory, or where an editable install points. Raises DemoFailed."""
        for root in (Path.cwd(), Path(orchestrator.__file__).resolve().parents[1]):
            if (root / "workers" / "app.py").is_file() and (
                root / "tasks" / "access_request"
            ).is_dir():
                if str(root) not in sys.path:
                    sys.path.insert(0, str(root))
                return cls(root)
        raise DemoFailed(
            "the demo runs the reference fleet of the source repository (workers/ and tasks/), "
            "which the installed package does not hold. Clone the repository and run it there."
        )

    def directory(self) -> Directory:
        """The stub directory service."""
        return cast("Directory", importlib.import_module(f"{TASKS}.directory"))

    def declarative_process(self, *, hour_seconds: float) -> str:
        """The text of `access-request.yaml`, its two durations scaled to the demo's hours."""
        path = self.root / "tasks" / "access_request" / "access-request.yaml"
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
