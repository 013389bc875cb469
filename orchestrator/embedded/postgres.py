"""One Postgres server on a Unix socket, driven by its own `initdb` and `pg_ctl`.

What stands in the data directory:

    cluster/      Postgres' own data, its socket and its log (`server.log`); as root, when the
                  unprivileged account cannot enter the data directory, a link to /var/tmp
    owner.lock    held by the process that started the server, for as long as it lives
    change.lock   held while the server is being started or stopped

Only Unix accounts that may enter `cluster/` (we, and root) reach the socket, so connections are
trusted and no port is opened. Writes are as durable as Postgres makes them: `fsync` stays on.
"""

import os
import shlex
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from orchestrator.embedded.account import (
    Account,
    account_for_postgres,
    reachable_binaries,
    reachable_parent,
    shared_directory,
)
from orchestrator.embedded.binaries import INSTALL_HINT, PostgresBinaries, find_postgres
from orchestrator.embedded.claim import DirectoryClaim
from orchestrator.embedded.errors import EmbeddedServerError
from orchestrator.embedded.waiting import wait_until

DATABASE = "perennial"
USER = "postgres"
PORT = 5432  # names the socket; nothing listens on the network
SOCKET_NAME = f".s.PGSQL.{PORT}"
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
INITDB_TIMEOUT_SECONDS = 120
START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 60
GRACE_SECONDS = 5  # on top of what pg_ctl itself was told to wait
# sun_path holds 108 bytes on Linux, 104 on macOS, each with its closing zero.
SOCKET_PATH_BYTES_MAX = 103
BUILTIN_LOCALE_SINCE_VERSION = 17
LOG_TAIL_CHARACTERS = 2000
# pg_ctl hands its paths to a shell, between double quotes.
CHARACTERS_PG_CTL_CANNOT_TAKE = frozenset('"$`\\\n')


@dataclass(frozen=True)
class _Postmaster:
    """What a running server says of itself in `postmaster.pid`."""

    process_id: int
    socket_directory: Path


