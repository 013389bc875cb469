"""Where Postgres is: the one reader of its address, for everything that connects.

    DatabaseAddress.of(given)    every spelling that libpq and SQLAlchemy document, read once
    address.engine(…)            a SQLAlchemy engine on it
    address.connect(…)           a psycopg connection to it: the same servers, the same options
    broker_url(given)            a broker's, as Celery reads it
    masked(url)                  an address, of a database or a broker, without its secrets
    scrubbed(text, urls)         a text of others, without the secrets of these addresses

libpq's own reader takes what libpq documents (`postgresql://`, `postgres://`, `host=… dbname=…`), and
SQLAlchemy's what names a driver (`postgresql+psycopg://`). A `+` in `options=` is a space in both, as
SQLAlchemy writes it. Secrets are in no representation of what is made here, and in no error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from orchestrator.errors import BadBrokerURL, BadDatabaseURL

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import URL, Engine

EXAMPLE = "postgresql://user:password@host:5432/name"
_POSTGRES = frozenset({"postgres", "postgresql", "postgis", "pgsql", "psql"})
_DRIVER = "postgresql+psycopg"
_SHORTEST_SECRET = 3
"""What is shorter is a piece of too many words to be taken out of a text."""
_SCHEME = re.compile(r"([A-Za-z][\w.-]*)(?:\+([\w.-]+))?://")
_PLAIN_HOST = re.compile(r"[\w.-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.%\w]*")
_SECRET = re.compile(r"pass|pwd|secret|token|scram_\w+_key|credential|auth", re.IGNORECASE)
_HARMLESS = frozenset({"require_auth", "channel_binding", "passfile"})
_SHOWN = frozenset({"host", "hostaddr", "port", "dbname", "user", "service", "sslmode"})
"""Words of libpq's other form that are shown."""
_OF_ASYNCPG = frozenset(
    {"prepared_statement_cache_size", "statement_cache_size", "prepared_statement_name_func"}
)
"""What asyncpg is tuned by; it means nothing to psycopg."""


@dataclass(frozen=True)
class DatabaseAddress:
    """A Postgres and its database. `parameters` are libpq's, by their names there."""

    parameters: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, given: str | URL) -> Self:
        """Read an address: libpq's or SQLAlchemy's text, or SQLAlchemy's own URL.

        Any driver's Postgres URL is read as psycopg's. Raises BadDatabaseURL for what isn't Postgres, or
        can't be read; TypeError for what is no address.
        """
        from sqlalchemy import URL

        if isinstance(given, URL):
            _refuse_foreign(given.drivername.partition("+")[0])
            return cls(_checked(_of_url(given)))
        if not isinstance(given, str):
            message = f"a database's address is a text or an sqlalchemy.URL, not {type(given)}"  # type: ignore[unreachable]
            raise TypeError(message)
        text = given.strip()
        scheme = _SCHEME.match(text)
        if scheme is None:
            return cls(_checked(_by_libpq(text)))
        _refuse_foreign(scheme[1].lower())
        rest = text[scheme.end() :]
        if scheme[2] or _is_sqlalchemys(rest):
            return cls(_checked(_by_sqlalchemy(rest)))
        return cls(_checked(_by_libpq(f"postgresql://{_plus_as_space_in_options(rest)}")))

    @property
    def url(self) -> URL:
        """The address as SQLAlchemy's URL, whole. Rendered and read again it is the same."""
        return self._url(self.parameters)

    def on(self, database: str) -> DatabaseAddress:
        """Another database of the same server."""
        return DatabaseAddress({**self.parameters, "dbname": database})

    def engine(
        self,
        *,
        connect_args: Mapping[str, Any] | None = None,
        is_async: bool = False,
        **options: Any,
    ) -> Engine:
        """An engine on it, as `create_engine` makes it. Its representation holds no secret.

        `is_async`: the `sync_engine` of one of SQLAlchemy's asyncio.
        """
        from sqlalchemy import create_engine

        shown = {name: value for name, value in self.parameters.items() if not _is_secret(name)}
        secrets = {name: value for name, value in self.parameters.items() if _is_secret(name)}
        arguments = {**secrets, **(connect_args or {})}
        if is_async:
            from sqlalchemy.ext.asyncio import create_async_engine

            url = self._url(shown)
            return create_async_engine(url, connect_args=arguments, **options).sync_engine
        return create_engine(self._url(shown), connect_args=arguments, **options)

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """A psycopg connection to it; `options` go to psycopg, and win."""
        import psycopg

        return psycopg.connect(**{**self.parameters, **options})

    def __str__(self) -> str:
        """Without secrets."""
        return masked(self.url.render_as_string(hide_password=False))

    @staticmethod
    def _url(parameters: Mapping[str, str]) -> URL:
        from sqlalchemy import URL

        rest = dict(parameters)
        host, port = rest.pop("host", ""), rest.pop("port", "")
        hosts, ports = host.split(","), port.split(",")
        is_plain = len(hosts) == len(ports) == 1 and bool(_PLAIN_HOST.fullmatch(host))
        if not is_plain:
            if len(ports) == 1:  # libpq: one port is that of every host
                ports *= len(hosts)
            rest |= {"host": host} if host else {}
            rest |= {"port": ",".join(ports)} if port else {}
        password = rest.pop("password", None)
        user = rest.pop("user", None if password is None else "")
        database = rest.pop("dbname", None)
        if (
            database and "?" in database
        ):  # which SQLAlchemy 2.0 writes as it stands, and reads as the query's beginning
            rest["dbname"], database = database, None
        return URL.create(
            _DRIVER,
            username=user,
            password=password,
            host=host if is_plain else None,
            port=int(port) if is_plain and port else None,
            database=database,
            query=rest,
        )


