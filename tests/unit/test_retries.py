"""Retry is pure policy: how often, how far apart, and what is not tried again."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import Fail, Retry, RetryLater, minutes, retry_after, seconds
from orchestrator.core.retries import Verdict, tried_since, with_verdict
from orchestrator.errors import DefinitionError, PayloadError

chances = st.floats(0, 1, exclude_max=True)
policies = st.builds(
    Retry,
    max_attempts=st.integers(1, 10_000),
    delay_seconds=st.floats(0, 1e6),
    backoff=st.floats(1, 100),
    max_delay_seconds=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    give_up_after=st.none() | st.floats(0.001, 1e6),
)


@pytest.mark.parametrize(
    ("attempt", "chance", "delay"),
    [
        (1, 0.5, 10),
        (2, 0.5, 30),
        (3, 0.5, 90),
        (4, 0.5, 100),
        (1, 0.0, 8),
        (1, 0.75, 11),
        (9999, 0.5, 100),
    ],
)
def test_delays_grow_by_the_backoff_up_to_the_longest_and_are_spread_by_the_jitter(
    attempt, chance, delay
):
    retry = Retry(delay_seconds=10, backoff=3, max_delay_seconds=100, jitter=0.2)
    assert retry.delay_before_next(attempt, random=chance) == pytest.approx(delay)


@given(retry=policies, attempt=st.integers(1, 10_000), chance=chances)
def test_no_delay_is_negative_or_longer_than_the_longest_with_its_jitter(retry, attempt, chance):
    delay = retry.delay_before_next(attempt, random=chance)
    assert 0 <= delay <= retry.max_delay_seconds * (1 + retry.jitter)


@given(retry=policies, attempt=st.integers(1, 10_000))
def test_without_jitter_no_delay_is_shorter_than_the_one_before(retry, attempt):
    before = retry.delay_before_next(attempt, random=0.5)
    assert retry.delay_before_next(attempt + 1, random=0.5) >= before


@given(retry=policies)
def test_what_travels_in_the_record_is_the_same_policy(retry):
    assert Retry.from_policy(retry.as_policy()) == retry


def test_a_policy_of_a_newer_release_is_read_as_far_as_it_is_known():
    assert Retry.from_policy({"max_attempts": 3, "of_tomorrow": True}) == Retry(max_attempts=3)


class Refused(Exception): ...


@pytest.mark.parametrize(
    ("error", "attempt", "allows"),
    [
        (ValueError(), 1, True),
        (ValueError(), 2, True),
        (ValueError(), 3, False),
        (None, 2, True),
        (None, 3, False),
        (Fail("no"), 1, False),
        (PayloadError("no"), 1, False),
        (Refused(), 1, False),
        (type("Subclass", (Refused,), {})(), 1, False),
    ],
)
def test_an_attempt_follows_unless_they_are_used_up_or_the_error_is_final(error, attempt, allows):
    retry = Retry(max_attempts=3, non_retryable=(Refused,))
    assert retry.allows_another(attempt, error) is allows


def test_one_attempt_is_no_retry():
    assert not Retry(max_attempts=1).allows_another(1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"delay_seconds": -1},
        {"max_delay_seconds": -1},
        {"backoff": 0.5},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"delay_seconds": float("nan")},
        {"backoff": float("inf")},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(DefinitionError):
        Retry(**wrong)


def test_a_retry_without_delay_never_waits():
    """Zero stays zero, also where the backoff's power is too large for a float."""
    assert Retry(delay_seconds=0, max_attempts=5000).delay_before_next(2000, random=0.5) == 0


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def judged(retry: Retry, error: BaseException, *, attempt: int = 1, tried: float = 0.0):
    return retry.judge(
        attempt, error, random=0.5, now=NOON, tried_since=NOON - timedelta(seconds=tried)
    )


@pytest.mark.parametrize(
    ("retry_on", "error", "delay"),
    [
        (ConnectionError, ConnectionResetError(), 1),
        ((ConnectionError, TimeoutError), TimeoutError(), 1),
        (ConnectionError, ValueError(), None),
        (lambda error: "busy" in str(error), ValueError("busy"), 1),
        (lambda error: "busy" in str(error), ValueError("wrong"), None),
        (ConnectionError, RetryLater(after=7), 7),
        (lambda _error: True, Fail("no"), None),
    ],
)
def test_which_errors_are_tried_again_says_a_class_or_a_function(retry_on, error, delay):
    """What an error that asks for it says of itself counts for more; what is final stays so."""
    assert judged(Retry(retry_on=retry_on), error).delay_seconds == delay


