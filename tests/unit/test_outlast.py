"""A broker that refuses for a while ends no worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from celery import Celery
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from orchestrator.engine.troubles import Troubles
from orchestrator.fleet.compat import CONSUMER_LOG, REFUSALS_LOGS
from orchestrator.fleet.outlast import LONGEST_PAUSE_SECONDS, Refusals, outlast

log = logging.getLogger("outlast-tests")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(clock: Clock) -> Refusals:
    return Refusals(Troubles(log, clock=clock), clock=clock)


@pytest.fixture
def outlasting() -> Iterator[tuple[Celery, Refusals]]:
    loggers = [logging.getLogger(name) for name in (CONSUMER_LOG, *REFUSALS_LOGS)]
    before = [list(each.filters) for each in loggers]
    app = Celery("outlasting")
    yield app, outlast(app, Troubles(log))
    for each, filters in zip(loggers, before, strict=True):
        each.filters = filters
    app.close()


def test_a_worker_tries_again_on_a_broker_that_refuses(outlasting):
    app, _ = outlasting
    assert app.conf.broker_channel_error_retry is True


def test_pauses_grow_to_a_bound_and_begin_anew_when_it_is_over(refusals, clock, caplog):
    pauses = []
    for _ in range(8):
        refusals.meet(OutOfMemoryError("OOM"), ends_consumer=True)
        pauses.append(refusals.pause_seconds())
        clock.now += pauses[-1]
        refusals.look()
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    clock.now += 2 * LONGEST_PAUSE_SECONDS + 1
    refusals.look()
    assert caplog.messages[-1].startswith("the broker's refusals: over, after 8 time(s)")
    refusals.meet(OutOfMemoryError("OOM"), ends_consumer=True)
    assert refusals.pause_seconds() == 0.2


def test_a_consumer_that_begins_anew_for_another_reason_does_not_rest(refusals):
    assert refusals.pause_seconds() == 0
    refusals.meet(OutOfMemoryError("OOM"), ends_consumer=False)
    assert refusals.pause_seconds() == 0


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        ResponseError("MISCONF Valkey is configured to save RDB snapshots"),
        ReadOnlyError("You can't write against a read only replica."),
    ],
)
@pytest.mark.parametrize("name", [CONSUMER_LOG, *REFUSALS_LOGS])
def test_a_refusals_traceback_is_one_line_said_once(outlasting, caplog, name, error):
    celery_log = logging.getLogger(name)
    for _ in range(9):
        try:
            raise error
        except ResponseError:
            celery_log.warning("broken", exc_info=True)
        celery_log.error("cleaning up: %r", error)
    assert [record.name for record in caplog.records] == ["outlast-tests"]
    assert caplog.records[0].exc_info is None
    celery_log.warning("another's %s", "line")
    assert caplog.messages[-1] == "another's line"
    assert (outlasting[1].pause_seconds() > 0) is (name == CONSUMER_LOG)
