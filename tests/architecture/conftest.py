"""Each test with a `harness` runs in the modes that its `modes_of` names (tests/modes.py)."""

from __future__ import annotations

from tests.engine.conftest import pytest_generate_tests

__all__ = ["pytest_generate_tests"]
