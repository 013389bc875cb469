"""What an error of the database means for whoever meets it: repeat, give up on one row, or on all.

once_more_if_cut(action)      repeat what a broken connection has interrupted
is_refused(error)             Postgres has answered no: nothing was written
is_a_servers_trouble(error)   no statement would do better now
one_by_one(message, …)        around an item of a batch: it fails by itself
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError

log = logging.getLogger(__name__)

Done = TypeVar("Done")


def once_more_if_cut(action: Callable[[], Done]) -> Done:
    """Do it, and again, once, if a connection broke under it: most likely that lay dead in its pool.

    Only for what may be done twice. On the second failure Postgres is away, and others see to it.
    """
    try:
        return action()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        log.info("a connection to Postgres was cut; once more on another")
        return action()


def is_refused(error: Exception) -> bool:
    """Postgres has said no to the statement, so that nothing was written; and not that no answer came."""
    return (
        isinstance(error, DBAPIError)
        and not error.connection_invalidated
        and getattr(error.orig, "sqlstate", None) is not None
    )


def is_a_servers_trouble(error: BaseException) -> bool:
    """No statement would do better now: Postgres is away, full, read-only, going down, or takes no more connections.

    By PostgreSQL's classes of error codes (Appendix A of its manual). Not a statement that was cancelled, nor a
    block that can't be read: those may be one row's.
    """
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "sqlstate", None)
    if code is None:
        return error.connection_invalidated or isinstance(error, OperationalError)
    return (
        error.connection_invalidated
        or (code.startswith(("08", "53", "57")) and code != "57014")  # query_canceled
        or code == "25006"  # read_only_sql_transaction
    )


@contextmanager
def one_by_one(message: str, *arguments: object) -> Iterator[None]:
    """What fails is told, and does not keep the rest of its batch waiting: unless the rest would fail alike."""
    try:
        yield
    except Exception as error:
        if is_a_servers_trouble(error):
            raise
        log.exception(message, *arguments)
