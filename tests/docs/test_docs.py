"""Every example, command, link and setting of the documentation is true."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices
from typer.main import get_command

from orchestrator import Flow, process
from orchestrator.cli.app import app
from orchestrator.cli.groups import ONE, ListOrOne
from orchestrator.core.run import RunStatus
from orchestrator.settings import Settings
from orchestrator.testing import databases, session

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md"))),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

HIRE_STARTS_WITH_ITS_INSERT = """
import asyncio

from sqlalchemy.ext.asyncio import create_async_engine


async def hire_later_on_a_loop(url) -> None:
    engine = create_async_engine(url)
    async with AsyncClient(engine) as client, AsyncSession(engine) as session:
        await hire_later(session, client, "cy")
        await session.commit()
    await engine.dispose()


def test_hire_starts_with_its_insert_or_not_at_all() -> None:
    with ProcessTester() as tester:
        with tester.database.begin() as connection:
            connection.execute(text("CREATE TABLE staff (name text)"))
        with tester.database.connect() as connection:
            hire(connection, tester.client, "bob")
            connection.rollback()
            hire(connection, tester.client, "ada")
            connection.commit()
        assert [run.business_key for run in tester.client.list()] == ["hire ada"]
        asyncio.run(hire_later_on_a_loop(tester.database.url))
        assert tester.client.list()[0].business_key == "hire cy"
        assert tester.get("hire ada").waits[0].who == ("ann",)
"""
SHARING = """
from pathlib import Path

from orchestrator.testing import session

session.shared = Path({!r})
"""
PROOFS = {"README.md": HIRE_STARTS_WITH_ITS_INSERT}
"""What a page shows without a test of its own."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [code for found, code in BLOCK.findall(text_of(page)) if found == language]


def python_of(page: str) -> str:
    """The page as a module: all that isn't Python is blank, so that line numbers stay the page's."""
    text, lines = text_of(page), [""] * text_of(page).count("\n")
    for block in BLOCK.finditer(text):
        if block[1] == "python":
            first = text.count("\n", 0, block.start(2))
            code = block[2].splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines) + "\n" + PROOFS.get(page, "")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    """In an interpreter of its own: pages define processes in the default registry."""
    module = (
        tmp_path / f"page_{Path(page).stem.lower()}.py"
    )  # a page may be called as a module of Python
    module.write_text(python_of(page), encoding="utf-8")
    server = databases._server_at(os.environ.get(databases.TEST_DATABASE_VARIABLE))
    if session.shared is not None:  # the template of this session is the page's, too
        (tmp_path / "conftest.py").write_text(SHARING.format(str(session.shared)), encoding="utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PERENNIAL_")},
        databases.TEST_DATABASE_VARIABLE: server.url("postgres"),
    }
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            module.name,
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    nothing_to_test = 5
    allowed = (0,) if "def test_" in python_of(page) else (nothing_to_test,)
    assert done.returncode in allowed, done.stdout + done.stderr


def test_old_runs_are_removed_as_the_page_says(harness):
    """Those that ended before the moment, with their history; what is open or newer stays whole."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, ends: bool) -> None:
        if not ends:
            await flow.signal("go")

    harness.freeze(datetime(2024, 12, 31, tzinfo=UTC))
    old, still_open = harness.run(p, True), harness.run(p, False)
    harness.move(days=1)
    new = harness.run(p, True)
    stays = {run.run_id: harness.events(run) for run in (still_open, new)}
    (code,) = blocks("docs/operating.md", "sql")
    with harness.database.psycopg(autocommit=True) as connection:
        connection.execute(code)
    assert {run.id for run in harness.client.list()} == set(stays)
    assert {run_id: harness.events(run_id) for run_id in stays} == stays
    told = harness.database.value(
        "SELECT count(*) FROM perennial.history WHERE run_id = :id", id=old.run_id
    )
    assert told == 0


def commands_of(program: str) -> list[tuple[str, str]]:
    """Each line of a shell block, and each piece of inline code, that calls the program."""
    found = []
    for page in PAGES:
        inline = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text_of(page)))
        lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
        found += [(page, line) for line in lines + inline if line.split(" ")[0] == program]
    return found


@pytest.mark.parametrize(("page", "line"), commands_of("perennial"))
def test_a_perennial_command_exists_with_its_options(page, line):
    command = get_command(app)
    known = {option for parameter in command.params for option in parameter.opts}
    for word in shlex.split(line, comments=True)[1:]:
        if word.startswith("-"):
            assert word in known, f"{page}: {line}: no option {word}"
        elif word in getattr(command, "commands", {}) or isinstance(command, ListOrOne):
            command = command.commands.get(word) or command.commands[ONE]
            known |= {option for parameter in command.params for option in parameter.opts}
    assert line == "perennial" or command is not get_command(app)
    is_whole = not getattr(command, "commands", {}) or command.invoke_without_command
    assert is_whole or line == "perennial", f"{page}: {line}: no such command"


@pytest.mark.parametrize(("page", "line"), commands_of("make"))
def test_a_make_target_exists_with_its_variables(page, line):
    makefile = text_of("Makefile")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for word in shlex.split(line, comments=True)[1:]:
        variable, is_variable, _ = word.partition("=")
        assert f"$({variable})" in makefile if is_variable else word in targets, (
            f"{page}: {line}: {word}"
        )


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text_of(page))
    missing = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing


def test_the_readme_leads_to_every_page():
    linked = set(re.findall(r"\]\(([^)#]+\.md)", text_of("README.md")))
    assert {page for page in PAGES if page.startswith("docs/")} <= linked


@pytest.mark.parametrize("page", PAGES)
def test_the_extras_a_page_installs_are_there(page):
    named = re.findall(r"celery-perennial\[([\w,]+)\]", text_of(page))
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    assert {extra for names in named for extra in names.split(",")} <= extras.keys()


def test_every_setting_is_described_with_its_default():
    rows = re.findall(
        r"^\| `(PERENNIAL_\w+)` \| `?([^|`]+)`? \| .+ \|$",
        text_of("docs/operating.md"),
        re.MULTILINE,
    )
    assert [(name, default.strip()) for name, default in rows] == [
        (
            _variable_of(name, field.validation_alias),
            "none" if field.default is None else str(field.default),
        )
        for name, field in Settings.model_fields.items()
    ]


def _variable_of(name: str, alias: Any) -> str:
    """The first of several: the others are its names of before."""
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return alias or f"PERENNIAL_{name.upper()}"


@pytest.mark.parametrize("page", ["docs/run-states.md", "docs/operating.md"])
def test_every_status_has_its_row(page):
    rows = re.findall(r"^\| `(\w+)` \|", text_of(page), re.MULTILINE)
    assert [row for row in rows if not row.startswith("PERENNIAL")] == [*RunStatus]


def test_every_test_that_the_reliability_page_names_is_there():
    """A promise names its test, and a test that was renamed is renamed on the page too."""
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)(?:\[[\w-]+\])?`", text_of("docs/reliability.md")))
    assert len(named) > 25
    assert not named - defined
