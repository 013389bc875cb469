"""What a contract test says of a door: which library's part has moved, in which version, and where it is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pytest

COMPAT, DRIVER = "orchestrator/fleet/compat.py", "orchestrator/store/driver.py"


@contextmanager
def door(name: str, part: str, library: str, *, named_in: str = COMPAT) -> Iterator[Any]:
    """The door of that name. What fails behind it is told as the library's part that is not what we rely on."""
    try:
        module = import_module(named_in.removesuffix(".py").replace("/", "."))
        yield getattr(module, name)
    except Exception as error:  # noqa: BLE001 - a part may be missed in any way
        where = f"see {named_in}:{name}"
        pytest.fail(
            f"{library} {version(library)} has no {part} that does what we rely on: {where}"
            f" ({type(error).__name__}: {error})"
        )
