"""Settings that have changed their names are read by their former ones too."""

from __future__ import annotations

from orchestrator.settings import Settings


def test_a_fleet_that_sets_a_settings_former_name_keeps_what_it_has_set(monkeypatch):
    monkeypatch.setenv("PERENNIAL_IN_PLACE_SECONDS", "0")
    assert Settings().eager_seconds == 0
    monkeypatch.setenv("PERENNIAL_EAGER_SECONDS", "0.5")
    assert Settings().eager_seconds == 0.5
    assert Settings(eager_seconds=1).eager_seconds == 1
