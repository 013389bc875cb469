"""A fresh database for each test: a clone of one that was migrated once per interpreter.

The server is the one that is named, or an embedded Postgres that this interpreter starts and ends.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from uuid import uuid4

from sqlalchemy import URL, NullPool, text

from orchestrator.addresses import DatabaseAddress
from orchestrator.settings import Settings, SettingsError
from orchestrator.store.schema import migrate, options_in

TEST_DATABASE_VARIABLE = "PERENNIAL_TEST_DATABASE_URL"
"""Names a server for tests. Its user may create databases; the database it names is left as it is."""


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

    def __init__(self, url: str | URL) -> None:
        self._address = DatabaseAddress.of(url)
        self._templates: dict[str, str] = {}

    def template_in(self, schema: str) -> str:
        """Made when it is first asked for."""
        if schema not in self._templates:
            template = self.create(template="template1")
            atexit.register(self.drop, template)
            engine = self._address.on(template).engine(
                poolclass=NullPool, execution_options=options_in(schema)
            )
            migrate.upgrade(engine)
            self._templates[schema] = template
        return self._templates[schema]

    def url(self, database: str) -> str:
        return self._address.on(database).url.render_as_string(hide_password=False)

    def create(self, *, template: str) -> str:
        name = f"perennial_test_{uuid4().hex}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        engine = self._address.engine(poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))


@cache
def _server_at(url: str | URL | None) -> _Server:
    return _Server(url or _start_embedded())


def _start_embedded() -> str:
    from orchestrator.embedded import EmbeddedPostgres, EmbeddedServerError

    directory = Path(tempfile.mkdtemp(prefix="perennial-test-"))
    directory.chmod(0o711)  # as root, Postgres' own account has to pass through
    postgres = EmbeddedPostgres(directory)
    atexit.register(postgres.delete)
    try:
        return postgres.start()
    except EmbeddedServerError as error:
        message = (
            f"a test needs a Postgres: set {TEST_DATABASE_VARIABLE}, or let it start one. {error}"
        )
        raise SettingsError(message) from error