def test_a_function_that_raises_loses_no_attempt():
    def broken(error: BaseException) -> bool:
        raise KeyError("status")

    verdict = judged(Retry(retry_on=broken), ValueError())
    assert (verdict.delay_seconds, verdict.why) == (1, "Retry(retry_on) raised KeyError: 'status'")
    assert judged(Retry(retry_on=broken), ValueError(), attempt=5).delay_seconds is None


@pytest.mark.parametrize(
    ("after", "delay"),
    [
        (minutes(5), 300),
        (2.5, 2.5),
        (NOON + minutes(3), 180),
        (NOON - minutes(3), 0),
        (-1, 0),
        (None, 1),
    ],
)
def test_an_error_brings_its_delay_along(after, delay):
    retry = Retry(max_delay_seconds=60, jitter=1)
    assert judged(retry, RetryLater(after=after)).delay_seconds == delay
    assert judged(retry, RetryLater(after=after), attempt=5).delay_seconds is None


def test_an_error_of_the_authors_may_be_one_that_brings_its_delay_along():
    class Busy(RetryLater):
        def __init__(self) -> None:  # it does not call super().__init__
            self.code = 429

    assert judged(Retry(), Busy()).delay_seconds == 1
    busy = RetryLater("the bank is busy", after=5)
    assert str(busy) == "the bank is busy"
    assert pickle.loads(pickle.dumps(busy)).after == 5


@pytest.mark.parametrize(
    ("tried", "error", "delay"),
    [
        (0, ValueError(), 60),
        (40, ValueError(), 60),
        (40.5, ValueError(), None),
        (0, RetryLater(after=100), 100),
        (0, RetryLater(after=101), None),
        (0, RetryLater(after=NOON + timedelta(seconds=101)), None),
    ],
)
def test_no_attempt_begins_later_than_the_total_duration_after_the_first(tried, error, delay):
    verdict = judged(Retry(delay_seconds=60, give_up_after=seconds(100)), error, tried=tried)
    assert verdict.delay_seconds == delay
    if delay is None:
        assert verdict.why == "another attempt would come later than Retry(give_up_after), 100 s"


@pytest.mark.parametrize(
    ("header", "after"),
    [
        ("120", timedelta(seconds=120)),
        (" 0 ", timedelta(0)),
        ("Sun, 01 Mar 2026 12:05:00 GMT", datetime(2026, 3, 1, 12, 5, tzinfo=UTC)),
        ("Sun, 01 Mar 2026 12:05:00 -0000", datetime(2026, 3, 1, 12, 5, tzinfo=UTC)),
        ("Sunday, 01-Mar-26 12:05:00 GMT", datetime(2026, 3, 1, 12, 5, tzinfo=UTC)),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("١٢", None),
        ("9" * 90, timedelta(days=365 * 100)),
        ("9" * 101, None),
        ("Sun, 99 Mar 2026 12:05:00 GMT", None),
        (None, None),
    ],
)
def test_the_value_of_a_retry_after_header_is_a_delay_or_a_moment(header, after):
    assert retry_after(header) == after
    RetryLater(after=retry_after(header))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"give_up_after": 0}, "more than nothing"),
        ({"give_up_after": -5}, "more than nothing"),
        ({"give_up_after": float("nan")}, "more than nothing"),
        ({"give_up_after": "1h"}, "Give a timedelta"),
        ({"retry_on": "ConnectionError"}, "classes of exceptions"),
        ({"retry_on": (ConnectionError, "Timeout")}, "classes of exceptions"),
        ({"retry_on": int}, "classes of exceptions"),
        ({"non_retryable": (5,)}, "classes of exceptions"),
        ({"max_attempts": "3"}, "max_attempts.* is a number"),
        ({"backoff": None}, "backoff.* is a number"),
    ],
)
def test_what_a_policy_is_given_wrongly_is_refused_in_words(wrong, words):
    with pytest.raises(DefinitionError, match=words):
        Retry(**wrong)


def test_an_async_function_that_judges_errors_is_refused():
    async def judge(error: BaseException) -> bool:
        return True

    with pytest.raises(DefinitionError, match="which nobody awaits"):
        Retry(retry_on=judge)


@pytest.mark.parametrize("wrong", ["soon", datetime(2026, 3, 1), float("inf"), 1e12])  # noqa: DTZ001
def test_a_delay_that_is_none_is_refused(wrong):
    with pytest.raises(DefinitionError):
        RetryLater(after=wrong)


def test_since_when_an_activity_is_tried_travels_in_its_error():
    retry, later = Retry(give_up_after=100), NOON + minutes(1)
    error = with_verdict({"type": "X"}, retry, Verdict(5), NOON)
    assert tried_since(error, later) == NOON
    assert tried_since(None, later) == later
    assert tried_since({"tried_since": "yesterday"}, later) == later
    assert with_verdict({"type": "X"}, Retry(), Verdict(5), NOON) == {"type": "X"}
