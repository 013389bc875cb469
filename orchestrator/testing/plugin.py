"""What pytest finds by the entry point `pytest11`: the tester as a fixture, and one Postgres for a whole session.

perennial_tester      a ProcessTester for one test, with a database of its own
perennial_registry    whose processes it has: the default registry. Override it in a conftest.py for another
@pytest.mark.perennial(always_replay=True, …)    arguments of ProcessTester, for one test, class or module

Without such a test nothing is imported and nothing started. Under pytest-xdist the first process that needs a Postgres
starts it and migrates a template, and the others take clones of that; it ends with the session.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.testing import session

if TYPE_CHECKING:
    from orchestrator.core.definition import Registry
    from orchestrator.testing.tester import ProcessTester

_DIRECTORY = "perennial_directory"
_directory = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Name our marker; and learn what this process shares with its siblings, if it is one of pytest-xdist's."""
    shared = getattr(config, "workerinput", {}).get(_DIRECTORY)
    session.shared = None if shared is None else Path(shared)
    config.addinivalue_line(
        "markers",
        "perennial(**options): what the test's perennial_tester is given: now, always_replay, doubled, crash_at, hooks",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A process of pytest-xdist is about to begin: it is told what it shares with its siblings."""
    stash = node.config.stash
    if _directory not in stash:
        stash[_directory] = Path(tempfile.mkdtemp(prefix="perennial-test-"))
        stash[_directory].chmod(0o711)  # as root, Postgres' own account has to pass through
    node.workerinput[_DIRECTORY] = str(stash[_directory])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Where processes of pytest-xdist have shared a server, they have ended now."""
    directory = config.stash.get(_directory, None)
    if directory is None:
        return
    if not any(directory.iterdir()):  # nobody has needed any
        directory.rmdir()
        return
    from orchestrator.testing.databases import end_shared

    end_shared(directory)


@pytest.fixture
def perennial_registry() -> Registry:
    """Whose processes, stages and approvals `perennial_tester` has."""
    from orchestrator.core.definition import default_registry

    return default_registry


@pytest.fixture
def perennial_tester(
    request: pytest.FixtureRequest, perennial_registry: Registry
) -> Iterator[ProcessTester]:
    """A ProcessTester with a database of its own, which is dropped after the test."""
    from orchestrator.testing.tester import ProcessTester

    options: dict[str, Any] = {"registry": perennial_registry}
    for marker in reversed(list(request.node.iter_markers("perennial"))):
        options |= marker.kwargs
    with ProcessTester(**options) as tester:
        yield tester