class EmbeddedPostgres:
    """A Postgres server whose data stays in `data_dir` between starts.

    The first object to start it owns it and stops it; any other start on the same directory, in
    this process or another, attaches to the running server and leaves it running. If an owner was
    killed, the next start adopts its server. As root the server runs as an unprivileged account.

    Args:
        data_dir: made if missing; ours alone.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = Path(data_dir).absolute()
        self._claim = DirectoryClaim(self.data_dir)
        self._socket_directory: Path | None = None

    @property
    def owned(self) -> bool:
        """True if this object has the server in its care, and `stop` will stop it."""
        return self._claim.held

    @property
    def process_id(self) -> int | None:
        """The process id of the running server, or None."""
        postmaster = self._postmaster()
        return postmaster.process_id if postmaster else None

    def start(self) -> str:
        """Start the server, or attach to it, and see that its database exists.

        Returns:
            The SQLAlchemy URL of the database `perennial`.

        Raises:
            EmbeddedServerError: there is no Postgres here, or it does not start.
        """
        if wrong := CHARACTERS_PG_CTL_CANNOT_TAKE & set(str(self._cluster)):
            raise EmbeddedServerError(
                f"Postgres cannot keep its data in {self.data_dir}: pg_ctl does not take "
                f"{' '.join(map(repr, sorted(wrong)))} in a path. Choose another directory."
            )
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self._claim.changing():
            attached = not self._claim.take()
            try:
                if self._postmaster() is None:
                    self._launch()
                self._ensure_database()
            except BaseException:
                if not attached:
                    self._stop(mode="fast")
                    self._claim.release()
                raise
        return self.url()

    def stop(self) -> None:
        """Stop the server if this object owns it; open connections are closed."""
        if not self._claim.held:
            return
        with self._claim.changing():
            self._stop(mode="fast")
            self._claim.release()

    def crash(self) -> None:
        """Stop the server as a power cut would, for tests: `start` then recovers from its log."""
        with self._claim.changing():
            self._stop(mode="immediate")

    def delete(self) -> None:
        """Stop the server and remove its data.

        Raises:
            EmbeddedServerError: another process owns the running server.
        """
        self.stop()
        if not self.data_dir.exists():
            return
        if self._postmaster() is not None:
            raise EmbeddedServerError(
                f"The Postgres in {self.data_dir} is in use by another process; stop that first."
            )
        link = self.data_dir / "cluster"
        cluster = link.resolve()
        if link.is_symlink():
            link.unlink()
            shutil.rmtree(cluster.parent, ignore_errors=True)
        else:
            shutil.rmtree(cluster, ignore_errors=True)
        if self._socket_directory is not None and self._socket_directory != cluster:
            shutil.rmtree(self._socket_directory, ignore_errors=True)
        for name in ("owner.lock", "change.lock"):
            (self.data_dir / name).unlink(missing_ok=True)
        with suppress(OSError):  # whatever else is in there is not ours to remove
            self.data_dir.rmdir()

    def url(self, database: str = DATABASE) -> str:
        """The SQLAlchemy URL of a database of this server.

        Raises:
            EmbeddedServerError: the server was never started by this object.
        """
        if self._socket_directory is None:
            raise EmbeddedServerError(f"The Postgres in {self.data_dir} is not started: start it.")
        host = quote(str(self._socket_directory))
        # The port is said aloud, so that a PGPORT of the reader's cannot misdirect it.
        return f"postgresql+psycopg://{USER}@/{quote(database, safe='')}?host={host}&port={PORT}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def _cluster(self) -> Path:
        return (self.data_dir / "cluster").resolve()

    def _launch(self) -> None:
        link = self.data_dir / "cluster"
        if link.is_symlink() and not link.exists():
            link.unlink()  # its target was cleaned out of /var/tmp
        account = account_for_postgres(link)
        binaries = reachable_binaries(find_postgres(), account)
        if not link.exists():
            parent = reachable_parent(self.data_dir, account)
            _initialise(parent / "cluster", account, binaries)
            if parent != self.data_dir:
                link.symlink_to(parent / "cluster")
        _refuse_other_version(self._cluster, binaries)
        sockets = _socket_directory_for(self._cluster, account)
        self._discard_stale_locks(sockets)
        self._run_postmaster(account, binaries, sockets)

    def _run_postmaster(self, account: Account, binaries: PostgresBinaries, sockets: Path) -> None:
        cluster = self._cluster
        log = cluster / "server.log"
        log.unlink(missing_ok=True)  # one start's log at a time, so that it cannot grow for ever
        settings = {**SETTINGS, "unix_socket_directories": _quoted_in_list(sockets)}
        options = " ".join(f"-c {shlex.quote(f'{k}={v}')}" for k, v in settings.items())
        command = [
            str(binaries.pg_ctl),
            *("start", "-w", "-s", "-t", str(START_TIMEOUT_SECONDS)),
            *("-D", str(cluster), "-l", str(log), "-o", f"-p {PORT} {options}"),
        ]
        done = account.run(command, timeout_seconds=START_TIMEOUT_SECONDS + GRACE_SECONDS)
        if done.returncode != 0:
            said = log.read_text(errors="replace") if log.exists() else ""
            raise EmbeddedServerError(
                f"Postgres did not start in {cluster}: {done.stderr.strip()}\n"
                f"{said[-LOG_TAIL_CHARACTERS:]}"
            )

    def _ensure_database(self) -> None:
        postmaster = self._postmaster()
        if postmaster is None:
            raise EmbeddedServerError(f"The Postgres in {self._cluster} stopped as it started.")
        self._socket_directory = postmaster.socket_directory
        psycopg = _psycopg()
        failure = ""

        def made() -> bool:
            # A server that another process is starting answers, but not yet to us.
            nonlocal failure
            try:
                with psycopg.connect(
                    host=str(postmaster.socket_directory),
                    port=PORT,
                    user=USER,
                    dbname="postgres",
                    autocommit=True,
                ) as connection:
                    _create_database_if_missing(connection, psycopg)
            except psycopg.OperationalError as error:
                failure = str(error)
                return False
            return True

        if not wait_until(made, timeout_seconds=START_TIMEOUT_SECONDS):
            raise EmbeddedServerError(
                f"Postgres in {self._cluster} runs but does not answer: {failure}"
            )

    def _stop(self, *, mode: str) -> None:
        postmaster = self._postmaster()
        if postmaster is None:
            return
        cluster = self._cluster
        account = account_for_postgres(cluster)
        binaries = reachable_binaries(find_postgres(), account)
        command = [
            str(binaries.pg_ctl),
            *("stop", "-w", "-s", "-m", mode, "-t", str(STOP_TIMEOUT_SECONDS), "-D", str(cluster)),
        ]
        done = account.run(command, timeout_seconds=STOP_TIMEOUT_SECONDS + GRACE_SECONDS)
        if done.returncode != 0 and self._postmaster() is not None:
            raise EmbeddedServerError(
                f"Postgres in {cluster} did not stop (process {postmaster.process_id}): "
                f"{done.stderr.strip()}"
            )

    def _postmaster(self) -> _Postmaster | None:
        """The running server of this cluster, told apart from a leftover `postmaster.pid`."""
        cluster = self._cluster
        try:
            lines = (cluster / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return None
        # Lines: process id, data directory, start time, port, socket directory, ...
        if len(lines) < 5 or not _runs_cluster(int(lines[0]), cluster):  # noqa: PLR2004 - see above
            return None
        return _Postmaster(int(lines[0]), Path(lines[4]))

    def _discard_stale_locks(self, socket_directory: Path) -> None:
        # Postgres discards the locks of a dead process itself, but refuses to start if the number
        # belongs to another program by now, or to a zombie: both are usual in containers. Should
        # children of a killed server still be at work, its shared memory tells the new one so.
        if self._postmaster() is None:
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
            for name in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):
                (socket_directory / name).unlink(missing_ok=True)


def _initialise(cluster: Path, account: Account, binaries: PostgresBinaries) -> None:
    # Made beside its place and moved into it, so that a killed initdb leaves no half a cluster.
    staged = cluster.with_name("cluster.new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(mode=0o700)
    account.give(staged)
    builtin = binaries.major_version() >= BUILTIN_LOCALE_SINCE_VERSION
    # C.UTF-8 out of Postgres itself where it has it: the same on every system, and quickest.
    locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8") if builtin else ()
    command = [
        str(binaries.initdb),
        *("--pgdata", str(staged), "--username", USER, "--auth", "trust", "--encoding", "UTF8"),
        *("--no-locale", *locale),
        # Nothing of value is in there before the first start, which syncs all that it writes.
        *("--no-sync", "--no-instructions"),
    ]
    done = account.run(command, timeout_seconds=INITDB_TIMEOUT_SECONDS)
    if done.returncode != 0:
        raise EmbeddedServerError(
            f"initdb failed in {staged} as {account.name}: {done.stderr.strip()}"
        )
    staged.replace(cluster)


def _refuse_other_version(cluster: Path, binaries: PostgresBinaries) -> None:
    made_by = int((cluster / "PG_VERSION").read_text())
    if made_by != (here := binaries.major_version()):
        raise EmbeddedServerError(
            f"The data in {cluster} was made by Postgres {made_by}, and {binaries.postgres} is "
            f"{here}. Move that directory away to begin anew, or install Postgres {made_by}."
        )


def _socket_directory_for(cluster: Path, account: Account) -> Path:
    fits = len(os.fsencode(cluster / SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX
    if fits and "," not in str(cluster):  # libpq reads a comma as the start of another host
        return cluster
    # Named for the cluster, so that its URL outlives a restart.
    short = shared_directory("socket", str(cluster), mode=0o700, owners=(account.user_id,))
    account.give(short)
    return short


def _quoted_in_list(path: Path) -> str:
    """A path as one item of a Postgres setting that is a list."""
    return '"' + str(path).replace('"', '""') + '"'


def _runs_cluster(process_id: int, cluster: Path) -> bool:
    try:
        command = Path(f"/proc/{process_id}/cmdline").read_bytes().replace(b"\0", b" ")
    except FileNotFoundError:
        if Path("/proc/self/cmdline").exists():
            return False
        # No /proc: macOS.
        asked = ["ps", "-o", "command=", "-p", str(process_id)]
        command = subprocess.run(asked, check=False, capture_output=True, timeout=30).stdout
    return os.fsencode(cluster) in command and b"postgres" in command


def _create_database_if_missing(connection: Any, psycopg: Any) -> None:
    found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE])
    if found.fetchone() is None:
        name = psycopg.sql.Identifier(DATABASE)
        connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(name))


def _psycopg() -> Any:
    # psycopg raises ImportError when it is installed without a libpq to speak through.
    try:
        import psycopg
        import psycopg.sql
    except ImportError as error:
        raise EmbeddedServerError(
            f"psycopg cannot reach Postgres here ({error}). Mend it with: {INSTALL_HINT}"
        ) from error
    return psycopg
