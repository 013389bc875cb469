"""No spelling of a password is shown: not by an error, a traceback, a representation or a process list."""

from __future__ import annotations

import os
import subprocess
import sys
from urllib.parse import quote

import pytest
from kombu import Connection
from redis import Redis

from demo.main import DemoOptions
from orchestrator.addresses import broker_url, scrubbed
from orchestrator.cli.secrets import without_secrets
from orchestrator.cli.servers import Fleet
from orchestrator.cli.session import Session, _open_client
from orchestrator.embedded import ServerUrls
from orchestrator.errors import BadBrokerURL

ODD = (
    "p@hun",
    "p/hun",
    "p?hun",
    "p#hun",
    "p:hun",
    "p%hun",
    "p hun",
    "p&hun",
    "p=hun",
    "p'hun",
    "p;hun",
)
PASSWORDS = [f"{odd}ter2" for odd in ODD]
TELLTALES = ("hun", "ter2")


def databases(password: str) -> list[str]:
    """How people spell it, rightly and wrongly. Nobody listens on port 1."""
    right = quote(password, safe="")
    words = password.replace("'", r"\'")
    return [
        f"postgresql://app:{password}@127.0.0.1:1/shop",
        f"postgresql://app:{right}@127.0.0.1:1/shop",
        f"postgresql+psycopg2://app:{password}@127.0.0.1:1/shop",
        f"postgresql://127.0.0.1:1/shop?user=app&password={password}",
        f"postgresql+asyncpg://127.0.0.1:1/shop?password={right}",
        f"host=127.0.0.1 port=1 password='{words}'",
        f"host=127.0.0.1 port=1 password={password}",
        f"mysql://app:{password}@127.0.0.1:1/shop",
    ]


@pytest.mark.parametrize("password", PASSWORDS)
def test_no_error_about_the_database_shows_its_password(perennial, password):
    perennial.session.open_client = _open_client
    commands = (
        [("ps",)] if password != PASSWORDS[0] else [("ps",), ("db", "check"), ("ps", "--json")]
    )
    for url in databases(password):
        for command in commands:
            told = perennial(*command, PERENNIAL_DATABASE_URL=url)
            assert told.exit_code in (1, 2), told.output
            assert told.stderr.count("\n") == 1 or "--json" in command
            assert not [piece for piece in TELLTALES if piece in told.output], (url, told.output)
            assert told.exception is None or isinstance(told.exception, SystemExit)


def brokers(password: str) -> list[str]:
    right = quote(password, safe="")
    return [
        f"redis://:{right}@127.0.0.1:1/0",
        f"redis://app:{right}@127.0.0.1:1/0",
        f"redis://127.0.0.1:1/0?password={right}",
        f"rediss://127.0.0.1:1/0?ssl_cert_reqs=none&username=app&password={right}",
        f"amqp://app:{right}@127.0.0.1:1//",
        f"sentinel://:{right}@127.0.0.1:1;sentinel://:{right}@127.0.0.1:2",
        f"redis+socket://:{right}@/tmp/none.sock?virtual_host=1",
    ]


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_is_read_as_celery_and_redis_py_read_it(password):
    for url in brokers(password):
        read = broker_url(url)
        if not url.startswith("redis+socket"):
            assert Connection(read).password == password, url
            assert not [piece for piece in TELLTALES if piece in Connection(read).as_uri()]
        if read.startswith(("redis://", "rediss://")):
            assert Redis.from_url(read).connection_pool.connection_kwargs["password"] == password


@pytest.mark.parametrize("odd", ["p/hunter2", "p#hunter2", "p?hunter2", "p[hunter2"])
@pytest.mark.parametrize(
    "form", ["redis://:{}@db:1/0", "amqp://app:{}@db//", "redis://a:1/0;redis://:{}@db"]
)
def test_a_broker_url_that_cant_be_read_is_refused_without_being_repeated(odd, form):
    with pytest.raises(BadBrokerURL, match="%2F") as caught:
        broker_url(form.format(odd))
    assert caught.value.__suppress_context__
    assert "hunter2" not in str(caught.value)


def test_what_needs_no_change_is_left_as_it_is():
    for url in (
        "redis://cache/0",
        "redis://:pw@cache:6379/0?socket_timeout=3",
        "memory://",
        "amqp://",
    ):
        assert broker_url(url) == url


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_text_of_others_is_scrubbed_of_each_spelling(password):
    for url in databases(password) + brokers(password):
        shown = scrubbed(f"failed: {url}, {password!r}, {quote(password)}", [url])
        assert not [piece for piece in TELLTALES if piece in shown], (url, shown)
        assert "failed" in shown


def test_no_representation_holds_a_url(tmp_path):
    urls = {"database_url": "postgresql://a:hunter2@db/x", "broker_url": "redis://:hunter2@c/0"}
    session = Session(**urls)
    fleet = Fleet(None, "shop", **urls, flower_port=1, processes=[], queues=None, data_dir=tmp_path)
    for each in (session, fleet, ServerUrls(**urls), DemoOptions(**urls)):
        assert "hunter2" not in repr(each)


APP = """
import os, pathlib
mine = pathlib.Path("/proc/self/cmdline")
shown = mine.read_bytes().replace(b"\\0", b" ").decode() if mine.exists() else ""
raise KeyError(os.environ["PERENNIAL_DATABASE_URL"], shown)
"""


@pytest.mark.parametrize("form", [["--database-url", "{}"], ["--database-url={}"]])
def test_a_password_that_was_typed_is_in_no_process_list_and_in_no_error(tmp_path, form):
    """The app's own error repeats both: its environment, and how its process is listed."""
    url = "postgresql://app:p@hunter2@127.0.0.1:1/shop"
    (tmp_path / "shop.py").write_text(APP, encoding="utf-8")
    arguments = [word.format(url) for word in form]
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from orchestrator.cli import main; main()"),
            *(*arguments, "--broker-url", "redis://cache/0", "--app", "shop", "deploy"),
        ],
        cwd=tmp_path,
        env={name: each for name, each in os.environ.items() if not name.startswith("PERENNIAL_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "KeyError" in done.stderr
    assert "--broker-url redis://cache/0" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout


def test_the_traceback_of_a_bug_is_shown_without_passwords(monkeypatch, capsys):
    monkeypatch.setenv("PERENNIAL_DATABASE_URL", "postgresql://app:p@hunter2@db/shop")
    monkeypatch.setenv("PERENNIAL_BROKER_URL", "redis://c/0?password=hun%2Fter2")
    with pytest.raises(SystemExit) as caught, without_secrets():
        raise LookupError("bug at p@hunter2", "hun/ter2")
    assert caught.value.code == 1
    told = capsys.readouterr().err
    assert "LookupError: ('bug at ***', '***')" in told
    assert not [piece for piece in ("hunter2", "ter2") if piece in told.replace("test_secrets", "")]
