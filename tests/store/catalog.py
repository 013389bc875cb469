"""What Postgres itself knows of our schema, to hold one against another."""

from __future__ import annotations

from typing import Any

from tests.harness import Database

CATALOG = """
SELECT 'constraint' AS kind, c.conrelid::regclass::text AS on_table, c.conname AS name,
    pg_get_constraintdef(c.oid) AS says
FROM pg_constraint c WHERE c.connamespace = 'perennial'::regnamespace AND c.contype <> 'n'
UNION ALL
SELECT 'index', i.indrelid::regclass::text, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid WHERE t.relnamespace = 'perennial'::regnamespace
UNION ALL
SELECT 'column', a.attrelid::regclass::text, a.attname,
    concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid))
FROM pg_attribute a JOIN pg_class t ON t.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum
WHERE t.relnamespace = 'perennial'::regnamespace AND t.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'trigger', t.tgrelid::regclass::text, t.tgname, concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled)
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'perennial'::regnamespace AND NOT t.tgisinternal
UNION ALL
SELECT 'function', '', p.proname, pg_get_functiondef(p.oid)
FROM pg_proc p WHERE p.pronamespace = 'perennial'::regnamespace
"""


def catalog(database: Database, schema: str = "perennial") -> set[tuple[Any, ...]]:
    """What is in that schema, as if it were `perennial`."""
    rows = database.rows(CATALOG.replace("'perennial'", f"'{schema}'"))
    return {
        tuple(_as_usual(value, schema) for value in row)
        for row in rows
        if "schema_version" not in row.on_table
    }


def _as_usual(value: Any, schema: str) -> Any:
    if not isinstance(value, str) or schema == "perennial":
        return value
    return value.replace(f'"{schema}".', "perennial.").replace(schema, "perennial")
