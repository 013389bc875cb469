"""One reader for a database's address, in every spelling that libpq and SQLAlchemy document."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from orchestrator import Client, Settings
from orchestrator.addresses import DatabaseAddress, masked
from orchestrator.errors import BadDatabaseURL
from orchestrator.settings import with_psycopg

WHOLE = {"user": "app", "password": "pw", "host": "db", "port": "5433", "dbname": "shop"}

SPELLINGS = {
    # what each driver's users have in DATABASE_URL
    **{
        f"{scheme}://app:pw@db:5433/shop": WHOLE
        for scheme in (
            "postgres",
            "postgresql",
            "POSTGRESQL",
            "postgresql+psycopg",
            "postgresql+psycopg_async",
            "postgresql+psycopg2",
            "postgresql+psycopg2cffi",
            "postgresql+asyncpg",
            "postgresql+pg8000",
            "postgres+asyncpg",
            "postgis",
            "psql",
            "pgsql",
        )
    },
    "  postgresql://app:pw@db:5433/shop\n": WHOLE,
    # libpq, 34.1.1.1: keyword and value
    "host=db port=5433 dbname=shop user=app password=pw": WHOLE,
    "host = db  port = 5433 dbname = 'shop' user=app password=pw": WHOLE,
    r"password='it\'s = \\ here' host=db": {"password": r"it's = \ here", "host": "db"},
    "host=/run/postgresql dbname=shop": {"host": "/run/postgresql", "dbname": "shop"},
    "service=shop": {"service": "shop"},
    "passfile=/home/app/.pgpass host=db": {"passfile": "/home/app/.pgpass", "host": "db"},
    # libpq, 34.1.1.2: URIs
    "postgresql://": {},
    "postgresql://localhost": {"host": "localhost"},
    "postgresql://localhost:5433": {"host": "localhost", "port": "5433"},
    "postgresql://localhost/mydb": {"host": "localhost", "dbname": "mydb"},
    "postgresql://user@localhost": {"user": "user", "host": "localhost"},
    "postgresql://user:secret@localhost": {
        "user": "user",
        "password": "secret",
        "host": "localhost",
    },
    "postgresql://other@localhost/otherdb?connect_timeout=10&application_name=myapp": {
        "user": "other",
        "host": "localhost",
        "dbname": "otherdb",
        "connect_timeout": "10",
        "application_name": "myapp",
    },
    "postgresql://host1:123,host2:456/somedb?target_session_attrs=any": {
        "host": "host1,host2",
        "port": "123,456",
        "dbname": "somedb",
        "target_session_attrs": "any",
    },
    "postgresql://host1,host2/somedb": {"host": "host1,host2", "dbname": "somedb"},
    "postgresql://user@localhost:5433/mydb?options=-c%20synchronous_commit%3Doff": {
        "user": "user",
        "host": "localhost",
        "port": "5433",
        "dbname": "mydb",
        "options": "-c synchronous_commit=off",
    },
    "postgresql:///mydb?host=localhost&port=5433": {
        "host": "localhost",
        "port": "5433",
        "dbname": "mydb",
    },
    "postgresql://[2001:db8::1234]/database": {"host": "2001:db8::1234", "dbname": "database"},
    "postgresql:///dbname?host=/var/lib/postgresql": {
        "host": "/var/lib/postgresql",
        "dbname": "dbname",
    },
    "postgresql://%2Fvar%2Flib%2Fpostgresql/dbname": {
        "host": "/var/lib/postgresql",
        "dbname": "dbname",
    },
    "postgresql://db/shop?service=main&passfile=/pgpass&sslmode=verify-full&sslrootcert=/ca.pem": {
        "host": "db",
        "dbname": "shop",
        "service": "main",
        "passfile": "/pgpass",
        "sslmode": "verify-full",
        "sslrootcert": "/ca.pem",
    },
    "postgresql://db/shop?user=app&password=a+b": {
        "host": "db",
        "dbname": "shop",
        "user": "app",
        "password": "a+b",
    },
    "postgresql://db/my%20shop": {"host": "db", "dbname": "my shop"},
    "postgresql://app:p%40s%2Fs%3Fw%23o%25rd%3A@db/shop": {
        "user": "app",
        "password": "p@s/s?w#o%rd:",
        "host": "db",
        "dbname": "shop",
    },
    "postgresql://app:p?w@db/shop": {
        "user": "app",
        "password": "p?w",
        "host": "db",
        "dbname": "shop",
    },
    # SQLAlchemy: engines, and its PostgreSQL dialect
    "postgresql+psycopg2://app:p/w@db/shop": {
        "user": "app",
        "password": "p/w",
        "host": "db",
        "dbname": "shop",
    },
    "postgresql+psycopg://app:p%40s%2Fs%3Fw%23o%25rd%3A@db/shop": {
        "user": "app",
        "password": "p@s/s?w#o%rd:",
        "host": "db",
        "dbname": "shop",
    },
    "postgresql+psycopg://user:pw@/dbname?host=/var/lib/postgresql": {
        "user": "user",
        "password": "pw",
        "dbname": "dbname",
        "host": "/var/lib/postgresql",
    },
    "postgresql+psycopg2://user:pw@/dbname?host=HostA:5432&host=HostB:5433&host=HostC": {
        "user": "user",
        "password": "pw",
        "dbname": "dbname",
        "host": "HostA,HostB,HostC",
        "port": "5432,5433,",
    },
    "postgresql://user:pw@/dbname?host=HostA:5432&host=HostB:5433": {
        "user": "user",
        "password": "pw",
        "dbname": "dbname",
        "host": "HostA,HostB",
        "port": "5432,5433",
    },
    "postgresql://user:pw@/dbname?host=HostA:5432": {
        "user": "user",
        "password": "pw",
        "dbname": "dbname",
        "host": "HostA",
        "port": "5432",
    },
    "postgresql+psycopg2://user:pw@/dbname?host=HostA,HostB&port=5432,5433": {
        "user": "user",
        "password": "pw",
        "dbname": "dbname",
        "host": "HostA,HostB",
        "port": "5432,5433",
    },
    "postgresql+psycopg://db:5433,other:5434/shop": {
        "host": "db,other",
        "port": "5433,5434",
        "dbname": "shop",
    },
    "postgresql+psycopg://%2Frun%2Fpg/shop": {"host": "/run/pg", "dbname": "shop"},
    "postgresql+psycopg2://h:5432/db?options=-c+search_path%3Da,b": {
        "host": "h",
        "port": "5432",
        "dbname": "db",
        "options": "-c search_path=a,b",
    },
    "postgresql://h/db?application_name=a+b&options=-c+search_path%3Da": {
        "host": "h",
        "dbname": "db",
        "application_name": "a+b",
        "options": "-c search_path=a",
    },
    "postgresql+asyncpg://h/db?ssl=require&prepared_statement_cache_size=0": {
        "host": "h",
        "dbname": "db",
        "sslmode": "require",
    },
    "postgresql://h/db?ssl=require&statement_cache_size=0": {
        "host": "h",
        "dbname": "db",
        "sslmode": "require",
    },
}


@pytest.mark.parametrize(("spelling", "parameters"), SPELLINGS.items())
def test_each_documented_spelling_is_read_as_it_is_meant(spelling, parameters):
    assert DatabaseAddress.of(spelling).parameters == parameters


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_sqlalchemy_and_psycopg_are_told_the_same(spelling):
    """What an engine connects with is what the listening connection connects with."""
    address = DatabaseAddress.of(spelling)
    assert driver_arguments(address.url) == normal(address.parameters)
    again = DatabaseAddress.of(with_psycopg(spelling))
    assert normal(again.parameters) == normal(address.parameters)
    assert Settings(database_url=SecretStr(spelling)).database() == with_psycopg(spelling)


def driver_arguments(url: URL) -> dict[str, str]:
    _, found = PGDialect_psycopg().create_connect_args(url)
    return {
        name: str(value)
        for name, value in found.items()
        if str(value or "").strip("," if name in ("host", "hostaddr", "port") else "")
    }


def normal(parameters) -> dict[str, str]:
    """One port for all hosts is that port for each."""
    found = dict(parameters)
    hosts = found.get("host", "").split(",")
    if "port" in found and "," not in found["port"]:
        found["port"] = ",".join([found["port"]] * len(hosts))
    return found


WORD = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=12)


@given(user=WORD, password=WORD, database=WORD, options=WORD)
def test_any_password_comes_back_from_sqlalchemys_url(user, password, database, options):
    url = URL.create("postgresql", user, password, "db", 5433, database, {"options": options})
    expected = {
        "user": user,
        "password": password,
        "host": "db",
        "port": "5433",
        "dbname": database,
        "options": options,
    }
    address = DatabaseAddress.of(url)
    assert address.parameters == expected
    assert driver_arguments(address.url) == expected
    assert DatabaseAddress.of(address.url.render_as_string(hide_password=False)) == address


@pytest.mark.parametrize(
    ("foreign", "what"),
    [
        ("mysql://app:hunter2@db/shop", "mysql"),
        ("mysql+pymysql://app:hunter2@db/shop", "mysql"),
        ("sqlite:///hunter2.db", "sqlite"),
        ("sqlite+aiosqlite:///hunter2.db", "sqlite"),
        ("oracle+oracledb://app:hunter2@db/shop", "oracle"),
        ("mssql+pyodbc://app:hunter2@db/shop", "mssql"),
        ("cockroachdb://app:hunter2@db/shop", "cockroachdb"),
        ("redis://:hunter2@db/0", "redis"),
        ("https://app:hunter2@db/shop", "https"),
        ("jdbc:postgresql://db/shop?password=hunter2", "can't be read"),
        ("app:hunter2@db/shop", "can't be read"),
        ("/var/hunter2", "can't be read"),
        ("postgresql://app:hunter2@x@db/shop", "%40"),
        ("postgresql+psycopg://app:hunter2@x@db/shop", "%40"),
        ("postgresql://app:hunter2/x@db/shop", "%2F"),
        ("postgresql://app:hunter2%@db/shop", "%25"),
        ("postgresql://db:port/hunter2", "can't be read"),
        ("postgresql+psycopg://db:port/hunter2", "can't be read"),
        ("postgresql://db/shop?password=hunter2&schema=public", "'schema'"),
        ("postgresql+psycopg2://db/shop?password=hunter2&charset=utf8", "'charset'"),
        ("host=db password=hunter2 and more", "can't be read"),
        ("", "empty"),
    ],
)
def test_what_is_no_postgres_is_refused_in_one_sentence_that_repeats_nothing(foreign, what):
    with pytest.raises(BadDatabaseURL) as caught:
        DatabaseAddress.of(foreign)
    told = str(caught.value)
    assert what in told
    assert "\n" not in told
    assert "hunter2" not in told
    seen: BaseException | None = caught.value
    while seen is not None and not seen.__suppress_context__:
        seen = seen.__context__
        assert "hunter2" not in str(seen)


@pytest.fixture
def elsewhere(monkeypatch):
    """The environment names a database that nobody asked for."""
    monkeypatch.setenv("PERENNIAL_DATABASE_URL", "postgresql://of.the/environment")


def engine_url(client: Client) -> URL:
    return client._context.database.url


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://mine/shop",
        make_url("postgresql://mine/shop"),
        make_url("postgresql+asyncpg://mine/shop"),
        SecretStr("postgres://mine/shop"),
        Settings(database_url=SecretStr("host=mine dbname=shop")),
        Settings(database_url=make_url("postgresql+psycopg2://mine/shop")),
        create_engine("postgresql+psycopg://mine/shop"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_client_is_of_the_database_that_it_was_given(elsewhere, given):
    with Client(given) as client:
        assert (engine_url(client).host, engine_url(client).database) == ("mine", "shop")


@pytest.mark.parametrize(
    "given",
    [
        b"postgresql://mine/shop",
        {"database_url": "postgresql://mine/shop"},
        SimpleNamespace(url=make_url("postgresql+asyncpg://mine/shop"), sync_engine=None),
        0,
        "",
        create_engine("sqlite://"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_never_of_the_environments_when_it_was_given_something_else(elsewhere, given):
    is_text = isinstance(given, str)
    expected = BadDatabaseURL if is_text else Exception
    with pytest.raises(expected) as caught:
        Client(given)
    assert "mine" not in str(caught.value)
    assert isinstance(caught.value, BadDatabaseURL | TypeError) or "sqlite" in str(caught.value)


def test_an_async_engine_is_a_type_error_that_says_what_to_give(elsewhere):
    from sqlalchemy.ext.asyncio import create_async_engine

    with pytest.raises(TypeError, match=r"not sqlalchemy\.ext\.asyncio.*give it the engine's url"):
        Client(create_async_engine("postgresql+psycopg://mine/shop"))


def test_settings_that_are_no_urls_are_refused_without_being_repeated():
    with pytest.raises(ValueError, match="database_url") as caught:
        Settings(database_url=b"\xffhunter2")
    assert "hunter2" not in str(caught.value)


def test_every_representation_of_an_address_hides_its_secrets():
    secrets = {"password": "s1-hunter2", "sslpassword": "s2-hunter2"}
    for names in itertools.chain([["password"], ["sslpassword"], ["password", "sslpassword"]]):
        words = " ".join(f"{name}={secrets[name]}" for name in names)
        address = DatabaseAddress.of(f"host=db dbname=shop {words}")
        engine = address.engine()
        for shown in (repr(address), str(address), repr(engine), str(engine.url), f"{address!s}"):
            assert "hunter2" not in shown
        assert "db" in str(address)


ODD = ("p@ss", "p/ss", "p?ss", "p#ss", "p:ss", "p%ss", "p ss", "p&ss", "p=ss", "p'ss", "p;ss", "pß")


@pytest.mark.parametrize("password", [f"{odd}hunter2" for odd in ODD])
def test_no_spelling_of_an_odd_password_is_shown(password):
    quoted = URL.create("x", "app", password, "db", 1, "name").render_as_string(hide_password=False)
    for url in (
        quoted,
        f"postgresql://app:{password}@db/name",
        f"redis://:{password}@cache:6379/0",
        f"redis://cache/0?password={password.replace('&', '%26')}",
        f"rediss://cache/0?ssl_cert_reqs=none&password={password.replace('&', '%26')}",
        f"sentinel://:{password}@one:26379;sentinel://:{password}@two:26379",
        f"amqp://app:{password}@mq//",
        f"amqp://app:{password}@one//;amqp://app:{password}@two//",
        f"host=db password='{password}'".replace("p'ss", r"p\'ss"),
        f"password={password}",
        password,
    ):
        assert "hunter2" not in masked(url), url
