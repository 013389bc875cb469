"""Every statement of the store, found where it stands, in each form that its module gives it."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from orchestrator import store
from orchestrator.store.batched import WHOSE_RUN_IS_FREE
from orchestrator.store.statement import Statement
from orchestrator.store.transitions import commit

FORMS = ("", WHOSE_RUN_IS_FREE)
"""For one run, and for many."""


def modules() -> list[ModuleType]:
    """The store's, but for its migrations."""
    return [
        import_module(found.name)
        for found in pkgutil.walk_packages(store.__path__, f"{store.__name__}.")
        if "migrations" not in found.name
    ]


def statements_of(module: ModuleType) -> list[Statement]:
    """Those that it defines, and those that it makes and keeps: one for each form."""
    values: list[Any] = list(vars(module).values())
    for value in list(values):
        values += value.values() if isinstance(value, dict) else ()
        is_its_own = getattr(value, "__module__", None) == module.__name__
        if is_its_own and getattr(value, "__annotations__", None) == {
            "whose_run_is_free": "str",
            "return": "Statement",
        }:
            values += [value(form) for form in FORMS]
    if module is commit:
        values += commits()
    return [value for value in values if isinstance(value, Statement)]


def commits() -> Iterator[Statement]:
    """The commit of a turn, with all that can stand in one: of a run that goes on, and of one that ends."""
    of_both = (commit._FENCES[True, False, False], commit.SETTLED, commit._OPENED, commit._CONSUMED)
    of_both += (commit._ARMED, commit._ASKED)
    ways = (
        (commit._DISARMED, commit._SEEN),
        (commit.CANCELLED, commit.GIVEN_BACK, commit._DISARMED, commit._SEEN),
        (commit._DISARMED, commit._GOES_ON),
        (commit._DROPPED,),
    )
    for way in ways:
        for form in FORMS:
            claiming = tuple(
                commit._OPENED_AS_CLAIMED if part is commit._OPENED else part for part in of_both
            )
            yield commit._statement_of((*claiming, *way, commit._TOLD), form)
            yield commit._statement_of((*of_both, *way, commit._HANDED_OFF, commit._TOLD), form)
    of_parent = (commit._FENCES[True, True, True], commit.SETTLED, commit.CANCELLED)
    of_parent += (commit._OPENED_AS_BOTH, commit.children.SEES_TO_CHILDREN, commit._SEEN)
    for form in FORMS:
        yield commit._statement_of((*of_parent, commit._TOLD), form)


def every_statement() -> list[Statement]:
    """Of the whole store."""
    return [statement for module in modules() for statement in statements_of(module)]
