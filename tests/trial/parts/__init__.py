"""The parts of the trial, in the order in which a team meets them."""

from __future__ import annotations

from collections.abc import Callable

from tests.trial.ground import Ground
from tests.trial.parts.celery_settings import celery_settings
from tests.trial.parts.django import django
from tests.trial.parts.existing import existing
from tests.trial.parts.pgbouncer import pgbouncer
from tests.trial.parts.tutorial import tutorial
from tests.trial.parts.two_apps import two_apps

PARTS: dict[str, Callable[[Ground], str]] = {
    "tutorial": tutorial,
    "existing": existing,
    "django": django,
    "two-apps": two_apps,
    "pgbouncer": pgbouncer,
    "celery": celery_settings,
}
"""Each answers what it has seen, or raises Failed or NotRun."""
