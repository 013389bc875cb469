"""Alembic's entry: migrations run on the connection that `store.migrate` hands in."""

from __future__ import annotations

from alembic import context

from orchestrator.store.tables import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="schema_version",
    version_table_schema=SCHEMA,
    include_schemas=True,
)
with context.begin_transaction():
    context.run_migrations()