def masked(url: str) -> str:
    """An address without its secrets, in whatever way it is spelled: the only form that is shown.

    What can't be told from a secret is hidden with it.
    """
    scheme, found, rest = url.partition("://")
    if not found:
        return _masked_words(url)
    before, question, query = rest.partition("?")
    if question and "@" in query:  # a `?` of a password that nobody has quoted
        before, question, query = _split_at_last_at(rest)
    userinfo, at, place = before.rpartition("@")
    user, colon, password = userinfo.partition(":")
    shown = f"{user}:***@{place}" if at and colon and password else before
    hidden = urlencode(
        [
            (name, "***" if _is_secret(name) or name == "passfile" else value)
            for name, value in parse_qsl(query, keep_blank_values=True)
        ],
        safe="*/,:",
        quote_via=quote,
    )
    return f"{scheme}://{shown}" + (f"?{hidden}" if hidden else "")


def broker_url(given: str) -> str:
    """A broker's address as Celery's kombu reads it; several are separated by `;`. Raises BadBrokerURL.

    `redis://host/0?password=…`, which redis-py documents, is written in the form that both read.
    """
    return ";".join(_one_broker(each) for each in given.strip().split(";"))


def _one_broker(given: str) -> str:
    scheme, found, rest = given.partition("://")
    try:
        parts = urlsplit(f"http://{rest}" if found else given)
        _ = parts.port
    except ValueError:  # which quotes a piece of the password
        raise BadBrokerURL(_BROKER_UNREADABLE) from None
    if "@" in parts.path or "@" in parts.fragment:  # a password's / or # has ended the host
        raise BadBrokerURL(_BROKER_UNREADABLE)
    if not scheme.startswith("redis") or "socket" in scheme:
        return given
    query = parse_qsl(parts.query, keep_blank_values=True)
    login = {name: value for name, value in query if name in ("username", "password")}
    if not login:
        return given
    user = quote(login.get("username", unquote(parts.username or "")), safe="")
    password = quote(login.get("password", unquote(parts.password or "")), safe="")
    others = urlencode([(name, value) for name, value in query if name not in login])
    place = parts.netloc.rpartition("@")[2]
    return f"{scheme}://{user}:{password}@{place}{parts.path}" + (f"?{others}" if others else "")


def scrubbed(text: str, urls: Iterable[str | None]) -> str:
    """A text that others have made, such as a driver's error, without the secrets of these addresses."""
    secrets = {secret for url in urls if url for secret in _secrets_of(url)}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets_of(url: str) -> set[str]:
    """A URL's secrets as they may be repeated: whole or decoded, or the pieces that a bad reader makes of them."""
    userinfo, at, _ = url.partition("://")[2].rpartition("@")
    password = userinfo.partition(":")[2] if at else ""
    spelled = {password}
    # To the next word that is a parameter: an `&` or a space of a secret may be unquoted.
    for name, value in re.findall(r"(\w+)\s*=\s*(.*?)(?=(?:[&\s]\s*\w+\s*=)|$)", url, re.DOTALL):
        if _is_secret(name):
            bare = value.strip().strip("'")
            spelled |= {value, bare, re.sub(r"\\(.)", r"\1", bare)}
    whole = spelled | {unquote(each) for each in spelled}
    whole |= {quote(unquote(each), safe="") for each in spelled}
    pieces = {piece for each in whole for piece in re.split(r"[@/?#:;&%\s]", each)}
    return {each for each in whole | pieces if len(each) >= _SHORTEST_SECRET}


def _split_at_last_at(rest: str) -> tuple[str, str, str]:
    userinfo, _, place = rest.rpartition("@")
    if "=" in userinfo.partition("?")[2] and ":" not in userinfo.partition("?")[0]:
        return rest.partition("?")  # the `@` is of a parameter
    place, question, query = place.partition("?")
    return f"{userinfo}@{place}", question, query


