"""For the tests of process authors: a real Postgres, the real engine, and a clock that the test holds.

    tester       ProcessTester: start, decide, signal, let time pass, look
    databases    a fresh, migrated database for each tester

Nothing here runs in production, and nothing in production imports it.
"""

from __future__ import annotations

from orchestrator.testing.tester import ProcessTester

__all__ = ["ProcessTester"]
