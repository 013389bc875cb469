"""Going on in place as Celery sees it: when a worker may, and that each stage is a task of its own."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, signals
from celery._state import _task_stack

from orchestrator import Registry, Settings, install, stage
from orchestrator.fleet.eager import EagerTasks, perform_taken_over

QUEUE = "here"
LIMITS = {"time_limit": 3610.0, "soft_time_limit": 3600.0}


@pytest.fixture
def app() -> Celery:
    registry = Registry()

    @stage(registry=registry)
    def work() -> None: ...

    @stage(registry=registry, timeout_seconds=5)
    def brief() -> None: ...

    app = Celery("in-place", broker="memory://")
    app.conf.task_default_queue = QUEUE
    install(app, registry=registry, settings=Settings())
    app.finalize()
    app.tasks["work"].time_limit = 3610.0
    app.tasks["brief"].time_limit = 15.0
    return app


def opened(name: str = "work", queue: str | None = None) -> Any:
    return SimpleNamespace(request=SimpleNamespace(name=name), queue=queue)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def in_hand(
    app: Celery,
    *,
    seconds: float = 0.1,
    task: str = "work",
    kept: bool = True,
    send_event: Callable[..., None] = lambda *_, **__: None,
    **request: Any,
) -> tuple[EagerTasks, Clock]:
    """What a message of that task allows. `kept`: the pool ends what overruns."""
    clock, of = Clock(), app.tasks[task]
    of.push_request(id="1", called_directly=False, delivery_info={"routing_key": QUEUE}, **request)
    _task_stack.push(of)
    try:
        return (
            EagerTasks(
                app, seconds=seconds, limits_are_kept=kept, send_event=send_event, monotonic=clock
            ),
            clock,
        )
    finally:
        _task_stack.pop()
        of.pop_request()


def test_a_stage_of_the_same_queue_and_limits_is_taken_over_for_a_while(app):
    execution, clock = in_hand(app)
    assert execution.may_take(opened())
    assert execution.may_take(opened(queue=QUEUE))
    clock.now += 0.09
    assert execution.may_take(opened())
    clock.now += 0.02
    assert not execution.may_take(opened())


def test_nothing_is_taken_over_where_it_is_turned_off(app):
    assert not in_hand(app, seconds=0)[0].may_take(opened())


def test_a_stage_of_another_queue_is_not_taken_over(app):
    assert not in_hand(app)[0].may_take(opened(queue="there"))


def test_a_stage_that_this_app_lacks_is_not_taken_over(app):
    assert not in_hand(app)[0].may_take(opened("unknown"))


def test_a_stage_whose_rate_is_limited_is_not_taken_over(app):
    app.tasks["work"].rate_limit = "10/m"
    assert not in_hand(app)[0].may_take(opened())


def test_outside_of_a_task_nothing_is_taken_over(app):
    assert not EagerTasks(app, seconds=1, limits_are_kept=False).may_take(opened())


@pytest.mark.parametrize("task", ["perennial.advance", "brief"])
def test_a_pool_that_keeps_limits_by_the_message_takes_over_what_has_the_same(app, task):
    """A turn has no limit, and would not end the stage; another stage's would end it early."""
    assert not in_hand(app, task=task)[0].may_take(opened())
    assert in_hand(app, task=task, kept=False)[0].may_take(opened())


def test_limits_of_the_message_itself_count(app):
    assert not in_hand(app, timelimit=[20, 10])[0].may_take(opened())


def test_a_brief_timeout_is_not_made_briefer(app):
    """The task in hand has used up to `eager_seconds` of it."""
    assert not in_hand(app, task="brief")[0].may_take(opened("brief"))


def test_a_stage_in_place_is_a_task_of_its_own(app):
    """With an id of its own, its arguments, Celery's signals, and what its message would have said of it."""
    told: list[str] = []
    execution, _ = in_hand(
        app, hostname="w1@here", send_event=lambda event, **_: told.append(event)
    )
    seen: list[Any] = []

    def watch(sender: Any, task_id: str, args: Any, **_: Any) -> None:
        request = sender.request
        seen.append((sender.name, task_id, tuple(args), request.hostname, request.delivery_info))

    run_id = uuid4()
    claim: Any = SimpleNamespace(
        name="work",
        key="work#2",
        attempt=1,
        run=SimpleNamespace(context=SimpleNamespace(id=run_id)),
    )
    signals.task_prerun.connect(watch, weak=False)
    app.tasks["work"].__trace__ = None
    try:
        taken = execution.perform(claim, lambda: claim)
        again = execution.perform(claim, lambda: None)
    finally:
        signals.task_prerun.disconnect(watch)
    assert taken is claim
    assert again is None
    arguments = (str(run_id), "work#2", 1)
    expected = ("work", arguments, "w1@here", {"routing_key": QUEUE})
    assert [(name, *rest) for name, _, *rest in seen] == [expected, expected]
    assert len({task_id for _, task_id, *_ in seen}) == 2
    assert told == ["task-received", "task-started", "task-succeeded"] * 2


def test_a_stage_in_place_that_fails_ends_there(app):
    """Celery tells it as that task's failure; the worker goes on with its queue."""
    told: list[str] = []
    execution, _ = in_hand(app, send_event=lambda event, **_: told.append(event))
    run_id = uuid4()
    claim: Any = SimpleNamespace(
        name="work", key="work", attempt=1, run=SimpleNamespace(context=SimpleNamespace(id=run_id))
    )

    def fails() -> None:
        raise ZeroDivisionError

    failed: list[Any] = []

    def watch(sender: Any, exception: Any, **_: Any) -> None:
        failed.append((sender.name, type(exception)))

    signals.task_failure.connect(watch, weak=False)
    app.tasks["work"].__trace__ = None
    try:
        assert execution.perform(claim, fails) is None
    finally:
        signals.task_failure.disconnect(watch)
    assert failed == [("work", ZeroDivisionError)]
    assert told == ["task-received", "task-started", "task-failed"]
    assert not perform_taken_over(str(run_id), "work", 1)
