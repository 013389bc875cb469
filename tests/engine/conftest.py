"""Each test with a `harness` runs in every mode, or in those that its `modes_of` names (tests/modes.py)."""

from __future__ import annotations

import pytest

from tests.modes import MODES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mode" in metafunc.fixturenames:
        named = metafunc.definition.get_closest_marker("modes")
        modes = named.args if named is not None else MODES
        metafunc.parametrize("mode", modes, ids=[mode.name for mode in modes])
