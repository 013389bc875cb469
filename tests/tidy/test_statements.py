"""Texts of SQL: what statements share stands once, what is spliced in is no value, and none is made for a call."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STORE = ROOT / "orchestrator" / "store"
PARTS = "store/parts.py"

ONCE = {
    "the insert into the outbox": r"INSERT INTO perennial\.outbox\b",
    "the insert into history": r"INSERT INTO perennial\.history\b",
    "raise the revision": r"\br?\.?revision\s*\+ 1\b(?!:)",
    "ask for a turn": r"'perennial\.advance'|'\{ADVANCE\}'",
    "close everything": r"UPDATE perennial\.approval p SET state = 'cancelled'",
}
"""What stands in `store.parts`, and nowhere else."""


@cache
def texts() -> list[tuple[str, str]]:
    """Each text of the house's modules, and which module's."""
    return [(name, text) for name, source in sources() for text in texts_in(source)]


def sources() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "orchestrator").rglob("*.py")):
        name = str(path.relative_to(ROOT / "orchestrator"))
        if "migrations" not in path.parts:
            yield name, path.read_text()


def texts_in(source: str) -> Iterator[str]:
    """The texts of a module as they are written, docstrings among them: SQL, and not what Python computes."""
    tree = ast.parse(source)
    composed = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    of_one = {id(part) for text in composed for part in ast.walk(text) if part is not text}
    for node in ast.walk(tree):
        if id(node) in of_one:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
                for part in node.values
            )


@pytest.mark.parametrize("what", ONCE)
def test_a_part_of_many_statements_stands_once(what):
    """A part that stands twice is changed once. Whoever needs it splices it in (store.parts)."""
    found = [name for name, text in texts() for _ in re.findall(ONCE[what], text)]
    assert found == [PARTS]


def splices_in(source: str) -> Iterator[str]:
    """What looks like a value and is none: SQL put in the place of `%(name)s`, or by `format`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            first = node.args[0] if node.args else None
            text = first.value if isinstance(first, ast.Constant) else None
            if (
                node.func.attr == "replace" and isinstance(text, str) and text.startswith("%(")
            ) or node.func.attr == "format":
                yield f"{node.lineno}: {ast.unparse(node)}"


def made_for_a_call(source: str) -> Iterator[str]:
    """Each `Statement(…)` that a call makes: in a function whose answer isn't kept."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef) and "cache" not in map(
            ast.unparse, function.decorator_list
        ):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Statement":
                    yield f"{node.lineno}: {function.name}"


def with_statements() -> list[Path]:
    return [path for path in sorted(STORE.rglob("*.py")) if " Statement(" in path.read_text()]


def test_what_is_spliced_in_looks_like_sql_and_what_is_bound_like_a_value():
    """`{SPLICED}` is SQL of ours, `%(bound)s` a value: so a reader sees that no value is in a text."""
    found = [
        f"{path.relative_to(STORE)}:{each}"
        for path in with_statements()
        for each in splices_in(path.read_text())
    ]
    assert found == []
    assert len(with_statements()) > len(ONCE), "the statements are looked at"


def test_no_text_is_made_for_a_call():
    """psycopg finds a plan by the text's own object, and a text made of values would hold them."""
    found = {
        f"{path.relative_to(STORE)}:{each}"
        for path in with_statements()
        for each in made_for_a_call(path.read_text())
    }
    assert {each.rpartition(":")[0].rpartition(":")[0] for each in found} <= {"statement.py"}


@pytest.mark.parametrize(
    "source",
    ['A.replace("%(which)s", which)', '"SELECT {columns}".format(columns=columns)'],
)
def test_a_splice_that_looks_like_a_value_is_found(source):
    """Guards `splices_in`."""
    assert list(splices_in(source))


def test_a_text_that_a_call_makes_is_found():
    """Guards `made_for_a_call`."""
    assert list(made_for_a_call('def ask(key):\n    return Statement("ask", f"SELECT {key}")'))
    assert not list(made_for_a_call('@cache\ndef _ask(part):\n    return Statement("a", part)'))


WRITES = re.compile(r"\b(INSERT INTO|UPDATE perennial|DELETE FROM|FOR (NO KEY )?UPDATE)\b")


def test_what_reads_writes_nothing_and_locks_nothing():
    """`store.reads` may be asked by anybody, at any time: what writes stands in `store.transitions`."""
    writing = {name for name, text in texts() if WRITES.search(text)}
    assert not [name for name in writing if name.startswith("store/reads/")]
    assert "store/transitions/commit.py" in writing
