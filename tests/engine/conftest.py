"""Each test with a `harness` runs in several modes, or in those that its `modes_of` names (tests/modes.py).

Scenarios, signals and inline steps run in all of them. The rest runs in three, and in all with `--all`.
"""

from __future__ import annotations

import pytest

from tests.modes import EAGER, MODES, NORMAL, TWICE

IN_ALL_MODES = ("test_scenarios", "test_signals", "test_inline_steps")
BRIEFLY = (NORMAL, TWICE, EAGER)
"""As messages go, as they come twice, and as a fleet goes on by itself."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mode" in metafunc.fixturenames:
        named = metafunc.definition.get_closest_marker("modes")
        is_in_all = (
            metafunc.config.getoption("--all")
            or metafunc.module.__name__.rpartition(".")[2] in IN_ALL_MODES
        )
        modes = named.args if named is not None else MODES if is_in_all else BRIEFLY
        metafunc.parametrize("mode", modes, ids=[mode.name for mode in modes])
