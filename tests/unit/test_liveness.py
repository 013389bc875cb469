"""Who answers for what is claimed: an id for each thread, and one heartbeat for them all. (docs/adr/0005)"""

from __future__ import annotations

import contextlib

from orchestrator.engine.liveness import Identity


def test_one_threads_failure_does_not_take_the_others_claims():
    """Every claim beats under the id it was made with, until its holder lets go. A failure gives
    the thread that failed a new id for what it claims next, and takes nothing from a claim that
    is still healthy.
    """

    identity = Identity("threads")
    with identity.holding() as healthy:
        with contextlib.suppress(ZeroDivisionError), identity.holding():
            raise ZeroDivisionError
        assert healthy in identity.held_ids()
        with identity.holding() as later:
            assert later != healthy
    assert identity.held_ids() == []
