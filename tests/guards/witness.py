"""A plugin of pytest where a guard is cut out: says what each test died of, for `cutting` to judge.

`Witnessed` lines of JSON go to the file that WITNESS names. The project is installed editable, so the
witness refuses to speak about any code but that of the directory it runs in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

import orchestrator

WITNESS = "PERENNIAL_GUARDS_WITNESS"


@dataclass(frozen=True)
class Witnessed:
    """A test failed: in which phase, and of what; `died_of` are the names of the error's classes."""

    test: str
    phase: str
    died_of: list[str]
    says: str


def pytest_sessionstart() -> None:
    if Path(orchestrator.__file__).resolve().parents[1] != Path.cwd().resolve():
        raise pytest.UsageError(f"these tests would test {orchestrator.__file__}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.excinfo is not None:
        error = call.excinfo.value
        told = Witnessed(item.nodeid, call.when, _names_of(error), str(error)[:1000])
        with Path(os.environ[WITNESS]).open("a") as file:
            file.write(json.dumps(asdict(told)) + "\n")
    return report


def _names_of(error: BaseException) -> list[str]:
    """Of the error, and of psycopg's own inside SQLAlchemy's."""
    causes = [error, getattr(error, "orig", None)]
    return [kind.__name__ for cause in causes if cause is not None for kind in type(cause).__mro__]
