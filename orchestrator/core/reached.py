"""What a flow's meaning rests on, beside its own text: the helpers it calls, the classes and constants it names.

    reached_by(flow, types=..., hints_in=...)

Followed is what is of the flow's own package, or stands beside it in its module: functions, classes, and what is
assigned at a module's top, each by its syntax tree, and what those name in turn. A stage counts by the types of its
arguments and of its result, a step not at all: both are done once, and remembered. Libraries don't count.

What is assigned counts as it is written, not as it is: a value of the environment is another one in each place.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import inspect
import sys
import textwrap
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any, get_args

from orchestrator.core.compiled import package_of
from orchestrator.core.fingerprints import sha256_of, tree_of, without_local_names, written

PARTS_MAX = 500
"""So many functions, classes and constants are followed."""

HintsIn = Callable[[object], Iterable[object] | None]
"""The types that a stage, or another thing of ours, stands for; None: it is none of ours."""


@dataclass(frozen=True, slots=True)
class Reached:
    """`fingerprint`: of all that was seen. `unseen`: what the flow names and can't be looked into, in words."""

    fingerprint: str
    unseen: tuple[str, ...]


def reached_by(
    flow: Callable[..., Any],
    *,
    decorators: tuple[Any, ...],
    types: Iterable[object],
    hints_in: HintsIn,
) -> Reached | None:
    """What the flow's meaning is, with all that it rests on. None: it has no source.

    `types`: of its input and its result. `decorators`: of ours, which say nothing of it.
    """
    tree = tree_of(flow, decorators=decorators)
    if tree is None:
        return None
    walk = _Walk(package_of(getattr(flow, "__module__", "")), hints_in)
    walk.add(_Part(tree, _names_of(flow), step_of=_first_parameter(tree)))
    for each in types:
        walk.follow_type(each)
    return walk.done()


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of source, and what its names stand for. `step_of`: the parameter that is the flow."""

    tree: ast.AST
    names: Mapping[str, Any]
    step_of: str = ""


@dataclass(slots=True)
class _Walk:
    package: str
    hints_in: HintsIn
    hashes: list[str] = field(default_factory=list)
    unseen: dict[str, None] = field(default_factory=dict)
    _todo: deque[_Part] = field(default_factory=deque)
    _seen: set[object] = field(default_factory=set)

    def done(self) -> Reached:
        while self._todo:
            if len(self.hashes) >= PARTS_MAX:
                self.unseen[f"what comes after the first {PARTS_MAX} functions and classes"] = None
                break
            part = self._todo.popleft()
            tree = part.tree
            if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef):
                tree = without_local_names(tree, its_arguments=bool(part.step_of))
            self.hashes.append(sha256_of("".join(written(tree))))
            for path in _named_in(part.tree, part.step_of):
                self._follow_path(path, part.names)
        return Reached(sha256_of("\n".join(self.hashes)), tuple(self.unseen))

    def add(self, part: _Part) -> None:
        self._todo.append(part)

    def follow_type(self, hint: object) -> None:
        """A class, or those that a type is made of."""
        if isinstance(hint, type):
            self._follow_class(hint)
        for each in get_args(hint):
            self.follow_type(each)

    def _follow_path(self, path: tuple[str, ...], names: Mapping[str, Any]) -> None:
        """A name, or attributes of a module's."""
        name, *attributes = path
        if name not in names:
            return  # a builtin, or nothing
        value = names[name]
        holder: Mapping[str, Any] = names
        for attribute in attributes:
            if not isinstance(value, ModuleType) or not hasattr(value, attribute):
                break
            holder, name = vars(value), attribute
            value = getattr(value, attribute)
        self._follow(name, value, holder)

    def _follow(self, name: str, value: object, names: Mapping[str, Any]) -> None:
        hints = self.hints_in(value)
        if hints is not None:
            if self._is_new(value):
                for hint in hints:
                    self.follow_type(hint)
            return
        if isinstance(value, ModuleType):
            return
        if isinstance(value, type):
            self._follow_class(value)
            return
        function = inspect.unwrap(value) if callable(value) else value
        if isinstance(function, FunctionType):
            self._follow_function(function)
        elif callable(value) and package_of(type(value).__module__) == self.package:
            self.unseen[f"{name}, an object that is called"] = None
        elif not inspect.isroutine(value):
            self._follow_constant(name, names)

    def _follow_function(self, function: FunctionType) -> None:
        if package_of(function.__module__) != self.package or not self._is_new(function):
            return
        tree = tree_of(function)
        if tree is None:
            self.unseen[f"{function.__qualname__}, which has no source"] = None
            return
        self.add(_Part(tree, _names_of(function)))

    def _follow_class(self, found: type) -> None:
        if package_of(found.__module__) != self.package or not self._is_new(found):
            return
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(found))).body[0]
        except (OSError, TypeError, SyntaxError, IndexError):
            self.unseen[f"{found.__qualname__}, a class without source"] = None
            return
        module = sys.modules.get(found.__module__)
        self.add(_Part(tree, vars(module) if module is not None else {}))

    def _follow_constant(self, name: str, names: Mapping[str, Any]) -> None:
        """As it is written at the top of its module, or of the one that it is imported from."""
        module = names.get("__name__", "")
        for _ in range(10):
            if package_of(module) != self.package or not self._is_new((module, name)):
                return
            found = _assigned(module, name)
            if isinstance(found, tuple):
                module, name = found
                continue
            if found is None:
                self.unseen[f"what {name} holds"] = None
                return
            self.add(_Part(found, vars(sys.modules[module])))
            return

    def _is_new(self, what: object) -> bool:
        key = what if isinstance(what, tuple) else id(what)
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new


