"""The errors: each survives pickling and copying, wherever it is defined, and is documented."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import orchestrator
from orchestrator import errors

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GIVEN: dict[str, Any] = {
    "after": NOW,
    "assignees": ("ann", "bob"),
    "at": NOW,
    "attempts": 3,
    "by": "bob",
    "deadline": NOW,
    "error_type": "ValueError",
    "key": "work",
    "message": "broken",
    "name": "paid",
    "outcome": "approved",
    "problem": "is wrong",
    "remedy": "Mend it.",
    "run_id": UUID(int=7),
    "status": "failed",
    "where": "flows.py:3",
}
"""What an error's `__init__` may ask for."""


def every_module() -> list[Any]:
    """Those that need nothing but what is installed; Alembic loads its versions by path."""
    return [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(orchestrator.__path__, "orchestrator.")
        if ".migrations" not in module.name
    ]


def every_error() -> list[type[BaseException]]:
    return sorted(
        {
            kind
            for module in every_module()
            for kind in vars(module).values()
            if inspect.isclass(kind)
            and issubclass(kind, Exception)
            and kind.__module__.startswith("orchestrator.")
        },
        key=lambda kind: (kind.__module__, kind.__qualname__),
    )


def made(kind: type[BaseException]) -> BaseException:
    _self, *parameters = inspect.signature(kind.__init__).parameters.values()
    positional = [
        GIVEN.get(each.name, "a message")
        for each in parameters
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    by_name = {
        each.name: GIVEN.get(each.name, "something")
        for each in parameters
        if each.kind is each.KEYWORD_ONLY
    }
    return kind(*positional or ["a message"], **by_name)


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "again",
    [
        *(lambda e, p=p: pickle.loads(pickle.dumps(e, p)) for p in (2, 5)),
        copy.copy,
        copy.deepcopy,
    ],
    ids=["pickle 2", "pickle 5", "copy", "deepcopy"],
)
def test_an_error_comes_back_whole_from_pickle_and_copy(kind, again):
    """Celery's results, process pools and pytest-xdist pickle what is raised."""
    error = made(kind)
    error.add_note("a note")
    back = again(error)
    assert type(back) is kind
    assert (str(back), back.args) == (str(error), error.args)
    assert vars(back) == vars(error)


def test_an_error_of_a_users_own_comes_back_too():
    error = _Own("a", wanted=3)
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.wanted) == (_Own, "a wants 3", 3)


class _Own(errors.Fail):
    def __init__(self, name: str, *, wanted: int) -> None:
        self.wanted = wanted
        super().__init__(f"{name} wants {wanted}")


def test_the_errors_that_users_catch_are_to_be_imported_from_the_package_and_are_documented():
    exported = {
        name
        for name in orchestrator.__all__
        if getattr(errors, name, None) is getattr(orchestrator, name)
    }
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")
    assert len(exported) > 15
    assert exported <= set(re.findall(r"`(\w+)`", page))
