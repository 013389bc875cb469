"""A fresh database for each test: a clone of one that was migrated once per session.

The server is the one that is named, or an embedded Postgres. Who starts one, and ends it, is this interpreter; or, for
a session of several processes (`session`), the first that needs it, and whoever ends the session (`end_shared`).
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from sqlalchemy import URL, NullPool, text

from orchestrator.addresses import DatabaseAddress
from orchestrator.settings import Settings, SettingsError
from orchestrator.store.schema import migrate, options_in
from orchestrator.testing import session

TEST_DATABASE_VARIABLE = "PERENNIAL_TEST_DATABASE_URL"
"""Names a server for tests. Its user may create databases; the database it names is left as it is."""


def end_shared(directory: Path) -> None:
    """End what processes of that directory have started, if they have: its server, and templates on a named one."""
    templates = directory / "templates"
    if (directory / "postgres").exists():
        _end_embedded(directory / "postgres")
    elif templates.exists() and (named := os.environ.get(TEST_DATABASE_VARIABLE)):
        for name in templates.read_text().split():
            _Server(named).drop(name)
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def fresh_database(server_url: str | URL | None = None) -> Iterator[str]:
    """The URL of a migrated, empty database, which is dropped at the end.

    `server_url` None: the server of `PERENNIAL_TEST_DATABASE_URL`, or an embedded one.
    Raises SettingsError where there is neither.
    """
    server = _server_at(server_url or os.environ.get(TEST_DATABASE_VARIABLE))
    name = server.create(template=server.template_in(Settings().database_schema))
    try:
        yield server.url(name)
    finally:
        server.drop(name)


class _Server:
    """A Postgres server, and the migrated templates on it: one for each schema that records are in."""

    def __init__(self, url: str | URL, shared: Path | None = None) -> None:
        self._address, self._shared = DatabaseAddress.of(url), shared
        self._templates: dict[str, str] = {}

    def template_in(self, schema: str) -> str:
        """Made when it is first asked for."""
        if schema not in self._templates:
            self._templates[schema] = (
                self._own_template(schema)
                if self._shared is None
                else self._shared_template(schema, self._shared)
            )
        return self._templates[schema]

    def url(self, database: str) -> str:
        return self._address.on(database).url.render_as_string(hide_password=False)

    def create(self, *, template: str) -> str:
        name = f"perennial_test_{uuid4().hex}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def spare_the_disk(self) -> None:
        """It waits for the disk no longer: a database of a test's own outlives no power cut."""
        for setting in ("fsync", "full_page_writes"):
            self._execute(f"ALTER SYSTEM SET {setting} TO off")
        self._execute("SELECT pg_reload_conf()")

    def _own_template(self, schema: str) -> str:
        template = self._migrated(schema)
        atexit.register(self.drop, template)
        return template

    def _shared_template(self, schema: str, directory: Path) -> str:
        """Of the first process that asks; the others wait for it."""
        where = sha256(f"{self._address.url.host}/{schema}".encode()).hexdigest()[:12]
        known = directory / f"template-{where}"
        with _alone_in(directory):
            if not known.exists():
                template = self._migrated(schema)
                with (directory / "templates").open("a") as templates:
                    templates.write(f"{template}\n")
                known.write_text(template)
            return known.read_text()

    def _migrated(self, schema: str) -> str:
        template = self.create(template="template1")
        engine = self._address.on(template).engine(
            poolclass=NullPool, execution_options=options_in(schema)
        )
        migrate.upgrade(engine)
        return template

    def _execute(self, statement: str) -> None:
        engine = self._address.engine(poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))


@cache
def _server_at(url: str | URL | None) -> _Server:
    shared = session.shared
    if url is not None:
        is_of_all = url == os.environ.get(TEST_DATABASE_VARIABLE)
        return _Server(url, shared if is_of_all else None)
    if shared is None:
        return _embedded(Path(tempfile.mkdtemp(prefix="perennial-test-")), None)
    with _alone_in(shared):
        return _embedded(shared / "postgres", shared)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """No other process of the session is in such a block."""
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _embedded(directory: Path, shared: Path | None) -> _Server:
    from orchestrator.embedded import EmbeddedPostgres, EmbeddedServerError

    directory.mkdir(exist_ok=True)
    directory.chmod(0o711)  # as root, Postgres' own account has to pass through
    postgres = EmbeddedPostgres(directory)
    if shared is None:
        atexit.register(postgres.delete)
    try:
        server = _Server(postgres.start(), shared)
    except EmbeddedServerError as error:
        message = (
            f"a test needs a Postgres: set {TEST_DATABASE_VARIABLE}, or let it start one. {error}"
        )
        raise SettingsError(message) from error
    if postgres.owned:
        server.spare_the_disk()
    return server


def _end_embedded(directory: Path) -> None:
    from orchestrator.embedded import EmbeddedPostgres

    postgres = EmbeddedPostgres(directory)
    postgres.start()  # those who had it have ended: it is taken over
    postgres.delete()
