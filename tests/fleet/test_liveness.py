"""Who lives holds its work, whatever its interpreter is at; who is dead loses it in seconds. (docs/adr/0036)"""

from __future__ import annotations

from tests.fleet.harness import Fleet

POOLS = ("prefork", "threads", "solo")


def test_a_stage_that_holds_the_interpreters_lock_for_long_is_done_once_on_any_pool(
    fleet: Fleet,
) -> None:
    """A C call that never lets go starves every thread of its process, the heartbeat among them. Its worker lives."""
    for pool in POOLS:
        fleet.start_worker("-Q", f"tests,breathless-{pool}", pool=pool)
    runs = [fleet.client.start("holds-the-lock", pool) for pool in POOLS]
    fleet.wait_until_closed(*runs)
    assert [fleet.client.result(run) for run in runs] == [1, 1, 1]
    assert fleet.scalar("SELECT max(attempt) FROM perennial.activity") == 1
