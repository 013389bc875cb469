"""`step` outside a run is a plain call; inside, it is whoever works that remembers."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID

import pytest

from orchestrator import idempotency_key, step
from orchestrator.core.steps import StageContext, working_on, working_on_step

RUN = UUID(int=1)


def add(left: int, right: int = 0) -> int:
    return left + right


def test_outside_a_run_a_step_just_calls_its_function():
    assert step(add, 1, right=2) == 3
    assert idempotency_key() is None


def test_inside_a_stage_the_runner_decides():
    asked = []

    def runner(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        asked.append((function, args, kwargs))
        return "remembered"

    with working_on(StageContext(RUN, "provision", 2, runner)):
        assert step(add, 1, right=2) == "remembered"
    assert asked == [(add, (1,), {"right": 2})]
    assert step(add, 1) == 1


def test_the_idempotency_key_is_the_same_on_every_attempt_and_a_steps_own_inside_it():
    def key_at(attempt: int) -> str | None:
        with working_on(StageContext(RUN, "provision", attempt, lambda *_: None)):
            return idempotency_key()

    assert key_at(1) == key_at(2) == f"{RUN}/provision"
    with (
        working_on(StageContext(RUN, "provision", 1, lambda *_: None)),
        working_on_step(f"{RUN}/provision/create"),
    ):
        assert idempotency_key() == f"{RUN}/provision/create"


def test_the_stage_is_forgotten_when_it_raises():
    with (
        pytest.raises(ZeroDivisionError),
        working_on(StageContext(RUN, "provision", 1, lambda *_: None)),
    ):
        raise ZeroDivisionError
    assert idempotency_key() is None


def test_threads_do_not_see_each_others_stage():
    seen = []
    with working_on(StageContext(RUN, "provision", 1, lambda *_: None)):
        thread = threading.Thread(target=lambda: seen.append(idempotency_key()))
        thread.start()
        thread.join()
    assert seen == [None]
