"""One Valkey (or Redis) server on a port of 127.0.0.1.

What stands in the data directory: `port` (where the server listens) and `password` (what it asks for), kept
so that a restart keeps its URL, `server.log`, the append-only files if it persists, and the two locks of
`claim`. A server is known as ours by asking it: it says which directory it works in, and its process id.

Any account of this machine reaches a port of 127.0.0.1, and whoever may write to a broker has its workers
run what they like. So the directory is its owner's alone, and the server does nothing without the password,
which is in no argument of a process either: the server reads it from its standard input.
"""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from orchestrator.embedded.binaries import find_redis
from orchestrator.embedded.claim import DirectoryClaim
from orchestrator.embedded.errors import EmbeddedServerError
from orchestrator.embedded.private import kept_password, private_directory
from orchestrator.embedded.waiting import wait_until

HOST = "127.0.0.1"
START_TIMEOUT_SECONDS = 30
STOP_TIMEOUT_SECONDS = 15
PROBE_TIMEOUT_SECONDS = 2
PORT_TRIES_MAX = 5
LOG_TAIL_CHARACTERS = 2000


class EmbeddedRedis:
    """A Valkey server that keeps its port between starts, and its data if asked to.

    Owned and attached to in the same way as `EmbeddedPostgres`.

    Args:
        data_dir: made if missing; ours alone.
        persist: keep the data between starts, appended to a file that is synced every second.
            Without it a start begins empty, which is all that Perennial needs of a broker.
    """

    def __init__(self, data_dir: Path, *, persist: bool = False) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.persist = persist
        self._claim = DirectoryClaim(self.data_dir)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def owned(self) -> bool:
        """True if this object has the server in its care, and `stop` will stop it."""
        return self._claim.held

    @property
    def process_id(self) -> int | None:
        """The process id of the running server, or None."""
        port = self._recorded_port()
        return None if port is None else self._process_at(port)

    @property
    def url(self) -> str:
        """The URL of the server's first database, with its password.

        Raises:
            EmbeddedServerError: no server was ever started in this directory.
        """
        port = self._recorded_port()
        if port is None:
            raise EmbeddedServerError(f"The Redis in {self.data_dir} is not started: start it.")
        return f"redis://:{self._password}@{HOST}:{port}/0"

    def start(self) -> str:
        """Start the server, or attach to it, and return its URL.

        The port of the last start is used again unless another program has taken it.

        Raises:
            EmbeddedServerError: there is no Valkey or Redis here, or it does not start.
        """
        private_directory(self.data_dir)
        with self._claim.changing():
            attached = not self._claim.take()
            try:
                if self.process_id is None:
                    self._launch()
                elif (port := self._recorded_port()) is not None:
                    self._ask_for_password(port)
            except BaseException:
                if not attached:
                    self._end(signal.SIGTERM)
                    self._claim.release()
                raise
        return self.url

    def stop(self) -> None:
        """Stop the server if this object owns it."""
        if not self._claim.held:
            return
        with self._claim.changing():
            self._end(signal.SIGTERM)
            self._claim.release()

    def kill(self) -> None:
        """End the server by SIGKILL, for tests; `start` brings it back on the same port."""
        with self._claim.changing():
            self._end(signal.SIGKILL)

    def delete(self) -> None:
        """Stop the server and remove its data.

        Raises:
            EmbeddedServerError: another process owns the running server.
        """
        self.stop()
        if self.process_id is not None:
            raise EmbeddedServerError(
                f"The Redis in {self.data_dir} is in use by another process; stop that first."
            )
        shutil.rmtree(self.data_dir, ignore_errors=True)

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

    def _recorded_port(self) -> int | None:
        try:
            return int((self.data_dir / "port").read_text())
        except (FileNotFoundError, ValueError):
            return None

    @property
    def _password(self) -> str:
        return kept_password(self.data_dir / "password")

    def _ask_for_password(self, port: int) -> None:
        """A server that an older release has left running here is open to all until now."""
        with self._client(port) as client:
            client.config_set("requirepass", self._password)

    def _client(self, port: int) -> redis.Redis:
        return redis.Redis(
            host=HOST,
            port=port,
            username="default",  # a server without a password takes any from it, and none without a name
            password=self._password,
            socket_timeout=PROBE_TIMEOUT_SECONDS,
            socket_connect_timeout=PROBE_TIMEOUT_SECONDS,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),  # a closed port is an answer, and redis-py would ask on
        )

    def _process_at(self, port: int) -> int | None:
        """The process id of the server at `port`, if it is the one of this directory."""
        if not _listener_is_ours(port):
            return None  # nobody else is told the password
        with self._client(port) as client:
            try:
                directory = client.config_get("dir")["dir"]
                process_id = client.info("server")["process_id"]
            except (redis.RedisError, OSError, LookupError):
                return None
        ours = Path(str(directory)).resolve() == self.data_dir.resolve()
        return int(process_id) if ours else None

    def _launch(self) -> None:
        program = find_redis()
        for _ in range(PORT_TRIES_MAX):
            port = self._recorded_port()
            if port is None or not _is_free(port):
                port = _free_port()
            if self._launch_at(port, program):
                return
            # Lost its port to another program in between: choose another.
            (self.data_dir / "port").unlink(missing_ok=True)
        log = (self.data_dir / "server.log").read_text(errors="replace")
        raise EmbeddedServerError(
            f"{program.name} did not start in {self.data_dir}:\n{log[-LOG_TAIL_CHARACTERS:]}"
        )

    def _launch_at(self, port: int, program: Path) -> bool:
        # Recorded before the launch: if we die in between, the next start still finds the server.
        (self.data_dir / "port").write_text(f"{port}\n")
        command = [
            *(str(program), "-"),
            *("--bind", HOST, "--port", str(port), "--dir", str(self.data_dir)),
            *("--save", "", "--appendonly", "yes" if self.persist else "no"),
            *("--appendfsync", "everysec", "--daemonize", "no"),
        ]
        with (self.data_dir / "server.log").open("wb") as log:
            self._child = child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.data_dir,
                start_new_session=True,  # a Ctrl-C meant for us must not end it before we do
            )
        if child.stdin is not None:
            with (
                suppress(BrokenPipeError),
                child.stdin as configuration,
            ):  # its log says why it ended
                configuration.write(f"requirepass {self._password}\n".encode())

        def settled() -> bool:
            return child.poll() is not None or self._process_at(port) == child.pid

        wait_until(settled, timeout_seconds=START_TIMEOUT_SECONDS)
        if self._process_at(port) == child.pid:
            return True
        self._end(signal.SIGKILL)
        return False

    def _end(self, how: signal.Signals) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(how)
            try:
                self._child.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait(STOP_TIMEOUT_SECONDS)
        elif (process_id := self.process_id) is not None:
            # Not our child: started by a process that is gone. It has just told us its id.
            os.kill(process_id, how)
            gone = wait_until(
                lambda: self.process_id != process_id, timeout_seconds=STOP_TIMEOUT_SECONDS
            )
            if not gone:
                with suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGKILL)
        self._child = None


def _listener_is_ours(port: int) -> bool:
    """Whether this account has the port, as the kernel lists it. Where it lists none: as far as we know."""
    try:
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return True
    sockets = [line.split() for line in lines]
    return any(
        int(place.rpartition(":")[2], 16) == port and state == "0A" and int(owner) == os.geteuid()
        for _, place, _, state, _, _, _, owner, *_ in sockets
    )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server itself does: connections of the last start may still be in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
