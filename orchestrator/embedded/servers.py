"""Postgres and Valkey together, in one data directory."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.embedded.postgres import EmbeddedPostgres
from orchestrator.embedded.redis import EmbeddedRedis


@dataclass(frozen=True)
class ServerUrls:
    """Where the two servers are, in the form that `PERENNIAL_*` settings take."""

    database_url: str = field(repr=False)
    broker_url: str = field(repr=False)


class EmbeddedServers:
    """Both servers, in `<data_dir>/postgres` and `<data_dir>/redis`.

    A second start on the same directory attaches to the servers that run already and does not stop
    them. Use it in a `with` statement: nothing stops the servers if `stop` is never called, though
    the next start on the directory takes them over.

    Args:
        data_dir: made if missing; the data stays there between starts.
        persist_redis: see `EmbeddedRedis`.
    """

    def __init__(self, data_dir: Path, *, persist_redis: bool = False) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.postgres = EmbeddedPostgres(self.data_dir / "postgres")
        self.redis = EmbeddedRedis(self.data_dir / "redis", persist=persist_redis)

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[Self]:
        """Servers in a directory of their own, which goes away with them; for tests."""
        directory = Path(tempfile.mkdtemp(prefix="perennial-"))
        directory.chmod(0o711)  # as root, Postgres' account has to pass through
        servers = cls(directory)
        try:
            servers.start()
            yield servers
        finally:
            servers.delete()

    @property
    def owned(self) -> bool:
        """True if `stop` will stop the servers; False if they are another's."""
        return self.postgres.owned

    @property
    def urls(self) -> ServerUrls:
        """Where the started servers are."""
        return ServerUrls(database_url=self.postgres.url(), broker_url=self.redis.url)

    def start(self) -> ServerUrls:
        """Start both servers, or attach to them.

        Raises:
            EmbeddedServerError: a server is not to be found, or does not start.
        """
        self.postgres.start()
        try:
            self.redis.start()
        except BaseException:
            self.postgres.stop()
            raise
        return self.urls

    def stop(self) -> None:
        """Stop the servers that this object owns."""
        try:
            self.redis.stop()
        finally:
            self.postgres.stop()

    def delete(self) -> None:
        """Stop both servers and remove their data."""
        try:
            self.redis.delete()
        finally:
            self.postgres.delete()
        with suppress(OSError):  # whatever else is in there is not ours to remove
            self.data_dir.rmdir()

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
