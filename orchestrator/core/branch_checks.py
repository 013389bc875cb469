"""What an author may give as branches, each by its name, and what is refused in a sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.core.callables import name_of
from orchestrator.core.checks import check_key, composed
from orchestrator.core.combinators import Combination, discard
from orchestrator.core.definition import Stage
from orchestrator.core.pending import Pending
from orchestrator.errors import DefinitionError


def called(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What starts a branch that is a call."""
    return checked(function(*args, **kwargs), f"{name_of(function)}, which flow.scope calls,")


def checked(started: Any, what: str) -> Any:
    """What a function of the flow's own gave, if it can be awaited. Raises DefinitionError."""
    if isinstance(started, Pending | Combination) or inspect.iscoroutine(started):
        return started
    raise DefinitionError(
        f"{what} gives a {type(started).__name__}", remedy="Make it an `async def`."
    )


def word_of(function: Any) -> str:
    """A word for a function in a key."""
    name = getattr(function, "__name__", "")
    return name if name.isidentifier() else "map"


def names_and_branches(
    given: Sequence[Any], *, how: str, may_be_called: bool = False
) -> list[tuple[str, Any]]:
    """Each branch with its name: of a mapping, else its place. Raises DefinitionError: one can't be awaited."""
    if not (len(given) == 1 and isinstance(given[0], Mapping)):
        _check_branches(given, how=how, may_be_called=may_be_called)
        return [(str(index), branch) for index, branch in enumerate(given)]
    names = [composed(str(name)) for name in given[0]]
    for name in names:
        check_key(name, where=how)
    if len(set(names)) < len(names):
        raise DefinitionError(
            f"{how} was given two branches of one name: {', '.join(sorted(names))}",
            remedy="Name each otherwise; 1 and '1' are one name, and so is é however it is typed.",
        )
    branches = list(given[0].values())
    if how != "flow.gather":
        _check_branches(branches, how=how, may_be_called=may_be_called)
    return list(zip(names, branches, strict=True))


def _check_branches(branches: Sequence[Any], *, how: str, may_be_called: bool) -> None:
    for branch in branches:
        if isinstance(branch, Pending | Combination) or inspect.iscoroutine(branch):
            continue
        if may_be_called and callable(branch) and not isinstance(branch, Stage):
            continue
        is_bundle = isinstance(branch, list | tuple | set | Generator)
        discard_all(branches)
        raise DefinitionError(
            f"{how} is given a {type(branch).__name__}",
            remedy=f"Unpack it: {how}(*branches)."
            if is_bundle
            else "Give it what flow's own methods return, or coroutines of `async def`s of yours.",
        )


def refuse_twice(branches: Sequence[Any], *, how: str) -> None:
    """Raises DefinitionError: one stands there twice."""
    seen: set[int] = set()
    for branch in branches:
        if id(branch) in seen:
            discard_all(branches)
            name = branch.key if isinstance(branch, Pending | Combination) else name_of(branch)
            raise DefinitionError(f"{how} is given {name} twice", remedy="Give each branch once.")
        seen.add(id(branch))


def discard_all(branches: Iterable[Any]) -> None:
    """None of them is ever started."""
    for each in branches:
        discard(each)


def mapping_of(names: Sequence[str]) -> Callable[[list[Any]], dict[str, Any]]:
    """Puts results under those names."""
    return lambda results: dict(zip(names, results, strict=True))
