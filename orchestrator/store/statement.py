"""A named statement: SQL text with psycopg's `%(name)s` parameters, run on whoever's connection.

The same text runs on a SQLAlchemy connection or session, and on a plain psycopg connection, so a
producer can start a run inside its own transaction whichever it uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from orchestrator.faults import reach

AnyConnection = Connection | Session | psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement. `name` stands in its text as a comment, for pg_stat_activity and logs."""

    name: str
    sql: str

    def rows(self, connection: AnyConnection, **parameters: object) -> Sequence[Any]:
        """Run it; all rows. One round trip."""
        reach("before", self.name)
        found = self._rows(connection, parameters)
        reach("after", self.name)
        return found

    def _rows(self, connection: AnyConnection, parameters: dict[str, object]) -> Sequence[Any]:
        text = f"/* perennial:{self.name} */ {self.sql}"
        if isinstance(connection, psycopg.Connection):
            with connection.cursor(row_factory=namedtuple_row) as cursor:
                cursor.execute(text.encode(), parameters)
                return cursor.fetchall() if cursor.description else ()
        if isinstance(connection, Session):
            connection = connection.connection()
        result = connection.exec_driver_sql(text, parameters)
        return result.fetchall() if result.returns_rows else ()

    def row(self, connection: AnyConnection, **parameters: object) -> Any | None:
        """Run it; the first row, or None."""
        found = self.rows(connection, **parameters)
        return found[0] if found else None
