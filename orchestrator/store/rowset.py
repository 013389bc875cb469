"""Many rows in one parameter: the one form in which a statement takes as many as there are.

    OPENED = RowSet("opened", "run_id uuid, key text, ordinal int")

    f"… FROM fence JOIN {OPENED.called('o')} ON o.run_id = fence.run_id"    in the text of a statement
    _STATEMENT.rows(connection, **OPENED.of(rows))                          its parameter, of dicts by column

Each row is a dict that names columns of the set; one that it doesn't name is NULL.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class RowSet:
    """Rows of these columns, each with its type: what stands in the text beside the parameter's name."""

    parameter: str
    columns: str

    def called(self, alias: str) -> str:
        """The rows as a table of that name, for a FROM."""
        return f"jsonb_to_recordset(%({self.parameter})s::jsonb) AS {alias}({self.columns})"

    def one_called(self, alias: str) -> str:
        """The one row, where there is no more: Postgres plans for one."""
        return f"jsonb_to_record(%({self.parameter})s::jsonb) AS {alias}({self.columns})"

    def of(self, rows: Iterable[dict[str, Any]]) -> dict[str, str]:
        """The parameter, by its name."""
        return {self.parameter: _JSON.encode(list(rows))}

    def of_one(self, row: dict[str, Any]) -> dict[str, str]:
        """The parameter of `one_called`."""
        return {self.parameter: _JSON.encode(row)}


def _as_text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


_JSON = json.JSONEncoder(default=_as_text)
"""One for all: `json.dumps` with a default would make one for each call, and a commit has seven."""
