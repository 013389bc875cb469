"""The least rights of a role that works on the record, and doesn't own it: what workers and clients do, and no more.

A test does all of that as such a role. What is in no statement of ours is granted to nobody: to change history, to
delete a run, to make or drop tables.
"""

from __future__ import annotations

from psycopg import sql

from orchestrator.store.schema import SCHEMA

RIGHTS = {
    "activity": "SELECT, INSERT, UPDATE",
    "approval": "SELECT, INSERT, UPDATE",
    "approval_vote": "SELECT, INSERT",
    "callback": "SELECT, INSERT, UPDATE",
    "cause": "SELECT, INSERT, UPDATE",
    "correlation": "SELECT, INSERT, UPDATE, DELETE",
    "history": "SELECT, INSERT",
    "migration": "SELECT, INSERT, UPDATE",
    "operation": "SELECT, INSERT, UPDATE, DELETE",
    "operation_run": "SELECT, INSERT, UPDATE",
    "outbox": "SELECT, INSERT, UPDATE, DELETE",
    "process": "SELECT, INSERT, UPDATE",
    "process_history": "SELECT, INSERT",
    "process_revision": "SELECT, INSERT, UPDATE",
    "run": "SELECT, INSERT, UPDATE",
    "schema_version": "SELECT",
    "signal": "SELECT, INSERT, UPDATE",
    "timer": "SELECT, INSERT, UPDATE",
    "worker": "SELECT, INSERT, UPDATE, DELETE",
}
"""By table."""


def grants_of(role: str, schema: str = SCHEMA) -> list[str]:
    """What the owner of the tables executes, so that `role` may work. Names are quoted."""
    to, where = sql.Identifier(role), sql.Identifier(schema)
    grants = [
        sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(where, to),
        sql.SQL("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {} TO {}").format(where, to),
        *(
            sql.SQL("GRANT {} ON {}.{} TO {}").format(
                sql.SQL(rights),
                where,
                sql.Identifier(table),
                to,
            )
            for table, rights in RIGHTS.items()
        ),
    ]
    return [grant.as_string(None) for grant in grants]
