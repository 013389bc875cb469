"""Handoffs on the wire, without a worker."""

from __future__ import annotations

from uuid import uuid4

from celery import Celery

from orchestrator import Registry, Settings, install, stage
from orchestrator.fleet.publisher import Publisher
from orchestrator.fleet.services import limit_stages
from orchestrator.store.outbox import Handoff


def test_a_queue_that_this_app_does_not_know_keeps_no_other_handoff_back() -> None:
    """With `task_create_missing_queues` off, another app's queue is served all the same."""
    app = Celery("publisher-tests", broker="memory://")
    app.conf.update(task_create_missing_queues=False, task_default_queue="here")
    publisher = Publisher(app, None)
    handoffs = [
        Handoff(uuid4(), "work", 1, "work", queue) for queue in (None, "of-another-app", None)
    ]
    publisher.hand_off(handoffs)
    with app.connection_for_read() as connection, connection.channel() as channel:
        sizes = {queue: channel._size(queue) for queue in ("here", "of-another-app")}
    assert sizes == {"here": 2, "of-another-app": 1}


def test_celery_ends_a_stage_a_grace_after_its_soft_limit() -> None:
    """The grace is a setting; settings are read when a worker starts, not when its app is imported."""
    registry = Registry()

    @stage(registry=registry, timeout_seconds=60)
    def work() -> None: ...

    app = Celery("limits-tests", broker="memory://")
    settings = Settings(timeout_grace_seconds=3)
    member = install(app, registry=registry, settings=settings)
    limit_stages(member)
    assert (app.tasks["work"].soft_time_limit, app.tasks["work"].time_limit) == (60, 63)