def _names_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    """What stands around it: the module's names, and those of the functions that it is in."""
    plain: Any = inspect.unwrap(function)
    around = dict(plain.__globals__)
    for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=False):
        try:
            around[name] = cell.cell_contents
        except ValueError:  # it isn't assigned yet
            continue
    return around


def _first_parameter(tree: ast.AST) -> str:
    arguments = getattr(tree, "args", None)
    named = [*arguments.posonlyargs, *arguments.args] if arguments is not None else []
    return named[0].arg if named else ""


def _named_in(tree: ast.AST, step_of: str) -> Iterator[tuple[str, ...]]:
    """What it names that it doesn't bind itself: `name`, or `module.name`, in order.

    Not the first argument of what is asked of the flow (`flow.step(charge, …)`), unless that is a stage: it is done
    once, and remembered. A stage is told from a step by what it is.
    """
    bound = {
        each.id
        for each in ast.walk(tree)
        if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load)
    } | {each.arg for each in ast.walk(tree) if isinstance(each, ast.arg)}
    skipped = {
        id(each.args[0])
        for each in ast.walk(tree)
        if isinstance(each, ast.Call)
        and isinstance(each.func, ast.Attribute)
        and isinstance(each.func.value, ast.Name)
        and each.func.value.id == step_of
        and each.func.attr == "step"
        and each.args
    }
    inner: set[int] = set()
    for node in ast.walk(tree):
        if id(node) in inner or id(node) in skipped:
            inner |= {id(each) for each in ast.walk(node)} if id(node) in skipped else set()
            continue
        path = _path_of(node)
        if path is not None and path[0] not in bound:
            inner |= {id(each) for each in ast.walk(node)}
            yield path


def _path_of(node: ast.AST) -> tuple[str, ...] | None:
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name) and not hasattr(builtins, node.id):
        return (node.id, *reversed(attributes))
    return None


def _assigned(module: str, name: str) -> ast.AST | tuple[str, str] | None:
    """The expression that a module assigns to a name; or which module it is imported from, and as what."""
    loaded = sys.modules.get(module)
    try:
        tree = ast.parse(inspect.getsource(loaded)) if loaded is not None else ast.Module([], [])
    except (OSError, TypeError, SyntaxError):
        return None
    found: ast.AST | tuple[str, str] | None = None
    for node in tree.body:
        if isinstance(node, ast.Assign):
            if any(isinstance(each, ast.Name) and each.id == name for each in node.targets):
                found = node.value
        elif isinstance(node, ast.AnnAssign):
            if isinstance(node.target, ast.Name) and node.target.id == name and node.value:
                found = node.value
        elif isinstance(node, ast.ImportFrom):
            for each in node.names:
                if (each.asname or each.name) == name:
                    found = _origin(node, module, loaded), each.name
    return found


def _origin(node: ast.ImportFrom, module: str, loaded: ModuleType | None) -> str:
    if not node.level:
        return node.module or ""
    package = getattr(loaded, "__package__", None) or module
    try:
        return importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    except ImportError:
        return ""
