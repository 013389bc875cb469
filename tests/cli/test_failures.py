"""A refusal is one line that says what to do, an exit code, and never a traceback."""

from __future__ import annotations

import getpass
import shlex
import socket

import pytest

from orchestrator import errors
from orchestrator.addresses import masked
from orchestrator.cli.database import engine_of
from orchestrator.cli.failures import ExitCode, explain
from tests.cli.samples import NOW, RUN_ID, FakeClient

PASSWORD = "hunter2"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RunNotFound("there is no run 'x'"), ExitCode.NOT_FOUND),
        (errors.UnknownProcess("no process 'x' is deployed"), ExitCode.NOT_FOUND),
        (errors.RunClosed("the run completed"), ExitCode.REFUSED),
        (errors.RunNotClosed("the run waits"), ExitCode.REFUSED),
        (errors.RunFailed(RUN_ID, status="failed", message="why"), ExitCode.REFUSED),
        (errors.DecisionTooEarly("not asked for yet"), ExitCode.REFUSED),
        (errors.DecisionTooLate("timed out", deadline=NOW), ExitCode.REFUSED),
        (errors.NotAssigned("bob is not asked", assignees=("alice",)), ExitCode.REFUSED),
        (errors.InvalidInput("role: field required"), ExitCode.REFUSED),
    ],
)
def test_each_refusal_has_its_exit_code_and_its_type(perennial, client, error, code):
    client.answers["get"] = error
    assert perennial.refusal("show", "x")[0] == code
    assert perennial.refusal("show", "x")[1]["type"] == type(error).__name__
    told = perennial("show", "x")
    assert told.exit_code == code
    assert told.stdout == ""
    assert told.stderr.startswith(f"error: {str(error).replace(str(RUN_ID), 'x')}")
    assert told.stderr.count("\n") == 1
    assert "Traceback" not in told.stderr
    assert client.closed


def test_a_second_decision_is_told_who_decided(perennial, client):
    client.answers["approve"] = errors.AlreadyDecided(
        "approval 'm' was approved by alice at 2026-03-02T12:00:00+00:00",
        by="alice",
        outcome="approved",
        at=NOW,
    )
    code, error = perennial.refusal("approve", "x", "--by", "bob")
    assert (code, error["type"]) == (ExitCode.REFUSED, "AlreadyDecided")
    assert "approved by alice" in error["message"]


def test_a_refusal_without_a_next_step_gets_one(perennial, client):
    client.answers["get"] = errors.RunNotFound("there is no run 'x'")
    assert "`perennial ps` lists the runs." in perennial("show", "x").stderr


@pytest.mark.parametrize("run", ["order 7", "permit-17", str(RUN_ID)])
def test_a_refusal_names_the_run_as_it_was_typed(perennial, client, run):
    """A key for a key, an id for an id; also in what to type next."""
    client.answers["result"] = errors.RunNotClosed(f"run {RUN_ID} is waiting")
    client.answers["cancel"] = errors.RunClosed(f"run {RUN_ID} is failed")
    told = perennial("result", run).stderr
    assert told.startswith(
        f"error: run {run} is waiting. `perennial show {shlex.quote(run)}` tells"
    )
    for refused in (told, perennial("cancel", run).stderr):
        assert "RUN" not in refused
        assert (str(RUN_ID) in refused) is (run == str(RUN_ID))


def test_the_notes_of_an_error_are_told_too():
    error = errors.DefinitionError("a", where="p.yaml:4")
    error.add_note("p.yaml:6: b")
    assert explain(error).message == "p.yaml:4: a\np.yaml:6: b"


def test_a_bug_keeps_its_traceback(perennial, client):
    client.answers["get"] = ZeroDivisionError("ours")
    assert isinstance(perennial("show", "x").exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ps", "--status", "asleep"),
        ("ps", "--limit", "0"),
        ("ps", "--limit", "1000000"),
        ("show",),
        ("start", "p", "--version", "0"),
        ("start", "p", "--input", "{'single': 'quotes'}"),
        ("start", "p", "--input", "@missing.json"),
        ("start", "p", "--input", "NaN"),
        ("signal", "x", "n", "bare word"),
        ("nonsense",),
    ],
)
def test_a_mistyped_command_ends_with_2_and_asks_nobody(perennial, client, arguments):
    told = perennial(*arguments)
    assert told.exit_code == ExitCode.USAGE
    assert client.calls == []
    assert told.stderr


