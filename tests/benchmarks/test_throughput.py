"""Each side of a comparison runs, and counts all that was started. No test here looks at a rate."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from benchmarks.bench import dbos_side, part_chain, throughput
from benchmarks.bench.processes import registry
from benchmarks.bench.profiles import DEDICATED, PROFILE
from benchmarks.bench.rounds import in_turns


def test_perennials_side_ends_every_run_it_has_started(stand):
    with stand.fleet(throughput.APP, registry=registry, environment={PROFILE: DEDICATED}) as fleet:
        assert throughput.measure_open_runs(fleet, "chain", 4) > 0
        assert throughput.measure_open_runs(fleet, "steps", 4) > 0
        stages = fleet.rows("SELECT count(*) FROM perennial.activity WHERE kind = 'stage'")
        steps = fleet.rows("SELECT count(*) FROM perennial.activity WHERE kind = 'step'")
        assert (stages[0][0], steps[0][0]) == (20, 20)
        outputs = fleet.rows("SELECT output::text FROM perennial.run ORDER BY output")
        assert [row[0] for row in outputs] == [str(number) for number in (5, 5, 6, 6, 7, 7, 8, 8)]


def test_celerys_side_ends_every_chain_it_has_started(stand, monkeypatch):
    monkeypatch.setattr(throughput, "WARM_UP", 2)
    assert throughput.plain_per_second(stand, count=3, workers=1) > 0
    assert stand.redis().llen("bench:done") == 3


STUB = """
import dataclasses
import sys
print("ready", flush=True)
for line in sys.stdin:
    count = int(line.split()[1])
    print(100 if sys.argv[2] == "executor-0" else 101, 102 if count < 20 else 200, flush=True)
"""


def test_dboss_side_adds_up_its_processes(stand, monkeypatch, tmp_path):
    """Spoken with a stand-in: DBOS itself is installed by whoever measures."""
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setattr(dbos_side, "PROGRAM", stub)
    found = dbos_side.runs_per_second(stand, Path(sys.executable), count=10, processes=2, threads=1)
    assert found == pytest.approx(10 / 2)


def test_rounds_take_each_side_once_and_begin_with_another(options, monkeypatch):
    told: list[str] = []
    sides = {name: lambda name=name: told.append(name) or len(told) for name in "abc"}
    samples = in_turns(dataclasses.replace(options, rounds=2), sides, unit="")
    assert told == list("abcbca")
    assert samples == {"a": [1, 6], "b": [2, 4], "c": [3, 5]}


def test_a_ratio_is_of_one_round(options):
    samples = {
        "safe": [10.0, 20.0],
        "celery": [20.0, 10.0],
        "dedicated": [30.0, 30.0],
        "dbos": [1.0, 2.0],
        "dbos, threads": [2.0, 1.0],
    }
    found = {figure.name: figure for figure in part_chain.compare(samples, "1 × solo")}
    assert found["safe ÷ celery, 1 × solo"].samples == (0.5, 2.0)
    assert found["safe ÷ celery, 1 × solo"].is_met
    assert found["dedicated ÷ dbos, 1 × solo"].samples == (15.0, 15.0)
