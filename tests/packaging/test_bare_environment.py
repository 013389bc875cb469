"""The wheel alone: what it imports is what it declares, and the tutorial runs on nothing else."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from time import monotonic

import pytest
from packaging.utils import canonicalize_name

from tests.packaging import bare

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "orchestrator" / "testing" / "plugin.py"
"""Imported by pytest alone, which is there then."""
SOON_SECONDS_MAX = 60

TRIP = '{"traveller": "Ada", "city": "Lisbon", "manager": "ann"}'


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment as `pip install 'celery-perennial[binary]'` makes it."""
    return bare.environment(tmp_path_factory.mktemp("bare"), wheel, "binary")


def imported(path: Path) -> Iterator[str]:
    """The modules of others that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def test_each_distribution_that_the_wheel_imports_is_declared(wheel):
    """As a requirement of its own: what another distribution brings today it may leave tomorrow."""
    declared = {
        canonicalize_name(requirement.name)
        for requirement in bare.requirements_of(wheel)
        if requirement.marker is None
    }
    owners = metadata.packages_distributions()
    modules = {
        name
        for path in (ROOT / "orchestrator").rglob("*.py")
        if path != PLUGIN
        for name in imported(path)
        if name not in sys.stdlib_module_names and name != "orchestrator"
    }
    assert {"celery", "kombu", "sqlalchemy", "typer"} <= modules
    missing = {
        name
        for name in modules
        if not declared & {canonicalize_name(owner) for owner in owners.get(name, ())}
    }
    assert not missing


def test_the_environment_holds_nothing_that_only_the_tests_need(python):
    done = ask(python, "import pytest")
    assert "No module named 'pytest'" in done.stderr


def test_without_pytest_there_is_the_tester_all_the_same(python):
    done = ask(python, "from orchestrator.testing import ProcessTester, crashes_at_each_await")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("extra", ["flower"])
def test_what_an_extra_runs_is_there(python, wheel, tmp_path, extra):
    """Flower, which `perennial up` starts, in an environment of the wheel and this extra alone."""
    bare.link(bare.needed(bare.requirements_of(wheel), {extra}), tmp_path)
    done = ask(python, "import flower.command, flower.app", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_a_psycopg_without_libpq_is_one_sentence(python, tmp_path):
    """`pip install celery-perennial`, on a machine that has no libpq."""
    done = command(
        python,
        tmp_path,
        {"PERENNIAL_DATABASE_URL": "postgresql://db/x", "PSYCOPG_IMPL": "c"},
        "ps",
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "pip install 'celery-perennial[binary]'" in done.stderr


def test_outside_of_a_checkout_no_command_counts_on_its_app(python, tmp_path):
    """`perennial up` has an app without stages to begin with; all else asks for one."""
    done = command(python, tmp_path, {"PERENNIAL_DATABASE_URL": "postgresql://db/x"}, "deploy")
    assert done.returncode == 1
    assert "no Celery app is named" in done.stderr
    code = (
        "from orchestrator.cli.servers import _take_app_there_is\n"
        "from orchestrator.cli.session import Session\n"
        "from orchestrator.cli.output import Printer\n"
        "from orchestrator.cli.apps import load_app\n"
        "session = Session()\n"
        "_take_app_there_is(session, Printer(session))\n"
        "print(load_app(session).perennial)\n"
    )
    done = ask(python, code)
    assert "perennial up --app module:app" in done.stderr
    assert "Member object" in done.stdout


@pytest.mark.slow
def test_the_tutorial_runs_on_redis_from_the_wheel_alone(python, database, servers, tmp_path):
    """Red where kombu's Redis transport, or anything else that a worker loads, is not required."""
    (tmp_path / "trip.py").write_text(tutorial(), encoding="utf-8")
    where = {
        "PERENNIAL_DATABASE_URL": database.url,
        "PERENNIAL_BROKER_URL": servers.broker_url,
    }
    arguments = ("--app", "trip", "--no-flower", "--workers", "1", "--concurrency", "1", "--json")
    with subprocess.Popen(
        perennial(python, "up", *arguments),
        cwd=tmp_path,
        env=clean() | where,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as up:
        try:
            told = ""
            for line in up.stdout:
                told += line
                if line == "}\n":
                    break
            assert told, up.stderr.read()
            assert {"name": "trip", "version": 2} in json.loads(told)["processes"]

            def run(*words: str) -> str:
                done = command(python, tmp_path, where, *words)
                assert done.returncode == 0, done.stderr
                return done.stdout

            run("start", "trip", "--key", "lisbon", "--input", TRIP)
            approved = command(python, tmp_path, where, "approve", "lisbon", "--by", "ann")
            give_up_at = monotonic() + SOON_SECONDS_MAX / 2
            while (
                monotonic() < give_up_at and "not been asked for yet" in approved.stderr
            ):  # the worker is about to
                approved = command(python, tmp_path, where, "approve", "lisbon", "--by", "ann")
            assert approved.returncode == 0, approved.stderr
            booked = run("result", "lisbon", "--wait", str(SOON_SECONDS_MAX))
            assert json.loads(booked) == "seat to Lisbon, room in Lisbon"
        finally:
            up.send_signal(signal.SIGTERM)
            up.communicate(timeout=SOON_SECONDS_MAX)


def tutorial() -> str:
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = text.split("```python\n")[1:]
    return "\n\n".join(block.partition("```")[0] for block in blocks)


def clean() -> dict[str, str]:
    own = ("PERENNIAL_", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


def ask(python: Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-c", code],
        env=clean() | variables,
        cwd=python.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=SOON_SECONDS_MAX,
    )


def perennial(python: Path, *words: str) -> list[str]:
    return [str(python), "-c", "from orchestrator.cli import main; main()", *words]


def command(
    python: Path, home: Path, variables: dict[str, str], *words: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        perennial(python, *words),
        cwd=home,
        env=clean() | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=SOON_SECONDS_MAX,
    )
