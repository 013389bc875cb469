"""Whose record a message is of: known to every role, alike for all of a fleet, and another in each database."""

from __future__ import annotations

import re
from contextlib import closing

import pytest
from sqlalchemy import Engine, create_engine

from orchestrator.store.reads.identity import is_another, record_identity
from tests.harness import Database
from tests.store.test_rights import engine_as, grant, role

__all__ = ["role"]


def identity_of(engine: Engine) -> str:
    each = engine.execution_options(isolation_level="AUTOCOMMIT")
    with closing(each.connect()) as connection:
        identity = record_identity(connection)
    engine.dispose()
    return identity


def test_a_plain_role_and_the_owner_know_the_same_record(database: Database, role: str):
    grant(database, role)
    identity = identity_of(create_engine(database.url))
    assert re.fullmatch("[0-9a-f]{8}[.][0-9a-f]{8}", identity)
    assert identity_of(engine_as(role, database)) == identity


def test_where_a_host_forbids_to_ask_the_server_the_database_decides(database: Database, role: str):
    """Two members of one fleet, of which one may not ask, must not take each other for strangers."""
    grant(database, role)
    function = "pg_catalog.pg_control_system()"
    with closing(database.psycopg(autocommit=True)) as admin:
        admin.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        try:
            theirs, ours = (
                identity_of(engine_as(role, database)),
                identity_of(create_engine(database.url)),
            )
        finally:
            admin.execute(f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC")
    assert re.fullmatch("[0-9a-f]{8}[.]", theirs)
    assert not is_another(theirs, ours)


@pytest.mark.parametrize(
    ("theirs", "ours", "another"),
    [
        ("a.1", "a.1", False),
        ("a.1", "b.1", True),
        ("a.1", "a.2", True),
        ("a.", "a.2", False),
        ("a.1", "a.", False),
        ("b.", "a.2", True),
        ("a", "a.2", False),
    ],
)
def test_another_database_or_another_server_is_another_record(theirs, ours, another):
    assert is_another(theirs, ours) is another
