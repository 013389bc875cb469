"""The scenarios of tests/engine, in another schema: whole runs of each kind, from their start to their end."""

from tests.engine.test_scenarios import *  # noqa: F403 - its tests and their fixtures, collected here once more
