"""`--help` teaches, and comes at once."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import typer

from orchestrator.cli.app import app


def commands() -> list[tuple[str, ...]]:
    found = []
    for name, command in typer.main.get_command(app).commands.items():
        verbs = getattr(command, "commands", {})
        if not verbs or command.invoke_without_command:
            found.append((name,))
        found += [(name, verb) for verb in verbs]
    return found


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
        "deploy",
        "start",
        "ps",
        "query",
        "show",
        "history",
        "approvals",
        "approve",
        "check",
        "deadline",
        "export",
        "incidents",
        "lint",
        "reject",
        "signal",
        "cancel",
        "pause",
        "processes",
        "reload",
        "resume",
        "restart",
        "result",
        "retry",
        "skip",
        "rewind",
        "fork",
        "complete",
        "complete-callback",
        "fail-callback",
        "heartbeat",
        "fail",
        "edit",
        "services",
        "tree",
        "version",
    } | {"db upgrade", "db current", "db check", "db grants"} | {
        f"incidents {verb}" for verb in ("show", "note", "mute", "mended")
    } | {"operations"} | {
        f"operations {verb}" for verb in ("show", "preview", "apply", "resume", "pause", "stop")
    } | {f"processes {verb}" for verb in ("show", "current", "retire")} | {
        f"migrate {verb}" for verb in ("propose", "preview", "apply", "undo")
    }


def test_root_help_documents_exit_codes_and_error_shape(perennial):
    told = " ".join(perennial("--help").stdout.split())
    assert "0 done, 1 refused or failed, 2 usage, 3 no such run or process" in told
    assert '{"error": {"type", "message"}}' in told


HEAVY = {
    "alembic",
    "celery",
    "flower",
    "greenlet",
    "kombu",
    "psycopg",
    "pydantic_settings",
    "redis",
    "ruamel",
    "sqlalchemy",
    "uuid_utils",
    "orchestrator.client",
    "orchestrator.core.definition",
    "orchestrator.embedded",
    "orchestrator.settings",
    "orchestrator.store",
}
"""What takes a tenth of a second and more, or brings such things with it."""


def test_no_commands_help_loads_what_only_its_work_needs():
    """Each is to come at once: what is imported is counted, and no clock is read."""
    calls = [[], *map(list, commands()), ["--version"]]
    code = (
        "import sys\n"
        "from orchestrator.cli.app import app\n"
        f"for words in {calls!r}:\n"
        "    last = [] if words == ['--version'] else ['--help']\n"
        "    app([*words, *last], standalone_mode=False)\n"
        f"sys.exit(', '.join(sorted({HEAVY!r} & sys.modules.keys())) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.count("Usage: ") >= len(calls) - 1


def test_the_packages_names_are_all_there_though_each_comes_when_it_is_used():
    import orchestrator

    assert {getattr(orchestrator, name).__class__ for name in orchestrator.__all__}
    assert set(orchestrator.__all__) <= set(dir(orchestrator))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = orchestrator.nothing


@pytest.mark.parametrize("words", [("--version",), ("-V",), ("version",)])
def test_the_version_comes_where_people_type_it(perennial, words):
    told = perennial(*words)
    assert told.exit_code == 0
    assert told.stdout.startswith("perennial 0.")
