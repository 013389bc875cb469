"""Runs among their parents and children, for people.

children_of   some children of a run, those that are open first
read_tree     a run with its children, theirs, and so on
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from orchestrator.core.run import RunStatus
from orchestrator.core.views import FamilyMember, RunTree
from orchestrator.store.statement import Statement

CHILDREN_SHOWN_MAX = 20
"""So many children are read with a run."""

TREE_RUNS_MAX = 1000
"""So many runs are read for a tree."""

_MEMBER = """r.id, r.process, r.version, r.business_key, r.status, r.waiting_for, r.parent_id, r.parent_key,
        r.on_parent_end"""

_CHILDREN = Statement(
    "children_of_run",
    f"""
SELECT {_MEMBER} FROM perennial.run r
WHERE r.parent_id = %(run_id)s ORDER BY r.closed_at IS NOT NULL, r.id LIMIT %(limit)s
""",
)

# Level by level: what is cut off is the deepest.
_TREE = Statement(
    "tree_of_run",
    f"""
WITH RECURSIVE family AS (
    SELECT {_MEMBER}, 0 AS level FROM perennial.run r WHERE r.id = %(run_id)s
    UNION ALL
    SELECT {_MEMBER}, family.level + 1 FROM family JOIN perennial.run r ON r.parent_id = family.id
)
SELECT * FROM family LIMIT %(limit)s
""",
)


def children_of(connection: Connection, run_id: UUID) -> tuple[FamilyMember, ...]:
    """Some of them; the rest is in the tree."""
    rows = _CHILDREN.rows(connection, run_id=run_id, limit=CHILDREN_SHOWN_MAX)
    return tuple(map(_member, rows))


def read_tree(connection: Connection, run_id: UUID) -> RunTree:
    """The run, which is there, with those below it."""
    rows = _TREE.rows(connection, run_id=run_id, limit=TREE_RUNS_MAX + 1)
    is_cut = len(rows) > TREE_RUNS_MAX
    below: dict[UUID, list[FamilyMember]] = {}
    members = [_member(row) for row in rows[:TREE_RUNS_MAX]]
    for member in members[1:]:
        if member.parent_id is not None:
            below.setdefault(member.parent_id, []).append(member)
    return RunTree(members[0], _trees(members[0].id, below), is_cut)


def _trees(run_id: UUID, below: dict[UUID, list[FamilyMember]]) -> tuple[RunTree, ...]:
    members = sorted(below.get(run_id, ()), key=lambda member: member.id)
    return tuple(RunTree(member, _trees(member.id, below)) for member in members)


def _member(row: Any) -> FamilyMember:
    return FamilyMember(
        row.id,
        row.process,
        row.version,
        row.business_key,
        RunStatus(row.status),
        row.waiting_for,
        row.parent_id,
        row.parent_key,
        row.on_parent_end,
    )
