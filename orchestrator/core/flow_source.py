"""What the source of a flow shows to be wrong, refused where the process is defined, with its line.

A forgotten `await`, a stage or `step` called directly, an awaitable of asyncio's. Only what is certain: a name
that the flow binds itself is left alone, and so is what can't be read (no source, a text that isn't Python's).
What this doesn't see, the first turn does (`core.unawaited`, `core.driving`, `core.bugs`).
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from orchestrator.core.driving import instead_of
from orchestrator.errors import DefinitionError

VERBS = frozenset({"stage", "step", "sleep", "sleep_until", "signal", "approval", "gather"})
"""The methods of Flow that are to be awaited."""

LOOPS = frozenset({"asyncio", "anyio", "trio", "curio"})
"""Packages whose awaitables need their own event loop."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def check_source(flow: Callable[..., Any]) -> None:
    """Raises DefinitionError with `file:line` of the first mistake that is certain."""
    plain = inspect.unwrap(flow)
    if not isinstance(plain, FunctionType):
        return
    try:
        lines, first = inspect.getsourcelines(plain)
        tree = ast.parse(textwrap.dedent("".join(lines)))
        file = inspect.getsourcefile(plain) or "?"
    except (OSError, TypeError, SyntaxError, ValueError):
        return
    if tree.body and isinstance(tree.body[0], ast.AsyncFunctionDef):
        _Reader(plain, tree.body[0], file, first).check()


class _Reader:
    def __init__(
        self, flow: FunctionType, tree: ast.AsyncFunctionDef, file: str, first: int
    ) -> None:
        self.flow, self.tree, self.file, self.first = flow, tree, file, first
        nodes = list(ast.walk(tree))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        self.read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
        self.bound = {name for node in nodes if node is not tree for name in _bound_by(node)}
        self.handle = [*tree.args.posonlyargs, *tree.args.args][0].arg
        inner = (node for node in nodes if node is not tree)
        binders = [name for node in inner for name in _bound_by(node) if name == self.handle]
        self.is_handle_ours = len(binders) == 1  # its own parameter

    def check(self) -> None:
        for node in _own_code(self.tree):
            match node:
                case ast.Expr(value=ast.Call() as call):
                    self._check_left_alone(call)
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call)
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.Call() as call)
                ):
                    if name not in self.read and self._is_verb(call):
                        self._refuse_unawaited(call)
                case ast.Await(value=ast.Call() as call):
                    self._check_awaited(call)
            if isinstance(node, ast.Call):
                self._check_called(node)

    def _check_left_alone(self, call: ast.Call) -> None:
        """The call is a whole statement: what it gives is thrown away."""
        if self._is_verb(call) or inspect.iscoroutinefunction(self._meaning(call.func)):
            self._refuse_unawaited(call)

    def _check_awaited(self, call: ast.Call) -> None:
        called = self._meaning(call.func)
        package = str(getattr(called, "__module__", "")).partition(".")[0]
        if package.lstrip("_") in LOOPS:
            raise DefinitionError(
                f"a flow can't await {ast.unparse(call.func)}: no event loop drives it",
                where=self._place(call),
                remedy="Await flow.sleep, flow.gather or flow.signal; what needs asyncio goes into a stage.",
            )

    def _check_called(self, call: ast.Call) -> None:
        called = self._meaning(call.func)
        instead = instead_of(called)
        if instead is not None:
            raise DefinitionError(
                f"the flow calls {ast.unparse(call.func)} itself, so that it is done unrecorded and again "
                "at each replay",
                where=self._place(call),
                remedy=f"Write {instead}.",
            )

    def _is_verb(self, call: ast.Call) -> bool:
        match call.func:
            case ast.Attribute(value=ast.Name(id=name), attr=verb):
                return self.is_handle_ours and name == self.handle and verb in VERBS
        return False

    def _refuse_unawaited(self, call: ast.Call) -> None:
        raise DefinitionError(
            f"{ast.unparse(call.func)}(…) is never awaited, so that it is done or not by chance",
            where=self._place(call),
            remedy="Write `await` before it, or await it in a flow.gather.",
        )

    def _meaning(self, node: ast.expr) -> Any:
        """The object that a dotted name stands for when the process is defined. None: not certain."""
        match node:
            case ast.Name(id=name) if name not in self.bound:
                return self._value_of(name)
            case ast.Attribute(value=value, attr=attr):
                owner = self._meaning(value)
                return getattr(owner, attr, None) if isinstance(owner, ModuleType) else None
        return None

    def _value_of(self, name: str) -> Any:
        code, cells = self.flow.__code__, self.flow.__closure__ or ()
        if name not in code.co_freevars:
            return self.flow.__globals__.get(name)
        try:
            return cells[code.co_freevars.index(name)].cell_contents
        except ValueError:  # not bound yet
            return None

    def _place(self, node: ast.expr) -> str:
        return f"{self.file}:{self.first + node.lineno - 1}"


def _bound_by(node: ast.AST) -> Iterator[str]:
    """The names that this node binds, of itself."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.alias(name=name, asname=other):
            yield other or name.partition(".")[0]
        case (
            ast.ExceptHandler(name=str(name))
            | ast.MatchAs(name=str(name))
            | ast.MatchStar(name=str(name))
            | ast.MatchMapping(rest=str(name))
        ):
            yield name


def _own_code(tree: ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """The flow's code and that of the `async def`s in it, but of no `def`: a step may call that."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            continue
        yield node
        waiting = [*ast.iter_child_nodes(node), *waiting]