def test_input_comes_as_text_from_a_file_or_from_standard_input(perennial, client, tmp_path):
    (tmp_path / "in.json").write_text('{"a": "ü"}', encoding="utf-8")
    perennial("start", "p", "--input", '{"a": "ü"}')
    perennial("start", "p", "--input", "@in.json")
    perennial("start", "p", "--input", "-", stdin='{"a": "ü"}')
    perennial("start", "p")
    assert [args for _verb, args, _more in client.calls] == [("p", {"a": "ü"})] * 3 + [("p", None)]


def test_who_says_so_is_the_user_at_the_keyboard_unless_told(perennial, client):
    perennial("approve", "x")
    perennial("cancel", "x", "--by", "ops", "--reason", "twice")
    assert client.calls == [
        ("approve", ("x", None), {"by": getpass.getuser(), "comment": "", "edition": None}),
        (
            "cancel",
            ("x",),
            {"by": "ops", "reason": "twice", "compensate": False, "now": False},
        ),
        ("get", ("x",), {}),  # whether it cleans up first
    ]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("command", [("db", "check"), ("db", "upgrade"), ("db", "current")])
def test_an_unreachable_postgres_is_named_without_its_password(perennial, command):
    url = f"postgresql://app:{PASSWORD}@127.0.0.1:{closed_port()}/app"
    told = perennial(*command, PERENNIAL_DATABASE_URL=url)
    assert told.exit_code == ExitCode.REFUSED
    assert told.stderr.startswith("error: can't reach Postgres: ")
    assert "127.0.0.1" in told.stderr
    assert "`perennial up` starts one" in told.stderr
    assert told.stderr.count("\n") == 1
    assert PASSWORD not in told.output


def test_a_url_that_cant_be_read_is_not_repeated(perennial):
    told = perennial("db", "check", PERENNIAL_DATABASE_URL=f"app:{PASSWORD}@nowhere")
    assert told.exit_code == ExitCode.USAGE
    assert "postgresql://user:password@host" in told.stderr
    assert PASSWORD not in told.output


def test_an_unreachable_broker_is_explained():
    import redis

    with pytest.raises(redis.exceptions.ConnectionError) as caught:
        redis.Redis(port=closed_port()).ping()
    assert explain(caught.value).type == "BrokerUnreachable"


def test_a_setting_that_makes_no_sense_is_named(perennial, client, monkeypatch):
    from orchestrator.settings import Settings

    def read_settings(_url: str) -> FakeClient:
        Settings()
        return client

    perennial.session.open_client = read_settings
    told = perennial("ps", PERENNIAL_BATCH_SIZE="many")
    assert told.exit_code == ExitCode.USAGE
    assert "PERENNIAL_BATCH_SIZE" in told.stderr
    told = perennial("ps", PERENNIAL_SCHEMA="public")
    assert told.exit_code == ExitCode.USAGE
    assert (
        "PERENNIAL_SCHEMA: no record can be in a schema 'public': there an app's own"
        in " ".join(told.stderr.split())
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://app:hunter2@db/app", "postgresql://app:***@db/app"),
        ("redis://:hunter2@cache:6379/0", "redis://:***@cache:6379/0"),
        ("postgresql://app@/app?host=/run/pg", "postgresql://app@/app?host=/run/pg"),
        ("postgresql:///app?user=a&password=hunter2", "postgresql:///app?user=a&password=***"),
        ("redis://cache/0", "redis://cache/0"),
        ("postgresql://a:p@hunter2@db/app", "postgresql://a:***@db/app"),
    ],
)
def test_no_form_of_a_url_shows_its_password(url, shown):
    assert masked(url) == shown


def test_an_engine_takes_every_spelling_of_a_postgres_url():
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        with engine_of(f"{scheme}://app@db/app") as engine:
            assert engine.dialect.driver == "psycopg"
