"""What a marker marks, and what is left when that is cut out."""

from __future__ import annotations

import pytest

from tests.guards.markers import (
    ALWAYS,
    GONE,
    NEVER,
    UNCHANGED,
    UNWRAPPED,
    CannotCut,
    markers_in,
    markers_of,
    without,
)


def without_it(source: str, cut=GONE, file="some.py") -> str:
    (marker,) = markers_of(source, file)
    return without(source, marker, cut)


def bare(source: str) -> str:
    return "\n".join(line.partition("  # guard")[0].rstrip() for line in source.splitlines())


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ("send()  # guard: it", "pass"),
        ("# guard: it\nsend(\n    one,\n)", "# guard: it\npass"),
        (
            "if late:  # guard: it\n    stop()\nelse:\n    go()",
            "if False:\n    stop()\nelse:\n    go()",
        ),
        (
            "if a:\n    b()\nelif late:  # guard: it\n    c()",
            "if a:\n    b()\nelif False:\n    c()",
        ),
        (
            "try:\n    a()\nexcept Late as it:  # guard: it\n    b()",
            "try:\n    a()\nexcept () as it:\n    b()",
        ),
        ("with a() as b:  # guard: it\n    c()", "if [b := (a()).__enter__()]:\n    c()"),
        ("with a():  # guard: it\n    c()", "if [(a()).__enter__()]:\n    c()"),
        (
            "class A:\n    @property\n    def b(self):  # guard: it\n        return 1\n\n    c = 2",
            "class A:\n    pass\n\n    c = 2",
        ),
        ("x = (\n    a\n    and b  # guard: it\n)", "x = (\n    a\n    and True\n)"),
        (
            "x = (\n    a\n    or b  # guard: it\n    or c\n)",
            "x = (\n    a\n    or False\n    or c\n)",
        ),
        ("x = y and (\n    a  # guard: it\n    or b\n)", "x = y and (\n    False\n    or b\n)"),
        ("x = (\n    a,\n    (b, c),  # guard: it\n)", "x = (\n    a,\n\n)"),
        ("f(\n    a=1,\n    b=2,  # guard: it\n)", "f(\n    a=1,\n\n)"),
        (
            "x = [\n    a\n    for a in b\n    if a.is_new  # guard: it\n]",
            "x = [\n    a\n    for a in b\n    if True\n]",
        ),
    ],
)
def test_what_is_marked_is_gone(source, left):
    assert bare(without_it(source)) == left


@pytest.mark.parametrize(
    ("cut", "source", "left"),
    [
        (ALWAYS, "if new:  # guard: it\n    go()", "if True:\n    go()"),
        (ALWAYS, "x = a if new else b  # guard: it", "x = a if True else b"),
        (UNWRAPPED, "x = twice(ask)  # guard: it", "x = (ask)()"),
        (UNWRAPPED, "twice(lambda: ask(1))  # guard: it", "(lambda: ask(1))()"),
        ("None", "x = ask()  # guard: it", "x = None"),
        (
            "True",
            "return_ = 'ä'; x = 'ä'.isupper()  # guard: it",
            "return_ = True; x = 'ä'.isupper()",
        ),
        ("0", "f(\n    a=ask(),  # guard: it\n)", "f(\n    a=0,\n)"),
    ],
)
def test_how_it_is_cut_says_the_list(cut, source, left):
    assert bare(without_it(source, cut)) == left


@pytest.mark.parametrize(
    ("cut", "source"),
    [
        (ALWAYS, "send()  # guard: it"),
        (UNWRAPPED, "x = ask  # guard: it"),
        ("None", "if new:  # guard: it\n    go()"),
        (GONE, "  # guard: it"),
        (UNCHANGED, 'SQL = f"""\nFROM a  /* guard: it */\n"""'),
    ],
)
def test_what_cannot_be_cut_so_is_said(cut, source):
    with pytest.raises(CannotCut, match="it"):
        without_it(source, cut)


@pytest.mark.parametrize(
    ("cut", "sql", "left"),
    [
        (
            GONE,
            "WHERE a\n    AND b  /* guard: it */\n    AND c",
            "WHERE a\n    /* guard: it */\n    AND c",
        ),
        (
            GONE,
            "WHERE a\n    AND NOT EXISTS (SELECT\n        FROM b)  /* guard: it */\n    AND c",
            "WHERE a\n    /* guard: it */\n    AND c",
        ),
        (
            NEVER,
            "SELECT b\nFROM a  /* guard: it */\n",
            "SELECT b\nFROM a WHERE false  /* guard: it */\n",
        ),
        (NEVER, "FROM a WHERE b  /* guard: it */\n", "FROM a WHERE b AND false  /* guard: it */\n"),
        (
            UNCHANGED,
            "UPDATE a SET\n    b = {MORE}  /* guard: it */\nWHERE c",
            "UPDATE a SET\n    b = b  /* guard: it */\nWHERE c",
        ),
        ("true", "THEN\n    b()  /* guard: it */\nEND", "THEN\n    true  /* guard: it */\nEND"),
    ],
)
def test_in_sql_a_line_is_cut_and_what_brackets_hold_together_with_it(cut, sql, left):
    assert without_it(f'SQL = """\n{sql}\n"""', cut) == f'SQL = """\n{left}\n"""'


def test_a_line_of_sql_that_begins_outside_of_it_is_refused():
    with pytest.raises(CannotCut, match="begin"):
        without_it('SQL = """SELECT 1  /* guard: it */\n"""')


def test_a_line_of_lua_is_gone():
    assert without_it("a()\nb()  -- guard: it\n", file="some.lua") == "a()\n-- guard: it\n"


def test_two_of_one_name_are_refused(tmp_path):
    """Else one of them would never be cut out."""
    (tmp_path / "orchestrator").mkdir()
    for name in ("a.py", "b.py"):
        (tmp_path / "orchestrator" / name).write_text("go()  # guard: it\n")
    with pytest.raises(ValueError, match=r"it: in orchestrator/a\.py and in orchestrator/b\.py"):
        markers_in(tmp_path)
