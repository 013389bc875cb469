"""Each column of the record has a writer: a statement that names it, or a default that says more than a constant.

A column that nothing writes says the same in each row. Who reads it, or the tables, takes it for something that
Perennial does.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import Column

from orchestrator.store.schema.tables import LEAVING, columns_in_use, metadata

ROOT = Path(__file__).parents[2]

NEVER_WRITTEN = {f"{column.table.name}.{column.name}" for column in LEAVING}
"""What stays for one release more, since a client of the release before reads it."""

INSERT = re.compile(r"INSERT INTO perennial\.(\w+)(?: AS \w+)? \(([^)]*)\)")
UPDATE = re.compile(r"UPDATE perennial\.(\w+)(?: (?!SET)\w+)? SET\b")
ON_CONFLICT = re.compile(r"DO UPDATE SET\b")
END_OF_SET = re.compile(r"(?<!DISTINCT )\b(FROM|WHERE|RETURNING)\b")


def texts_of(module: ModuleType, source: str) -> Iterator[str]:
    """Its texts, with the constants spliced in that stand in them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        if isinstance(node, ast.JoinedStr):
            yield "".join(_spliced(module, part) for part in node.values)


def _spliced(module: ModuleType, part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue)
    try:  # a constant, or what a function makes of constants; not what hangs on a call's arguments
        return str(eval(ast.unparse(part.value), vars(module)))
    except NameError:
        return "{}"


def written_in(text: str) -> Iterator[tuple[str, str]]:
    """Each table and column that the statement writes."""
    for found in INSERT.finditer(text):
        table, named = found.groups()
        yield from ((table, column) for column in re.findall(r"\w+", named))
    for found in UPDATE.finditer(text):
        yield from ((found[1], column) for column in _set_in(text[found.end() :]))
    for found in ON_CONFLICT.finditer(text):
        tables = INSERT.findall(text[: found.start()])
        if tables:  # else it is a part, and its table is named by another
            yield from ((tables[-1][0], column) for column in _set_in(text[found.end() :]))


def _set_in(text: str) -> Iterator[str]:
    """What stands before each `=` of a SET list."""
    depth, start = 0, 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        is_over = depth < 0 or (depth == 0 and END_OF_SET.match(text, place) is not None)
        if is_over or (depth == 0 and sign == ",") or place == len(text) - 1:
            if column := re.match(r"\s*(\w+)\s*=", text[start:place]):
                yield column[1]
            start = place + 1
        if is_over:
            return


@cache
def written() -> frozenset[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for path in sorted((ROOT / "orchestrator" / "store").rglob("*.py")):
        if "migrations" in path.parts:
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for text in texts_of(import_module(name), path.read_text()):
            found.update(written_in(text))
    return frozenset(found)


def writes_itself(column: Column[object]) -> bool:
    """Its default is a moment, or the next number."""
    default = column.server_default
    return column.identity is not None or "now()" in str(getattr(default, "arg", ""))


def test_each_column_has_a_writer():
    never = {
        f"{table.name}.{column.name}"
        for table in metadata.tables.values()
        for column in table.columns
        if (table.name, column.name) not in written() and not writes_itself(column)
    }
    assert never - NEVER_WRITTEN == set(), "write it, or take it away"
    assert NEVER_WRITTEN - never == set(), "what has come to be written is none to know of"


def test_what_is_to_leave_is_in_no_statement():
    """Else the next release couldn't take it away."""
    for column in LEAVING:
        assert column not in columns_in_use(column.table)
        naming = [
            str(path.relative_to(ROOT))
            for path in (ROOT / "orchestrator" / "store").rglob("*.py")
            if "schema" not in path.parts
            and re.search(rf"\b{column.name}\b", path.read_text(encoding="utf-8"))
        ]
        assert naming == []


def test_what_is_written_is_there():
    """Guards the reading of the texts."""
    known = {
        (table.name, column.name) for table in metadata.tables.values() for column in table.columns
    }
    assert written() <= known


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("INSERT INTO perennial.run AS r (id, queue) SELECT 1", {"run.id", "run.queue"}),
        (
            "UPDATE perennial.run r SET stage = coalesce(a, b), queue = (SELECT x = y FROM z) WHERE id = 1",
            {"run.stage", "run.queue"},
        ),
        ("WITH a AS (UPDATE perennial.timer SET indexed = true) SELECT", {"timer.indexed"}),
        (
            "INSERT INTO perennial.worker AS w (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET pid = 1 RETURNING id",
            {"worker.id", "worker.pid"},
        ),
    ],
)
def test_what_a_statement_writes_is_seen(text, columns):
    assert {f"{table}.{column}" for table, column in written_in(text)} == columns
