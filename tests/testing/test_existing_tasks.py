"""A Celery task that exists, as a stage: `self` is as under Celery, in a test as on a worker (fleet's tests)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from celery import Celery, Task, current_task
from celery.exceptions import Ignore, MaxRetriesExceededError, Reject
from celery.exceptions import Retry as CeleryRetry

from orchestrator import Fail, Flow, Registry, Retry, process, seconds, stage, step
from orchestrator.core.run import RunStatus
from orchestrator.errors import RunFailed
from orchestrator.testing import ProcessTester

HERE = __file__


class Trouble(Exception):
    """What a task asks to be retried for."""


def fail() -> None:
    raise Trouble("no line")


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError


class App(Celery):
    def task(self, *arguments: Any, **options: Any) -> Any:
        """Of this app alone: Celery gives a shared one to all apps of the process, other tests' too."""
        return super().task(*arguments, shared=False, **options)


@pytest.fixture
def app() -> Iterator[Celery]:
    app = App("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def tester(registry: Registry) -> Iterator[ProcessTester]:
    with ProcessTester(registry=registry) as tester:
        yield tester


def flow_of(registry: Registry, task: Any, *arguments: Any, **options: Any) -> Any:
    made = stage(registry=registry, name="pay", **options)(task)

    @process(version=1, registry=registry)
    async def order(flow: Flow) -> Any:
        return await flow.stage(made, *arguments)

    return order


def test_a_flow_names_a_task_itself_where_it_was_made_a_stage(app, registry, tester):
    """Another of one name, of a task of the same name: which is meant can't be said."""

    @app.task(name="shop.pay", bind=True, autoretry_for=(Trouble,), retry_backoff=10, max_retries=1)
    def pay(self: Task, amount: int) -> str:
        if not self.request.retries:
            fail()
        return f"{amount} at {self.request.retries}"

    stage(registry=registry, name="pay")(pay)

    @process(version=1, registry=registry)
    async def order(flow: Flow) -> str:
        paid: str = await flow.stage(pay, 7, key="first")
        return paid

    run = tester.start(order)
    tester.advance_time(60)
    assert tester.result(run) == "7 at 1"
    assert [entry.key for entry in tester.history(run) if entry.event == "stage done"] == ["first"]
    stage(registry=registry, name="pay-again")(pay)
    error = tester.start(order).error
    assert "task shop.pay is 2 stages: pay, pay-again" in error["message"]


def test_the_request_is_as_a_workers(app, registry, tester):
    @app.task(name="shop.pay", bind=True)
    def pay(self: Task, amount: int) -> dict[str, Any]:
        request = self.request
        assert current_task.name == "shop.pay"
        assert not request.called_directly
        assert request.delivery_info["routing_key"] == "celery"
        return {
            "id": request.id,
            "task": request.task,
            "root": request.root_id,
            "args": request.args,
            "kwargs": request.kwargs,
            "retries": request.retries,
        }

    run = tester.start(flow_of(registry, pay, 7))
    found = tester.result(run)
    assert len(found.pop("id")) == 36
    assert found == {
        "task": "shop.pay",
        "root": str(run.id),
        "args": [],
        "kwargs": {"amount": 7},
        "retries": 0,
    }
    assert pay.request.id is None  # outside of a stage it is the task it was
    with pytest.raises(Trouble):
        pay.retry(exc=Trouble())


def test_one_id_for_all_attempts_and_retries_count_those_before(app, registry, tester):
    seen = []

    @app.task(bind=True)
    def pay(self: Task) -> None:
        seen.append((self.request.id, self.request.retries))
        if len(seen) < 3:
            raise Trouble

    run = tester.start(flow_of(registry, pay, retry=Retry(delay_seconds=1)))
    tester.advance_time(seconds(10))
    assert tester.get(run).status is RunStatus.COMPLETED
    assert [retries for _, retries in seen] == [0, 1, 2]
    assert len({task_id for task_id, _ in seen}) == 1


@pytest.mark.parametrize("how", ["exc", "context", "raise", "throw", "arguments"])
def test_a_retry_is_due_after_its_countdown_in_the_record(app, registry, tester, how):
    attempts = []

    def body(self: Task, url: str) -> str:
        attempts.append(tester.now)
        if len(attempts) > 1:
            return url
        if how == "raise":
            raise CeleryRetry("later", exc=Trouble("no line"), when=300)
        try:
            fail()
        except Trouble as error:
            if how == "context":
                self.retry(countdown=300)
            elif how == "throw":
                raise self.retry(exc=error, countdown=300, throw=False) from None
            elif how == "arguments":
                self.retry(args=[url], kwargs={}, exc=error, countdown=300)
            else:
                self.retry(exc=error, countdown=300)
        raise AssertionError

    run = tester.start(flow_of(registry, app.task(bind=True)(body), "a"))
    (wait,) = tester.get(run).waits
    assert "Trouble: no line" in str(wait)
    assert HERE in str(tester.get(run).failures)
    tester.advance_time(seconds(298))
    assert len(attempts) == 1
    tester.advance_time(seconds(2))
    assert tester.result(run) == "a"


@pytest.mark.parametrize("is_aware", [True, False])
def test_a_retry_is_due_at_its_eta(app, registry, tester, is_aware):
    """By the record's clock, which a test holds; without a time zone it is the app's."""
    attempts = []

    @app.task(bind=True)
    def pay(self: Task) -> None:
        attempts.append(tester.now)
        if len(attempts) == 1:
            eta = tester.now + timedelta(hours=5)
            self.retry(eta=eta if is_aware else eta.replace(tzinfo=None))

    run = tester.start(flow_of(registry, pay))
    tester.advance_time(timedelta(hours=4, minutes=59))
    assert len(attempts) == 1
    tester.advance_time(timedelta(minutes=1))
    assert tester.get(run).status is RunStatus.COMPLETED


def test_a_bare_retry_waits_as_the_task_says_and_names_the_authors_line(app, registry, tester):
    @app.task(bind=True, default_retry_delay=60)
    def pay(self: Task) -> str:
        if self.request.retries == 0:
            self.retry()
        return "paid"

    run = tester.start(flow_of(registry, pay))
    (failed,) = tester.get(run).failures
    assert f"{HERE}:" in str(failed)
    tester.advance_time(seconds(60))
    assert tester.result(run) == "paid"


@pytest.mark.parametrize(
    ("max_retries", "policy", "attempts_made"),
    [
        (2, Retry(max_attempts=10), 3),  # the task's own say
        (9, Retry(max_attempts=2), 2),  # the stage's, where it allows less
        (None, Retry(max_attempts=4), 4),  # for ever, under Celery
    ],
)
@pytest.mark.parametrize("by", ["retry", "autoretry", "call"])
def test_the_lesser_of_max_retries_and_max_attempts_holds(  # noqa: PLR0917 - pytest names them
    app, registry, tester, max_retries, policy, attempts_made, by
):
    made = []
    options: dict[str, Any] = {"max_retries": max_retries}
    if by == "autoretry":
        options |= {"autoretry_for": (Trouble,), "default_retry_delay": 5}
    if by == "call":
        options = {"max_retries": None}

    @app.task(bind=True, **options)
    def pay(self: Task) -> None:
        made.append(self.request.retries)
        error = Trouble("no money")
        if by == "autoretry":
            raise error
        self.retry(exc=error, countdown=5, max_retries=max_retries if by == "call" else None)

    run = tester.start(flow_of(registry, pay, retry=policy))
    tester.advance_time(seconds(1000))
    with pytest.raises(RunFailed, match="Trouble: no money") as failed:
        tester.result(run)
    assert isinstance(failed.value.__cause__, Trouble)
    assert made == list(range(attempts_made))


def test_max_retries_without_an_exception_is_celerys_own_error(app, registry, tester):
    @app.task(bind=True, max_retries=0)
    def pay(self: Task) -> None:
        self.retry()

    with pytest.raises(RunFailed, match="MaxRetriesExceededError: Can't retry") as failed:
        tester.result(tester.start(flow_of(registry, pay)))
    assert isinstance(failed.value.__cause__, MaxRetriesExceededError)


def test_autoretry_backs_off_as_celery_does(app, registry, tester):
    attempts = []

    @app.task(bind=True, autoretry_for=(Exception,), retry_backoff=10, retry_jitter=False)
    def pay(self: Task) -> str:
        attempts.append(tester.now)
        if len(attempts) < 4:
            raise Unpicklable
        return "paid"

    run = tester.start(flow_of(registry, pay))
    tester.advance_time(seconds(100))
    assert tester.result(run) == "paid"
    gaps = [(b - a).total_seconds() for a, b in pairwise(attempts)]
    assert gaps == pytest.approx([10, 20, 40], abs=1)


@pytest.mark.parametrize("error", [Fail("never"), Unpicklable("never")])
def test_what_the_stage_calls_final_is_not_retried_for(app, registry, tester, error):
    made = []

    @app.task(bind=True, autoretry_for=(Exception,))
    def pay(self: Task) -> None:
        made.append(1)
        raise error

    run = tester.start(flow_of(registry, pay, retry=Retry(non_retryable=(Unpicklable,))))
    tester.advance_time(seconds(1000))
    assert tester.get(run).status is RunStatus.FAILED
    assert made == [1]


def test_ignore_is_done_with_none(app, registry, tester):
    @app.task(bind=True)
    def pay(self: Task) -> None:
        raise Ignore

    run = tester.start(flow_of(registry, pay))
    assert tester.result(run) is None


def test_ignore_where_the_task_promises_a_value_fails_in_words(app, registry, tester):
    @app.task(bind=True)
    def pay(self: Task) -> int:
        raise Ignore

    with pytest.raises(RunFailed, match="result of stage pay"):
        tester.result(tester.start(flow_of(registry, pay)))


@pytest.mark.parametrize("requeue", [True, False])
def test_reject_fails_for_good_unless_it_asks_for_another(app, registry, tester, requeue):
    made = []

    @app.task(bind=True)
    def pay(self: Task) -> str:
        made.append(1)
        if len(made) == 1:
            raise Reject(Trouble("poison"), requeue=requeue)
        return "paid"

    run = tester.start(flow_of(registry, pay))
    tester.advance_time(seconds(10))
    if requeue:
        assert tester.result(run) == "paid"
    else:
        with pytest.raises(RunFailed, match="Trouble: poison"):
            tester.result(run)
        assert made == [1]


def test_update_state_goes_to_the_apps_result_backend_under_its_id(app, registry, tester):
    seen = []

    @app.task(bind=True)
    def pay(self: Task) -> None:
        self.update_state(state="PROGRESS", meta={"at": 40})
        seen.append(self.AsyncResult(self.request.id).info)

    tester.start(flow_of(registry, pay))
    assert seen == [{"at": 40}]


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda task: task.retry(args=["b"]), "asks for a retry with other arguments"),
        (lambda task: task.retry(kwargs={"nothing": 1}), "asks for a retry with other arguments"),
        (lambda task: task.retry(queue="slow"), "asks for a retry with other arguments"),
        (lambda task: task.retry(expires=5), "asks for a retry with other arguments"),
        (lambda task: task.retry(throw=False) and None, "asked for a retry, and went on"),
        (lambda task: task.retry(countdown="soon"), "retry of task"),
        (lambda task: task.replace(task.s("b")), "calls self.replace"),
        (lambda task: task.add_to_chord(task.s("b")), "calls self.add_to_chord"),
    ],
)
def test_what_a_stage_cannot_do_is_refused_in_a_sentence(app, registry, tester, ask, says):
    made = []

    @app.task(bind=True)
    def pay(self: Task, url: str) -> None:
        made.append(url)
        ask(self)

    run = tester.start(flow_of(registry, pay, "a"))
    tester.advance_time(seconds(1000))
    with pytest.raises(RunFailed, match=says):
        tester.result(run)
    assert made == ["a"]


