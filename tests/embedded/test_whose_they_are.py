"""The embedded servers are for the account that started them, and for nobody else of this machine.

As root the tests ask as another account, in a child that has become it; else they look at the modes.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from sqlalchemy import make_url

from orchestrator.embedded import EmbeddedRedis, EmbeddedServers

STRANGER = 54_321
"""A user id that no account has."""


@pytest.fixture(scope="module")
def servers() -> Iterator[EmbeddedServers]:
    home = Path(tempfile.mkdtemp(prefix="perennial-whose-"))
    home.chmod(0o755)  # nothing above the servers' own directories protects them
    made = EmbeddedServers(home / "data")
    with made:
        yield made
    made.delete()
    shutil.rmtree(home)


def as_stranger(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What another account sees. Modules are loaded before it is that account."""
    become = (
        "import encodings.idna, os, psycopg, socket, sys\n"
        f"os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})\n"
    )
    return subprocess.run(
        [sys.executable, "-c", become + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another account")


def test_valkey_does_nothing_for_who_has_no_password(servers):
    port = int(make_url(servers.urls.broker_url).port)
    for words in (b"PING", b"LPUSH celery x", b"FLUSHALL", b"CONFIG GET *", b"AUTH guess"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
            stranger.sendall(words + b"\r\n")
            assert stranger.recv(100).startswith((b"-NOAUTH", b"-WRONGPASS"))


def test_another_account_reads_no_password_and_no_message(servers):
    """Not in a file, nor in the arguments that every account may list."""
    password = make_url(servers.urls.broker_url).password
    assert len(password) >= 24
    folder = servers.redis.data_dir
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
    server = psutil.Process(servers.redis.process_id)
    assert all(password not in word for word in server.cmdline())
    assert password not in (folder / "server.log").read_text()


def test_postgres_listens_in_a_folder_of_its_accounts_alone(servers):
    sockets = Path(str(make_url(servers.urls.database_url).query["host"]))
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    postgres = psutil.Process(servers.postgres.process_id)
    assert not [
        each
        for each in postgres.net_connections()
        if each.status == psutil.CONN_LISTEN and each.laddr and each.family != socket.AF_UNIX
    ]


@needs_root
def test_another_account_reaches_neither_server(servers):
    urls = servers.urls
    postgres = as_stranger(
        "psycopg.connect(sys.argv[1])", urls.database_url.replace("+psycopg", "")
    )
    assert "Permission denied" in postgres.stderr
    where = str(servers.redis.data_dir / "password")
    assert "PermissionError" in as_stranger("open(sys.argv[1])", where).stderr
    port = str(make_url(urls.broker_url).port)
    code = (
        "door = socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=10)\n"
        "door.sendall(b'LPUSH celery x\\r\\n')\n"
        "print(door.recv(100))\n"
    )
    assert "NOAUTH" in as_stranger(code, port).stdout


def test_a_stranger_on_our_port_is_not_told_the_password(tmp_path):
    """Whoever took the port of a stopped server waits for the next start to introduce itself."""
    valkey = EmbeddedRedis(tmp_path / "redis")
    valkey.start()
    port = make_url(valkey.url).port
    valkey.stop()
    if os.geteuid() != 0:
        pytest.skip("only root may become another account")
    code = (
        "listener = socket.socket()\n"
        "listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "listener.bind(('127.0.0.1', int(sys.argv[1])))\n"
        "listener.listen()\n"
        "print('listens', flush=True)\n"
        "sys.stdin.read()\n"
        "listener.setblocking(False)\n"
        "print(listener.accept()[0].recv(4096))\n"
    )
    become = f"import os, socket, sys; os.setgid({STRANGER}); os.setuid({STRANGER})\n"
    with subprocess.Popen(
        [sys.executable, "-c", become + code, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as stranger:
        assert stranger.stdout.readline() == "listens\n"
        valkey.start()
        heard, failed = stranger.communicate("")
    assert make_url(valkey.url).port != port
    valkey.delete()
    assert heard == ""
    assert "BlockingIOError" in failed, "nobody knocked"


def test_a_server_that_an_older_release_left_open_is_ended(tmp_path):
    """It has our data and no password."""
    folder = tmp_path / "redis"
    valkey = EmbeddedRedis(folder)
    valkey.start()
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("requirepass", "")
    valkey._claim.release()
    with EmbeddedRedis(folder) as again:
        assert again.process_id == valkey._child.pid
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=make_url(again.url).port).ping()
    valkey._child.wait(10)
    again.delete()
