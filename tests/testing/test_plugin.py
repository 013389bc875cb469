"""The plug-in for pytest, in a pytest of its own: a fixture, a marker, one server for all processes of a session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

TESTS = """
import json
from pathlib import Path

import pytest

from orchestrator import Flow, Registry, days, process

own = Registry()
SEEN = Path(__file__).parent / "seen"


@process(version=1, registry=own)
async def nap(flow: Flow) -> str:
    await flow.sleep(days(90))
    return "rested"


@pytest.fixture
def perennial_registry():
    return own


def note(tester) -> None:
    run = tester.start(nap, key="the same in each")
    assert tester.run_to_the_end(run).output == "rested"
    url = tester.database.url
    (SEEN / url.database).write_text(json.dumps([url.query["host"], tester._is_doubled]))


@pytest.mark.parametrize("number", range(2))
def test_a_run(perennial_tester, number):
    note(perennial_tester)


@pytest.mark.perennial(doubled=True)
def test_a_run_in_a_mode(perennial_tester):
    note(perennial_tester)
"""
SILENT = """
import sys


def test_nothing_of_ours_is_there():
    ours = {"orchestrator", "orchestrator.testing", "orchestrator.testing.session", "orchestrator.testing.plugin"}
    assert {name for name in sys.modules if name.startswith("orchestrator")} == ours
    assert not {"sqlalchemy", "celery", "pydantic", "psycopg"} & set(sys.modules)
"""


def pytest_of_its_own(tmp_path: Path, tests: str, *words: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "test_theirs.py").write_text(tests, encoding="utf-8")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PERENNIAL_", "PYTEST_"))
    }
    return subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", "pytest", "-q", "--strict-markers"),
            *("-p", "no:cacheprovider", "-p", "xdist.plugin", "-p", "orchestrator.testing.plugin"),
            *words,
        ],
        cwd=tmp_path,
        env=environment | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TMPDIR": str(tmp_path / "t")},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.fixture
def home(tmp_path):
    """Where Postgres' own account may pass, as in the directory that pytest makes it may not."""
    with tempfile.TemporaryDirectory() as home:
        path = Path(home)
        path.chmod(0o755)
        for name in ("seen", "t"):
            (path / name).mkdir(mode=0o755)
        yield path


def test_each_test_has_a_database_of_one_server_which_ends_with_the_session(home):
    """Red where each process of pytest-xdist starts a server, or one ends it that others still use."""
    done = pytest_of_its_own(home, TESTS, "-n", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    seen = [json.loads(path.read_text()) for path in (home / "seen").iterdir()]
    assert len(seen) == 3
    assert len({host for host, _ in seen}) == 1
    assert sorted(doubled for _, doubled in seen) == [False, False, True]
    assert not list((home / "t").glob("perennial-test-*")), "server and templates are gone"


def test_a_session_without_such_a_test_imports_nothing_and_starts_nothing(home):
    done = pytest_of_its_own(home, SILENT, "-n", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list((home / "t").glob("perennial-*"))
