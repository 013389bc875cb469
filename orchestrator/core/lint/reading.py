"""The rules, over one function of a flow's code."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from orchestrator.core.lint.flow_code import Function
from orchestrator.core.lint.names import Names
from orchestrator.core.lint.rules import LOOPS, METHODS, Rule, rule_of_call

Found = tuple[ast.AST, Rule, str]
"""Where, which rule, and what stands there."""

_AWAITED = frozenset(
    (
        *(
            "stage",
            "step",
            "sleep",
            "sleep_until",
            "signal",
            "approval",
            "callback",
            "call_back",
            "poll",
        ),
        *("gather", "first", "map", "parallel", "child", "start_child"),
    )
)
"""Methods of Flow that are to be awaited."""
_GOES_OVER = frozenset(("list", "tuple", "enumerate", "zip", "iter", "map", "filter", "reversed"))
_CHANGES = frozenset(
    (
        "append",
        "extend",
        "insert",
        "add",
        "update",
        "pop",
        "remove",
        "clear",
        "setdefault",
        "discard",
        "popitem",
    )
)
_WIDE = ("Exception", "BaseException")


class Reader:
    """Reads one function. `flows`: the names of its Flow; `state`: names of the module that hold what can change."""

    def __init__(
        self,
        function: Function,
        names: Names,
        *,
        flows: frozenset[str],
        stages: set[str],
        state: set[str],
    ) -> None:
        self._function, self._names, self._flows, self._stages = function, names, flows, stages
        bound = set(_bound_in(function))
        self._state = state - bound
        self._sets = {
            target.id
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and _is_set(node.value, frozenset())
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        self._loaded = {
            node.id
            for node in ast.walk(function)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }

    def found(self) -> Iterator[Found]:
        """All that is found, in no order."""
        for node in ast.walk(self._function):
            match node:
                case ast.Await(value=ast.Call() as call):
                    yield from self._awaited(call)
                case ast.Call():
                    yield from self._called(node)
                case ast.For() | ast.comprehension() if self._is_set(node.iter):
                    yield node.iter, Rule.SET_ORDER, f"{_text(node.iter)} is a set"
                case ast.Try() | ast.TryStar() if any(map(_awaits, node.body)):
                    for handler in node.handlers:
                        yield from self._caught(handler)
                case ast.Global() | ast.Subscript():
                    yield from self._changed(node)
                case ast.Expr() | ast.Assign():
                    yield from self._left_alone(node)

    def _changed(self, node: ast.Global | ast.Subscript) -> Iterator[Found]:
        if isinstance(node, ast.Global):
            yield node, Rule.SHARED_STATE, f"global {', '.join(node.names)}"
        elif (
            isinstance(node.value, ast.Name)
            and node.value.id in self._state
            and not isinstance(node.ctx, ast.Load)
        ):
            yield node, Rule.SHARED_STATE, f"{node.value.id}[…] of the module is changed"

    def _left_alone(self, node: ast.Expr | ast.Assign) -> Iterator[Found]:
        match node:
            case ast.Expr(value=ast.Call() as call) if self._is_asked(call):
                yield node, Rule.NOT_AWAITED, f"{_text(call.func)}(…) is never awaited"
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call):
                if self._is_asked(call) and name not in self._loaded:
                    yield node, Rule.NOT_AWAITED, f"{name} = {_text(call.func)}(…) is never awaited"

    def _awaited(self, call: ast.Call) -> Iterator[Found]:
        what = self._names.of(call.func)
        if what is not None and rule_of_call(what) is None and what.partition(".")[0] in LOOPS:
            yield call, Rule.FOREIGN_AWAIT, f"await {what}(…)"

    def _called(self, call: ast.Call) -> Iterator[Found]:
        what = self._names.of(call.func)
        rule = None if what is None else rule_of_call(what)
        if rule is not None:
            yield call, rule, f"{what}(…)"
        elif what in self._stages:
            yield call, Rule.CALLED_DIRECTLY, f"stage {what} is called, and not asked for"
        elif isinstance(call.func, ast.Attribute):
            yield from self._method(call, call.func)
        elif (
            what in _GOES_OVER
            and (found := next(filter(self._is_set, call.args), None)) is not None
        ):
            yield found, Rule.SET_ORDER, f"{_text(found)} is a set"
        if self._is_of_flow(call):
            yield from self._keys(call)

    def _method(self, call: ast.Call, method: ast.Attribute) -> Iterator[Found]:
        if method.attr in METHODS and not self._is_of_flow(call):
            yield call, METHODS[method.attr], f"{_text(method)}(…)"
        elif (
            isinstance(method.value, ast.Name)
            and method.value.id in self._state
            and method.attr in _CHANGES
        ):
            yield call, Rule.SHARED_STATE, f"{_text(method)}(…) changes what is the module's"
        elif self._is_of_flow(call) and method.attr in ("map", "parallel"):
            for argument in call.args:
                if self._is_set(argument):
                    yield argument, Rule.SET_ORDER, f"{_text(argument)} is a set"

    def _keys(self, call: ast.Call) -> Iterator[Found]:
        for keyword in call.keywords:
            if keyword.arg != "key":
                continue
            for node in ast.walk(keyword.value):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in ("id", "hash", "object")
                ):
                    yield node, Rule.UNSTABLE_KEY, f"key={_text(keyword.value)}"

    def _caught(self, handler: ast.ExceptHandler) -> Iterator[Found]:
        caught = handler.type
        kinds = (
            caught.elts if isinstance(caught, ast.Tuple) else [caught] if caught is not None else []
        )
        wide = next((name for kind in kinds if (name := self._names.of(kind)) in _WIDE), None)
        if (caught is not None and wide is None) or any(
            isinstance(node, ast.Raise) for node in ast.walk(handler)
        ):
            return
        yield handler, Rule.SWALLOWED, f"except {wide}" if wide is not None else "a bare except"

    def _is_of_flow(self, call: ast.Call) -> bool:
        func = call.func
        return (
            isinstance(func, ast.Attribute)
            and isinstance(func.value, ast.Name)
            and func.value.id in self._flows
        )

    def _is_asked(self, call: ast.Call) -> bool:
        return (
            self._is_of_flow(call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in _AWAITED
        )

    def _is_set(self, node: ast.expr) -> bool:
        return _is_set(node, frozenset(self._sets))


def _is_set(node: ast.expr, sets: frozenset[str]) -> bool:
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.Name(id=name):
            return name in sets
        case ast.BinOp(
            left=left, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor(), right=right
        ):
            return _is_set(left, sets) or _is_set(right, sets)
    return False


def _awaits(node: ast.AST) -> bool:
    return any(
        isinstance(each, ast.Await | ast.AsyncFor | ast.AsyncWith) for each in ast.walk(node)
    )


def _bound_in(function: Function) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def _text(node: ast.AST) -> str:
    """A line's worth of what stands there."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 50 else f"{text[:49]}…"  # noqa: PLR2004 - half a line
