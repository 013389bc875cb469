"""What a flow rests on is part of what it is: helpers, classes, constants; not stages, steps or libraries."""

from __future__ import annotations

import importlib
import itertools
import linecache
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.compiled import package_of
from orchestrator.core.versions.content import is_content_of

NUMBERS = itertools.count()

MODULE = '''
from enum import Enum
from pydantic import BaseModel
from orchestrator import Flow, Registry, process, stage

registry = Registry()
LIMIT = 100
TABLE = {"a": [1, 2]}
OTHER = 5


class Kind(Enum):
    NEW = "new"


class Order(BaseModel):
    """An order."""

    amount: int
    kind: Kind = Kind.NEW


class Grant(BaseModel):
    account: str


@stage(registry=registry)
def provision(order: Order) -> Grant:
    return Grant(account="a")


def mail(order: Order) -> None:
    print("mail")


@process(version=1, name="p", registry=registry)
async def p(flow: Flow, order: Order) -> str:
    grant = await flow.stage(provision, order)
    await flow.step(mail, order)
    return label(grant) if order.amount > LIMIT else str(TABLE)


def label(grant: Grant) -> str:
    return prefix() + grant.account


def prefix() -> str:
    return "account "
'''


@pytest.fixture
def defined(tmp_path: Path, monkeypatch: Any) -> Any:
    """The process of a module with this text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def define(text: str) -> Any:
        name = f"reached_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(name).registry.process("p")

    return define


def program_of(found: Any) -> str:
    return found.fingerprint_by_way["program"]


OTHER_CONTENT = {
    "a helper": ("return prefix() +", "return prefix().strip() +"),
    "a helper's helper": ('"account "', '"acct "'),
    "a constant": ("LIMIT = 100", "LIMIT = 101"),
    "a table": ("[1, 2]", "[1, 3]"),
    "its input": ("    amount: int", "    amount: int\n    currency: str = 'EUR'"),
    "a class within its input": ('NEW = "new"', 'NEW = "fresh"'),
    "what a stage gives": ("    account: str", "    account: str\n    since: int = 0"),
    "the flow itself": ("> LIMIT", ">= LIMIT"),
}

SAME_CONTENT = {
    "a stage's body": ('Grant(account="a")', 'Grant(account="b")'),
    "a step's body": ('print("mail")', 'print("a letter")'),
    "a constant that it doesn't read": ("OTHER = 5", "OTHER = 6"),
    "a docstring of its input": ('"""An order."""', '"""What was ordered."""'),
    "comments and format": ("LIMIT = 100", "LIMIT = (\n    100  # euros\n)"),
    "a local name": (
        "grant = await flow.stage(provision, order)\n",
        "made = await flow.stage(provision, order)\n",
    ),
    "its arguments' names": (
        "async def p(flow: Flow, order: Order)",
        "async def p(f: Flow, o: Order)",
    ),
}


@pytest.mark.parametrize(("old", "new"), OTHER_CONTENT.values(), ids=OTHER_CONTENT)
def test_what_a_flow_rests_on_is_content(defined, old, new):
    assert MODULE.count(old) == 1
    before, after = defined(MODULE), defined(MODULE.replace(old, new))
    assert program_of(before) != program_of(after)
    assert not is_content_of(after, before.fingerprint, before.fingerprint_by_way)
    assert before.unseen == after.unseen == ()


@pytest.mark.parametrize(("old", "new"), SAME_CONTENT.values(), ids=SAME_CONTENT)
def test_what_means_nothing_to_a_flow_is_cosmetic(defined, old, new):
    changed = MODULE.replace(old, new)
    if "made =" in new:
        changed = changed.replace("label(grant) if", "label(made) if")
    if "(f: Flow" in new:
        body = changed[changed.index("async def p(") : changed.index("def label")]
        changed = changed.replace(
            body,
            body.replace("flow.", "f.")
            .replace(" order)", " o)")
            .replace("order.amount", "o.amount"),
        )
    assert changed != MODULE
    before, after = defined(MODULE), defined(changed)
    assert program_of(before) == program_of(after)
    assert is_content_of(after, before.fingerprint, before.fingerprint_by_way)


def test_what_older_releases_have_recorded_is_the_same_still(defined):
    """They knew of the flow alone, and a record of theirs has no ways."""
    found = defined(MODULE)
    assert is_content_of(found, found.fingerprint, {})
    assert is_content_of(found, found.fingerprints[1], {})
    assert is_content_of(found, found.fingerprint, {"meaning": found.fingerprint})


def test_a_name_that_means_two_things_is_left_as_it_is_called(defined):
    """A comprehension's own variable is another one than the name outside it."""
    first, second = (
        defined(MODULE.replace("str(TABLE)", f"str([{name} for {name} in TABLE]) + str(order)"))
        for name in ("order", "each")
    )
    assert program_of(first) != program_of(second)


def test_what_is_asked_for_in_the_middle_of_an_import_is_looked_at_again(defined):
    """A helper stands below its flow."""
    early = MODULE.replace("def label(", "EARLY = p.fingerprint_by_way\n\n\ndef label(")
    found = defined(early)
    assert sys.modules[found.flow.__module__].EARLY["program"] != program_of(found)
    assert program_of(found) == program_of(defined(MODULE))


def test_a_module_that_is_run_is_of_its_package(monkeypatch):
    assert package_of("shop.flows") == "shop"
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("shop.deploy", None))
    assert package_of("__main__") == "shop"
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert package_of("__main__") == "__main__"


def test_what_can_not_be_seen_is_said(defined):
    text = MODULE.replace(
        "TABLE = {", "class Rule:\n    def __call__(self): ...\n\nrule = Rule()\nTABLE = {"
    ).replace("str(TABLE)", "str(rule())")
    assert defined(text).unseen == ("rule, an object that is called",)


def test_an_install_without_source_is_the_same_by_its_compiled_code(defined, tmp_path):
    """Where the code was deployed with source, by the same Python; and its helpers count."""
    with_source = defined(MODULE)

    def compiled(text: str) -> Any:
        found = defined(text)
        module = sys.modules[found.flow.__module__]
        Path(module.__file__).unlink()
        linecache.clearcache()
        space = {"__name__": module.__name__, "__file__": "/nowhere/at/all.py"}
        exec(compile(text, "/nowhere/at/all.py", "exec", dont_inherit=True), space)
        module.__dict__.update(space)
        return space["registry"].process("p")

    same, helper = compiled(MODULE), compiled(MODULE.replace('"account "', '"acct "'))
    assert "program" not in same.fingerprint_by_way
    assert same.unseen == ("the flow, which has no source",)
    recorded = with_source.fingerprint, with_source.fingerprint_by_way
    assert is_content_of(same, *recorded)
    assert not is_content_of(helper, *recorded)
    assert not is_content_of(same, "x", {"program": recorded[1]["program"]})
