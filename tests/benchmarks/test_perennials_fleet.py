"""Perennial's side on a real worker, in the profile that has queues of its own. Nothing looks at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.bench import part_latency, throughput
from benchmarks.bench.fleet import Fleet
from benchmarks.bench.load import steady_load
from benchmarks.bench.processes import registry
from benchmarks.bench.profiles import DEDICATED, PROFILE

CLOCK_MILLISECONDS = 60_000
"""A clock that was mixed up with another gives years."""


@pytest.fixture(scope="module")
def fleet(stand) -> Iterator[Fleet]:
    with stand.fleet(throughput.APP, registry=registry, environment={PROFILE: DEDICATED}) as fleet:
        yield fleet


def test_every_run_that_was_started_has_done_its_stages_and_steps(fleet, stand):
    assert throughput.measure_open_runs(fleet, "chain", 4) > 0
    assert throughput.measure_open_runs(fleet, "steps", 4) > 0
    recorded = fleet.rows("SELECT kind, count(*) FROM perennial.activity GROUP BY kind")
    outputs = fleet.rows("SELECT output::text FROM perennial.run ORDER BY output")
    assert {row.kind: row.count for row in recorded} == {"stage": 20, "step": 20}
    assert [row[0] for row in outputs] == [str(number) for number in (5, 5, 6, 6, 7, 7, 8, 8)]
    assert stand.redis().exists("unacked") == 0


def test_every_hand_off_and_every_signal_is_measured_while_others_run(fleet):
    fleet.wait_until_closed()
    before = runs_of(fleet)
    with steady_load(fleet.client, "chain", per_second=20):
        gaps = part_latency.stage_to_stage(fleet, 2)
        signals = part_latency.signal_to_resume(fleet, 2)
    fleet.wait_until_closed()
    assert (len(gaps), len(signals)) == (2 * 4, 2)
    assert all(0 < milliseconds < CLOCK_MILLISECONDS for milliseconds in gaps + signals)
    after = runs_of(fleet)
    assert after.pop("chain") > before.get("chain", 0)
    assert {name: after[name] for name in ("stamps", "wait-for-word")} == {
        "stamps": 2,
        "wait-for-word": 2,
    }


def runs_of(fleet: Fleet) -> dict[str, int]:
    counted = fleet.rows("SELECT process, count(*) FROM perennial.run GROUP BY process")
    return {row.process: row.count for row in counted}
