"""The parts about waiting measure what they say, at their smallest. No test here looks at a time."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.bench import part_parked, part_retained, part_timers


@pytest.mark.slow
def test_parked_runs_are_looked_after_by_a_real_fleet_and_weighed(options, monkeypatch):
    monkeypatch.setattr(part_parked, "WORKERS", 1)
    monkeypatch.setattr(part_parked, "QUICK_WINDOW_SECONDS", 0.1)
    monkeypatch.setattr(part_parked, "SETTLE_SECONDS", 0.0)
    found = {figure.name: figure for figure in part_parked.measure(options)}
    for what, _unit in part_parked.WHAT.values():
        assert len(found[f"{what}, none parked"].samples) == 2  # before and after
        assert len(found[f"{what}, 4 parked"].samples) == 1
    assert found["bytes per parked run, of 4"].median > 0
    assert found["bytes per parked run, as the engine has left it"].median > 0


@pytest.mark.slow
def test_timers_are_counted_on_the_queue_and_in_the_record(options, monkeypatch):
    """The parts themselves assert that each is there once."""
    monkeypatch.setattr(part_timers, "WORKERS", 1)
    monkeypatch.setattr(part_timers, "AHEAD_SECONDS", 0.5)  # more than a sweep
    monkeypatch.setattr(part_timers, "ENVIRONMENT", {"PERENNIAL_SWEEP_SECONDS": "0.1"})
    monkeypatch.setattr(part_timers, "WARM_UP", 1)
    monkeypatch.setattr(part_timers, "QUICK_PUNCTUAL", 3)
    monkeypatch.setattr(part_timers, "QUICK_INSTANT", 60)
    found = part_timers.measure(options)
    assert [figure.name for figure in found if figure.at_most is not None] == [
        "late, p99, 4 armed",
        "60 in one instant on the queue, 4 armed",
        "60 in one instant fired and handed off, 4 armed",
    ]


def test_what_is_retained_is_compared_place_by_place(options, monkeypatch):
    monkeypatch.setattr(part_retained, "CHURN_SHARE", 2)
    monkeypatch.setattr(part_retained, "RUNS_A_TURN", 1)
    monkeypatch.setattr(part_retained, "TURNS_A_ROUND", 2)
    monkeypatch.setattr(part_retained, "WARM_UP", 1)
    found = part_retained.measure(dataclasses.replace(options, runs=20))
    assert len(found) == 12
    assert [figure.name for figure in found if figure.at_most == part_retained.AT_MOST] == [
        f"{what}, 20 ÷ 2 retained, {state}"
        for state in ("after VACUUM", "after churn")
        for what in ("claim", "commit", "claim, work and commit")
    ]
