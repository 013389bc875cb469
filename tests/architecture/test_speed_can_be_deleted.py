"""The main path knows no speed: without `engine/eager` and `fleet/eager.py` all goes its way, by messages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.embedded import ServerUrls

ROOT = Path(__file__).parents[2]
SPEED = ("orchestrator/engine/eager", "orchestrator/fleet/eager.py")
IN_THE_COPY = ("orchestrator", "tests", "tasks", "workers", "pyproject.toml")

BRIEFLY = "normal and not (is_ended_at_any_wait or is_part_of_its_callers or some_errors)"
"""Of variants of one scenario, none: they differ in what speed has no part in."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git tracks of the house and its tests, without speed."""
    copy = tmp_path_factory.mktemp("slow")
    listed = subprocess.run(
        ["git", "ls-files", "-z", *IN_THE_COPY],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if not name.startswith(SPEED) and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.mark.parametrize(
    "tests",
    [
        ("tests/engine/test_scenarios.py", "-k", BRIEFLY),
        ("tests/fleet/test_modes.py", "-k", "normal"),
    ],
    ids=["engine", "a real worker"],
)
def test_without_speed_all_goes_its_way(copy, servers: ServerUrls, template: str, tests):
    environment = {
        **{name: value for name, value in os.environ.items() if "PERENNIAL" not in name},
        "PYTHONPATH": str(copy),
        "PERENNIAL_TEST_DATABASE_URL": servers.database_url,
        "PERENNIAL_TEST_BROKER_URL": servers.broker_url,
        "PERENNIAL_TEST_TEMPLATE": template,
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "-n", "0", *tests],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.search(r"\b[1-9]\d* passed", done.stdout)


def test_the_copy_is_what_is_tried(copy):
    done = subprocess.run(
        [sys.executable, "-c", "import orchestrator.engine.turn, orchestrator.engine.eager"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'orchestrator.engine.eager'" in done.stderr


def test_the_main_path_names_speed_where_a_process_is_composed():
    """Where the way of a worker is chosen, also of one in a test, and that of a client's starts."""
    naming = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "orchestrator").rglob("*.py")
        if re.search(r"^\s*(from|import) .*\beager\b", path.read_text(), re.MULTILINE)
        and not str(path.relative_to(ROOT)).startswith(SPEED)
    }
    assert naming == {
        "orchestrator/fleet/member.py",
        "orchestrator/client/client.py",
        "orchestrator/testing/tester.py",
    }
