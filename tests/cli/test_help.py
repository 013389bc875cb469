"""`--help` teaches, and comes at once."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import get_args

import pytest
import typer

from orchestrator.cli.app import app
from orchestrator.cli.demo import Fault


def commands() -> list[tuple[str, ...]]:
    root = typer.main.get_command(app)
    group = root.commands["db"]
    return [(name,) for name in root.commands if name != "db"] + [
        ("db", name) for name in group.commands
    ]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_each_command_explains_itself_with_an_example_and_its_json(perennial, command):
    told = perennial(*command, "--help", PERENNIAL_DATABASE_URL="postgresql://a:hunter2@db/x")
    assert told.exit_code == 0
    assert re.search(rf"\$ .*perennial .*{' '.join(command)}|\$ .*{' '.join(command)}", told.stdout)
    assert "--json prints" in told.stdout
    assert "hunter2" not in told.stdout


def test_the_commands_of_the_issue_are_all_there():
    names = {" ".join(command) for command in commands()}
    assert names == {
        "up",
        "demo",
        "deploy",
        "start",
        "ps",
        "show",
        "history",
        "approvals",
        "approve",
        "reject",
        "signal",
        "cancel",
        "pause",
        "resume",
        "result",
        "services",
        "version",
    } | {"db upgrade", "db current", "db check"}


def test_root_help_documents_exit_codes_and_error_shape(perennial):
    told = " ".join(perennial("--help").stdout.split())
    assert "0 done, 1 refused or failed, 2 usage, 3 no such run or process" in told
    assert '{"error": {"type", "message"}}' in told


def test_help_loads_no_database_or_broker_library_of_its_own():
    code = (
        "import sys, orchestrator\n"
        "before = set(sys.modules)\n"
        "from orchestrator.cli.app import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "heavy = {'sqlalchemy', 'celery', 'redis', 'alembic', 'psycopg', 'orchestrator.store'}\n"
        "sys.exit(', '.join(sorted(heavy & (sys.modules.keys() - before))) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


def test_the_faults_are_those_of_the_demonstration():
    from orchestrator.demo import main

    assert {fault.value for fault in Fault} == set(get_args(main.Fault))
