"""Private parts of Celery, kombu, billiard, SQLAlchemy, psycopg and redis-py are leaned on in two files alone.

There each has a name, and a contract test (tests/contract). A release of theirs may move any of these without a word;
then it is one file that is mended, and one test that says which part it was.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOORS = {"orchestrator/fleet/compat.py", "orchestrator/store/driver.py"}
HOUSE = ("orchestrator", "workers", "tasks", "demo")

THEIRS = {"celery", "kombu", "billiard", "vine", "sqlalchemy", "psycopg", "redis"}

UNDOCUMENTED = (
    "billiard",
    "celery._state",
    "celery.app.autoretry",
    "celery.app.routes",
    "celery.app.trace",
    "celery.concurrency",
    "celery.local",
    "celery.utils",
    "celery.worker",
    "kombu.transport",
    "psycopg.postgres",
    "psycopg.types.array",
    "psycopg.types.datetime",
    "sqlalchemy.cyextension",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.util",
)
"""Modules that their manuals leave out, or have among the internals."""

PARTS = {
    "as_task_v2",
    "dispatch",
    "lookup_route",
    "maintain_pool",
    "name_to_type",
    "pgconn",
    "pool_cls",
    "request_stack",
    "signature_from_request",
    "task_events",
}
"""Attributes that their manuals leave out, and that nothing of ours is called like."""

OF_PYTHON = {"_asdict", "_fields", "_make", "_missing_", "_replace"}
"""Documented, of named tuples and enumerations."""

KNOWN = {
    ("orchestrator/core/failures.py", "'celery.app.autoretry'"): (
        "a module's name in a list of those whose frames are no author's; core knows no Celery"
    ),
    ("orchestrator/core/flow_branches.py", "sys._getframe"): "of Python itself, one frame",
    ("orchestrator/core/flow.py", "sys._getframe"): "of Python itself, one frame",
    ("orchestrator/fleet/services.py", "'celery.worker.components:Pool'"): (
        "what a bootstep comes after is documented by this name"
    ),
    ("orchestrator/store/statement.py", "self.of(schema)._rows"): "another Statement's, its like",
}
"""What is found and is no private part of theirs, with the reason."""


def modules() -> list[str]:
    return [
        path.relative_to(ROOT).as_posix()
        for top in HOUSE
        for path in sorted((ROOT / top).rglob("*.py"))
    ]


def leans_in(source: str) -> Iterator[str]:
    """What leans on a private part: an import, an attribute, or the name of one in a string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if _is_private(name.name))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name for name in named if _is_private(name))
        elif isinstance(node, ast.Attribute) and not _is_of_ours(node):
            if _is_underscored(node.attr) or node.attr in PARTS:
                yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _names_a_module(node.value) or node.value in PARTS or _is_dotted_private(node.value):
                yield repr(node.value)
        elif isinstance(node, ast.Call) and _called(node) in ("getattr", "setattr", "delattr"):
            name = node.args[1] if len(node.args) > 1 else None
            if isinstance(name, ast.Constant) and _is_underscored(str(name.value)):
                yield repr(name.value)


def _is_private(module: str) -> bool:
    top, *rest = module.split(".")
    return top in THEIRS and (
        any(_is_underscored(part) for part in rest)
        or any(module == each or module.startswith(f"{each}.") for each in UNDOCUMENTED)
    )


def _names_a_module(value: str) -> bool:
    return bool(re.fullmatch(r"[a-z_]+(\.[\w.]+)?(:\w+)?", value)) and _is_private(
        value.partition(":")[0]
    )


def _is_dotted_private(value: str) -> bool:
    """As `attrgetter` takes it."""
    return bool(re.fullmatch(r"\w+(\.\w+)+", value)) and any(
        each in PARTS for each in value.split(".")
    )


def _is_underscored(name: str) -> bool:
    is_special = name.startswith("__") and name.endswith("__")
    return name.startswith("_") and not is_special and name not in OF_PYTHON


def _is_of_ours(node: ast.Attribute) -> bool:
    """What an object of ours has for itself."""
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def test_private_parts_of_others_are_leaned_on_in_two_files_alone():
    found = {
        (module, what)
        for module in modules()
        if module not in DOORS
        for what in leans_in((ROOT / module).read_text(encoding="utf-8"))
    }
    assert found - set(KNOWN) == set(), "name it in fleet/compat.py or store/driver.py"
    assert set(KNOWN) - found == set(), "what is gone need not be known of"


@pytest.mark.parametrize(
    "source",
    [
        "import billiard",
        "from billiard.einfo import ExceptionInfo",
        "from celery._state import _task_stack",
        "import celery._state",
        "from celery import _state",
        "from celery.app import trace",
        "from celery.app.trace import task_has_custom",
        "from celery.concurrency import prefork",
        "from kombu.transport.redis import Channel",
        "from psycopg._adapters_map import AdaptersMap",
        "from psycopg.types.datetime import TimestamptzLoader",
        "app._tasks",
        "self._app._tasks",
        "connection._handle_dbapi_exception(error)",
        "parent._restart_state = rest",
        'getattr(parent, "_restart_state", None)',
        'getattr(worker.pool, "maintain_pool", None)',
        'attrgetter("pgconn.pipeline_status")',
        'logging.getLogger("celery.worker.loops")',
        "task.request_stack.push(request)",
        "app.amqp.as_task_v2(task)",
        "connection.dispatch",
    ],
)
def test_what_leans_on_a_private_part_is_found(source):
    """Guards `leans_in`."""
    assert list(leans_in(source))


@pytest.mark.parametrize(
    "source",
    [
        "from celery import Celery, Task",
        "from celery.exceptions import Ignore",
        "from celery.app.task import Context",
        "from psycopg.types.json import set_json_loads",
        "from sqlalchemy.dialects.postgresql import JSONB",
        "self._tasks = {}",
        "cls._made",
        "type(task).__mro__",
        'getattr(error, "__notes__", ())',
    ],
)
def test_what_is_documented_or_ones_own_is_let_be(source):
    assert not list(leans_in(source))