def test_a_retry_that_the_body_swallows_is_refused_too(app, registry, tester):
    @app.task(bind=True)
    def pay(self: Task) -> str:
        try:
            self.retry(countdown=1)
        except Exception:  # noqa: BLE001 - as people write it
            return "paid"
        return "never"

    with pytest.raises(RunFailed, match="asked for a retry, and went on"):
        tester.result(tester.start(flow_of(registry, pay)))


def test_steps_are_remembered_across_a_retry(app, registry, tester):
    called = []

    def upload() -> str:
        called.append(1)
        return "receipt"

    @app.task(bind=True)
    def pay(self: Task) -> str:
        receipt = step(upload)
        if self.request.retries == 0:
            self.retry(countdown=5)
        return receipt

    run = tester.start(flow_of(registry, pay))
    tester.advance_time(seconds(5))
    assert tester.result(run) == "receipt"
    assert called == [1]


def test_a_task_of_a_base_class_with_a_call_of_its_own(app, registry, tester):
    class Base(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return ["called", self.run(*args, **kwargs)]

    @app.task(bind=True, base=Base)
    def pay(self: Task, amount: int) -> Any:
        return amount

    assert tester.result(tester.start(flow_of(registry, pay, 3))) == ["called", 3]


def test_a_tasks_own_time_limit_is_its_stages_where_none_is_given(app, registry):
    @app.task(soft_time_limit=20, time_limit=30)
    def pay() -> None: ...

    @app.task(time_limit=30)
    def plain() -> None: ...

    assert stage(registry=registry)(pay).timeout_seconds == 20
    assert stage(registry=registry, name="other", timeout_seconds=5)(pay).timeout_seconds == 5
    assert stage(registry=registry)(plain).timeout_seconds == 30


def test_a_task_that_is_no_stage_yet_is_refused_with_the_line_that_makes_it_one(
    app, registry, tester
):
    @app.task
    def send_mail() -> None: ...

    @process(version=1, registry=registry)
    async def order(flow: Flow) -> None:
        await flow.stage(send_mail)

    run = tester.get(tester.start(order))
    assert run.status is RunStatus.INCIDENT
    remedy = r"every worker knows it: send_mail_stage = stage\(name='send-mail'\)\(send_mail\)"
    assert re.search(remedy, run.error["message"])
