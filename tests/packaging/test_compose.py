"""docker-compose.yml fits its schema, stays on this machine, and runs only commands that exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import check_jsonschema
import click
import pytest
from celery.bin.celery import celery
from check_jsonschema.cli import main as check
from click.testing import CliRunner, Result
from flower.command import flower
from flower.views.tasks import visible_task_columns
from ruamel.yaml import YAML
from typer.testing import CliRunner as PerennialRunner

from orchestrator.cli.servers import FLOWER_COLUMNS

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"


def load_compose() -> dict[str, Any]:
    return YAML(typ="safe").load(COMPOSE)


SERVICES: dict[str, dict[str, Any]] = load_compose()["services"]


def commands_of(service: dict[str, Any]) -> list[list[str]]:
    """What a service runs that is ours: its command and its health check, as argument lists."""
    test = service.get("healthcheck", {}).get("test", [])
    found = [list(service["command"])] if "command" in service else []
    if test:
        found.append(test[1:] if test[0] == "CMD" else shlex.split(test[1]))
    return [command for command in found if command[0] in {"perennial", "celery"}]


OUR_COMMANDS = [
    pytest.param(command, id=f"{name}: {' '.join(command)}")
    for name, service in SERVICES.items()
    for command in commands_of(service)
]


def help_of(arguments: list[str]) -> Result:
    """Have `perennial` parse the arguments, all of them, and then explain instead of running."""
    from orchestrator.cli.app import app

    return PerennialRunner().invoke(app, [*arguments, "--help"])


def test_it_fits_the_compose_schema() -> None:
    done = CliRunner().invoke(check, ["--builtin-schema", "vendor.compose-spec", str(COMPOSE)])
    assert done.exit_code == 0, done.output


def test_the_schema_check_would_notice_a_wrong_file(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("healthcheck:", "healthchek:"))
    done = CliRunner().invoke(check, ["--builtin-schema", "vendor.compose-spec", str(wrong)])
    assert done.exit_code == 1
    assert "healthchek" in done.output


def test_it_runs_the_commands_that_make_a_fleet() -> None:
    run = [" ".join(parameter.values[0]) for parameter in OUR_COMMANDS]
    assert any(command.startswith("perennial db upgrade") for command in run)
    assert any(command.startswith("perennial deploy") for command in run)
    assert any(command.startswith("celery -A workers.app worker ") for command in run)
    assert any(command.startswith("celery -A workers.app flower ") for command in run)


@pytest.mark.parametrize("command", OUR_COMMANDS)
def test_every_command_it_runs_is_a_real_one(command: list[str]) -> None:
    program, *arguments = command
    if program == "perennial":
        explained = help_of(arguments)
        assert explained.exit_code == 0, explained.output
        return
    # Celery imports the app of `-A` as it parses: here only its own options are the question.
    assert arguments[:2] == ["-A", "workers.app"]
    name, *rest = arguments[2:]
    if name == "flower":
        assert_flower_knows(rest)
    else:
        sub_command = celery.get_command(click.Context(celery), name)
        assert sub_command is not None, f"celery has no command {name}"
        assert_options_exist(sub_command, rest)


@pytest.mark.parametrize(
    "arguments", [["db", "upgrad"], ["deploy", "--ap", "workers.app"], ["launch"]]
)
def test_a_perennial_command_that_does_not_exist_is_noticed(arguments: list[str]) -> None:
    assert help_of(arguments).exit_code == 2


def test_a_celery_option_that_does_not_exist_is_noticed() -> None:
    worker = celery.get_command(click.Context(celery), "worker")
    with pytest.raises(AssertionError, match="--loglevl"):
        assert_options_exist(worker, ["--loglevl=INFO"])


def assert_options_exist(command: click.Command, arguments: list[str]) -> None:
    known = {option for parameter in command.params for option in parameter.opts}
    for argument in arguments:
        if argument.startswith("-"):
            assert argument.partition("=")[0] in known, f"no option {argument}"


def assert_flower_knows(arguments: list[str]) -> None:
    from tornado.options import options

    assert flower.name == "flower"
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0]
        assert name in options, f"flower has no option {argument}"


def test_every_published_port_is_bound_to_this_machine() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), f"{name} publishes {port}"


def test_no_password_stands_in_the_file_and_every_variable_is_in_the_example() -> None:
    content = COMPOSE.read_text()
    example = (ROOT / ".env.example").read_text()
    named = set(re.findall(r"(?<!\$)\$\{(\w+)", content))
    assert named == set(re.findall(r"^#?(\w+)=", example, re.MULTILINE))
    for password in (name for name in named if name.endswith("_PASSWORD")):
        assert f"${{{password}:?" in content, f"{password} must have no default"
        assert re.search(rf"^{password}=$", example, re.MULTILINE), f"{password} must be empty"


def test_what_is_built_is_there_to_build() -> None:
    dockerfile = ROOT / SERVICES["workers"]["build"]["dockerfile"]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (?!--from)(\S+)", dockerfile.read_text(), re.MULTILINE):
        if source != ".":
            assert (ROOT / source).exists(), f"the image copies {source}"
            assert f"!{source.rstrip('/')}" in ignored, f".dockerignore hides {source}"


def test_every_dependency_waits_for_health_or_for_the_end() -> None:
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            healthy = how["condition"] == "service_healthy"
            assert healthy == ("healthcheck" in SERVICES[needed])
            assert healthy or how["condition"] == "service_completed_successfully"


def test_the_schema_is_shipped_and_not_fetched() -> None:
    shipped = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
    assert (shipped / "compose-spec.json").is_file()


def test_flowers_list_shows_a_runs_key_and_whose_turn_it_is():
    """With columns that this Flower has; as `perennial up` shows them."""
    (columns,) = [
        argument.partition("=")[2]
        for argument in SERVICES["flower"]["command"]
        if argument.startswith("--tasks-columns=")
    ]
    assert columns == FLOWER_COLUMNS
    shown = [name for name, _label in visible_task_columns(columns)]
    assert shown == columns.split(",")
    assert {"args", "result", "kwargs"} <= set(shown[:5])
