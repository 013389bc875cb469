"""What a contract test says of a door: which library's part has moved, in which version, and where it is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pytest

COMPAT, DRIVER = "orchestrator/fleet/compat.py", "orchestrator/store/driver.py"

LIBRARIES = ("celery", "kombu", "billiard", "sqlalchemy", "psycopg")
ALL_OF_THEM = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)


@contextmanager
def door(name: str, part: str, library: str, *, named_in: str = COMPAT) -> Iterator[Any]:
    """The door of that name. What fails behind it is told as the library's part that is not what we rely on."""
    module = _imported(named_in)
    try:
        yield getattr(module, name)
    except Exception as error:  # noqa: BLE001 - a part may be missed in any way
        pytest.fail(
            f"{library} {version(library)} has no {part} that does what we rely on: see {named_in}:{name}"
            f" ({type(error).__name__}: {error})"
        )


def _imported(named_in: str) -> Any:
    """The module; a part that is gone altogether keeps it from being imported, and its error names that part."""
    try:
        return import_module(named_in.removesuffix(".py").replace("/", "."))
    except (ImportError, AttributeError) as error:
        library = (getattr(error, "name", None) or "").partition(".")[0]
        of = f"{library} {version(library)}" if library in LIBRARIES else ALL_OF_THEM
        pytest.fail(f"{of}: {named_in} can't be imported ({error})")
