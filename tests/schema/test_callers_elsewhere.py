"""Every verb on a caller's own connection, whatever drives it, to a record in another schema."""

from __future__ import annotations

from functools import partial

import pytest

from tests.engine.test_callers_connections import WORK, deploy, do_all

DRIVEN = (
    "Django",
    "psycopg",
    "psycopg, in a pipeline",
    "SQLAlchemy over psycopg2",
    "SQLAlchemy, listened to",
    "a session",
)


@pytest.mark.parametrize("name", DRIVEN)
def test_every_verb_works_on_a_callers_connection(harness, name):
    """The connection knows of no schema: the client does. An engine of the caller's has one in the harness."""
    deploy(harness)
    do_all(harness, partial(WORK[name], harness.database))
