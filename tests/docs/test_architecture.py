"""docs/architecture.md: each link leads to what it names, and each hop is called by one before it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
LINK = re.compile(r"\[`([^`]+)`\]\(\.\./([^)]+)\)")
HOP = re.compile(r"^\d+\. ")
ELSEWHERE = ("by a message", "by its task", "by the timer's kind")
"""How a hop is come to, if no function before it calls it."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def functions_in(path: str) -> dict[str, tuple[Function, ast.ClassDef | None]]:
    """By their qualified names, each with the class that it is of."""
    found: dict[str, tuple[Function, ast.ClassDef | None]] = {}

    def look(body: list[ast.stmt], prefix: str, owner: ast.ClassDef | None) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                look(node.body, f"{prefix}{node.name}.", node)
            elif isinstance(node, Function):
                found[prefix + node.name] = (node, owner)
                look(node.body, f"{prefix}{node.name}.", None)

    look(ast.parse((ROOT / path).read_text()).body, "", None)
    return found


def names_in(node: ast.AST) -> set[str]:
    return {
        each.id if isinstance(each, ast.Name) else each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Name | ast.Attribute)
    }


def paths() -> dict[str, list[tuple[str, str, str]]]:
    """Of each main path its hops: name, file, and the line."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    title = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
        elif HOP.match(line):
            name, path = LINK.findall(line)[0]
            found.setdefault(title, []).append((name, path, line))
    return found


@pytest.mark.parametrize(("name", "path"), sorted(set(LINK.findall(PAGE.read_text()))))
def test_a_link_leads_to_what_it_names(name, path):
    assert (ROOT / path).exists()
    if path.endswith(".py") and not name.endswith(".py"):
        assert name in functions_in(path) or f"{name}.__init__" in functions_in(path)


@pytest.mark.parametrize("title", sorted(paths()))
def test_each_hop_is_called_by_one_before_it(title):
    """By its name, in the body of an earlier one, or in what makes that one's class."""
    known: set[str] = set()
    for number, (name, path, line) in enumerate(paths()[title]):
        if number and not any(words in line for words in ELSEWHERE):
            assert name.rpartition(".")[2] in known, f"who calls {name}?"
        function, owner = functions_in(path)[name]
        known |= names_in(function)
        for made in owner.body if owner is not None else ():
            if isinstance(made, Function) and made.name == "__init__":
                known |= names_in(made)


def test_the_four_paths_are_there():
    assert list(paths()) == ["A start", "A stage, by a message", "A timer", "A decision"]


def test_each_path_is_as_short_as_it_was_made():
    """As many functions to open, one after the other, and no more."""
    assert {title: len(hops) for title, hops in paths().items()} == {
        "A start": 7,
        "A stage, by a message": 18,
        "A timer": 9,
        "A decision": 6,
    }
