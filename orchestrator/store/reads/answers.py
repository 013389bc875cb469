"""What a run has recorded of itself, for who asks it: one attribute by its name."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from orchestrator.store.statement import AnyConnection, Statement

_ATTRIBUTE = Statement(
    "attribute_of_run",
    """
SELECT (r.attributes -> %(name)s::text)::text AS value,
    CASE WHEN NOT r.attributes ? %(name)s::text THEN ARRAY(SELECT jsonb_object_keys(r.attributes)) END AS names
FROM perennial.run r WHERE r.id = %(run_id)s
""",
)


class AttributeFound(NamedTuple):
    """`text`: JSON; None: it isn't set, and these `names` are."""

    text: str | None
    names: tuple[str, ...]


def attribute_of(connection: AnyConnection, run_id: UUID, name: str) -> AttributeFound | None:
    """The attribute of that run. None: no such run."""
    row = _ATTRIBUTE.row(connection, run_id=run_id, name=name)
    return None if row is None else AttributeFound(row.value, tuple(row.names or ()))
