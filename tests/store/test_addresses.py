"""One address, and everything that connects comes to the same database with the same options."""

from __future__ import annotations

from types import SimpleNamespace
from urllib.parse import quote

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url, text

from orchestrator import Client, Settings
from orchestrator.cli.database import engine_of
from orchestrator.fleet.maintenance import Maintenance
from orchestrator.store.schema import migrate
from orchestrator.testing.databases import _Server

ASKED = "-c work_mem=5MB -c perennial.who=me"


def spellings(database_url: str) -> dict[str, str]:
    """Each names the same database, and asks for the same options."""
    url = make_url(database_url)
    host, port = url.query.get("host") or url.host, url.query.get("port") or url.port or 5432
    user, password, name = url.username, url.password, url.database
    login = user + (f":{quote(password, safe='')}" if password else "")
    words = f"host={host} port={port} user={user} dbname={name}"
    words += f" password='{password}'" if password else ""
    options = quote(ASKED)
    return {
        "sqlalchemy": url.update_query_dict({"options": ASKED}).render_as_string(
            hide_password=False
        ),
        "asyncpg": f"postgresql+asyncpg://{login}@/{name}?host={host}&port={port}&options={options}",
        "libpq": f"postgres://{login}@{quote(host, safe='')}:{port}/{name}?options={options}",
        "words": f"{words} options='{ASKED}'",
        "several hosts": f"postgresql://{login}@/{name}?host=/nowhere,{host}&port={port},{port}"
        f"&options={options}",
    }


@pytest.fixture(params=["sqlalchemy", "asyncpg", "libpq", "words", "several hosts", "service"])
def address(request, database, tmp_path, monkeypatch) -> str:
    if request.param != "service":
        return spellings(database.url)[request.param]
    url = make_url(database.url)
    host, port = url.query.get("host") or url.host, url.query.get("port") or url.port or 5432
    lines = ["[shop]", f"host={host}", f"port={port}", f"user={url.username}"]
    lines += [f"dbname={url.database}", f"options={ASKED}"]
    lines += [f"password={url.password}"] if url.password else []
    (tmp_path / "services").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    return "service=shop"


LOOK = "SELECT current_database(), current_setting('work_mem'), current_setting('perennial.who')"


def test_each_that_connects_is_on_it_with_its_options(address, database):
    """Guards the listening connection of a worker too, which read the text in a way of its own."""
    expected = (database.name, "5MB", "me")
    with Client(address) as client, client._context.connection() as connection:
        assert tuple(connection.execute(text(LOOK)).one()) == expected
    with engine_of(address) as engine:
        assert migrate.current(engine) == migrate.head()
        with engine.connect() as connection:
            assert tuple(connection.execute(text(LOOK)).one()) == expected
    member = SimpleNamespace(settings=Settings(database_url=SecretStr(address)))
    with Maintenance(member)._listen() as listening:
        assert listening.execute(LOOK).fetchone() == expected


@pytest.mark.parametrize("spelling", ["sqlalchemy", "words"])
def test_a_tester_takes_every_spelling_of_its_server(spelling, database):
    server = object.__new__(_Server)
    from orchestrator.addresses import DatabaseAddress

    server._address = DatabaseAddress.of(spellings(database.url)[spelling])
    name = server.create(template="template1")
    try:
        with engine_of(server.url(name)) as engine, engine.connect() as connection:
            assert tuple(connection.execute(text(LOOK)).one()) == (name, "5MB", "me")
    finally:
        server.drop(name)
