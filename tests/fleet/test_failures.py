"""A task of ours that fails leaves nothing behind in its worker, however often it fails."""

from __future__ import annotations

import gc
import importlib
import weakref
from typing import Any

import pytest
from celery import Celery, Task
from celery.app import trace

from orchestrator import Registry, Settings, install
from orchestrator.store.parts import ADVANCE


class Trouble(Exception):
    """One that can be watched."""


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Trouble]]:
    """Each turn fails; who still holds its failure keeps it alive."""
    seen: list[weakref.ref[Trouble]] = []

    def advance(*_: Any) -> None:
        trouble = Trouble()
        seen.append(weakref.ref(trouble))
        try:
            int("nothing")
        except ValueError as cause:
            raise trouble from cause

    monkeypatch.setattr(
        importlib.import_module("orchestrator.fleet.eager"), "advance_batch", advance
    )
    return seen


def take_a_turn(app: Celery) -> None:
    """As a process of a pool runs its tasks."""
    nowhere = Settings(database_url="postgresql+psycopg://localhost:1/nowhere")
    install(app, registry=Registry(), settings=nowhere)
    app.finalize()
    arguments = ("01900000-0000-7000-8000-000000000000",)
    request = {"id": "1", "delivery_info": {}, "args": arguments, "kwargs": {}}
    trace.build_tracer(ADVANCE, app.tasks[ADVANCE], app=app)("1", arguments, {}, request)


def test_a_failure_is_let_go_without_a_collection_of_garbage(failures, monkeypatch):
    monkeypatch.setattr(trace.logger, "disabled", True)  # pytest keeps all that is logged
    gc.collect()
    gc.disable()
    try:
        take_a_turn(Celery("failures", broker="memory://"))
        assert [failure() for failure in failures] == [None]
    finally:
        gc.enable()


def test_what_the_apps_own_tasks_do_at_their_end_is_done_at_ours(failures):
    ended = []

    class OfTheApp(Task):
        def after_return(self, status: str, outcome: object, *_: Any) -> None:
            ended.append((self.name, status, type(outcome)))

    take_a_turn(Celery("failures", broker="memory://", task_cls=OfTheApp))
    assert ended == [(ADVANCE, "FAILURE", Trouble)]
    assert len(failures) == 1