def _masked_words(conninfo: str) -> str:
    """`host=… password=…`, whose values may be in quotes. Text of no form is hidden whole."""
    word = r"(\w+)\s*=\s*(?:'(?:\\.|[^'\\])*'|(?:\\.|[^\s'\\])*)"
    if not re.fullmatch(rf"\s*(?:{word}(?:\s+|$))+", conninfo):
        return "***"
    return re.sub(
        word, lambda found: found[0] if found[1] in _SHOWN else f"{found[1]}=***", conninfo
    )


def _is_secret(name: str) -> bool:
    return bool(_SECRET.search(name)) and name not in _HARMLESS


def _refuse_foreign(scheme: str) -> None:
    if scheme not in _POSTGRES:
        raise BadDatabaseURL(
            f"the database URL names {scheme}, and Perennial keeps its record in Postgres: "
            f"it looks like {EXAMPLE}"
        )


def _is_sqlalchemys(rest: str) -> bool:
    """Spelled as SQLAlchemy documents and libpq doesn't: a parameter given twice, or `host=name:port`."""
    query = rest.partition("?")[2]
    names = [name for name, _ in parse_qsl(query)]
    return len(names) > len(set(names)) or bool(re.search(r"(?:^|&)host=[\w.-]+:\d", query))


def _plus_as_space_in_options(rest: str) -> str:
    return re.sub(
        r"(?<=[?&])options=[^&]*", lambda found: found[0].replace("+", "%20"), rest, count=1
    )


def _by_libpq(text: str) -> dict[str, str]:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    if not text:
        raise BadDatabaseURL(f"the database URL is empty; it looks like {EXAMPLE}")
    before, question, query = text.partition("?")
    if question and "://" in text:
        kept = [
            part for part in query.split("&") if part and part.partition("=")[0] not in _OF_ASYNCPG
        ]
        kept = [re.sub(r"^ssl=(?!true$)", "sslmode=", part) for part in kept]  # asyncpg's word
        text = before + ("?" + "&".join(kept) if kept else "")
    try:
        found = conninfo_to_dict(text)
    except psycopg.ProgrammingError:  # quotes what it can't read, and so a password
        _refuse_unknown(name for name, _ in parse_qsl(query))
        raise BadDatabaseURL(_UNREADABLE) from None
    return {name: str(value) for name, value in found.items() if value is not None}


def _by_sqlalchemy(rest: str) -> dict[str, str]:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return _of_url(make_url(f"{_DRIVER}://{rest}"))
    except (ArgumentError, ValueError):  # several hosts before the slash: libpq's spelling
        return _by_libpq(f"postgresql://{rest}")


def _of_url(url: URL) -> dict[str, str]:
    """As SQLAlchemy's psycopg dialect reads it."""
    from sqlalchemy.exc import ArgumentError

    query = {name: value for name, value in url.query.items() if name not in _OF_ASYNCPG}
    if isinstance(asked := query.pop("ssl", None), str):  # asyncpg's word
        query["sslmode"] = asked
    read = url.set(drivername=_DRIVER, query=query)
    try:
        _, found = read.get_dialect()().create_connect_args(read)
    except (ArgumentError, ValueError):
        raise BadDatabaseURL(_UNREADABLE) from None
    _refuse_unknown(found)
    host = unquote(found["host"]) if "%2f" in str(found.get("host")).lower() else found.get("host")
    return {name: str(value) for name, value in {**found, "host": host}.items() if value}


def _refuse_unknown(names: Any) -> None:
    """A parameter of another driver, or one that is misspelled."""
    from psycopg import pq

    known = {each.keyword.decode() for each in pq.Conninfo.get_defaults()} | {"ssl"}
    for name in names:
        if name not in known:
            raise BadDatabaseURL(
                f"the database URL has a parameter that libpq does not know: {name!r}. Leave it out."
            )


_LISTS = ("host", "hostaddr", "port")


def _checked(parameters: dict[str, str]) -> dict[str, str]:
    """Refuse what a password with an unquoted `@` leaves behind, before anybody looks that host up."""
    host, port = parameters.get("host", ""), parameters.get("port", "")
    if "@" in host and not host.startswith("@"):  # which is an abstract socket
        raise BadDatabaseURL(_UNREADABLE)
    if not re.fullmatch(r"[\d,]*", port):
        raise BadDatabaseURL(_UNREADABLE)
    return {  # of hosts and ports, "," is a list of nothing
        name: value
        for name, value in parameters.items()
        if (value.strip(",") if name in _LISTS else value)
    }


_BROKER_UNREADABLE = (
    "the broker URL can't be read; it looks like redis://:password@host:6379/0. "
    "In its user and password @ is written %40, : is %3A, / is %2F, ? is %3F, # is %23 and % is %25."
)
_UNREADABLE = (
    f"the database URL can't be read; it looks like {EXAMPLE}. "
    "In its user and password @ is written %40, : is %3A, / is %2F, ? is %3F, # is %23 and % is %25."
)
