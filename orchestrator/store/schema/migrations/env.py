"""Alembic's entry: migrations run on the connection that `store.schema.migrate` hands in, in its record's schema.

Scripts name the schema `perennial`, as all our texts do. On their way to Postgres they name this one.
"""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import event

from orchestrator.store.schema import SCHEMA, in_schema, schema_of
from orchestrator.store.schema.tables import metadata

connection = context.config.attributes["connection"]
schema = schema_of(connection)

if schema != SCHEMA:

    @event.listens_for(connection, "before_cursor_execute", retval=True)
    def name_it(
        _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> tuple[str, Any]:
        """As it is sent."""
        return in_schema(statement, schema), parameters


context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table="schema_version",
    version_table_schema=schema,
    include_schemas=True,
)
with context.begin_transaction():
    context.run_migrations()
