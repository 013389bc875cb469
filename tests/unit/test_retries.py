"""Retry is pure policy: how often, how far apart, and what is not tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import Fail, Retry
from orchestrator.errors import DefinitionError, PayloadError

chances = st.floats(0, 1, exclude_max=True)
policies = st.builds(
    Retry,
    max_attempts=st.integers(1, 10_000),
    delay_seconds=st.floats(0, 1e6),
    backoff=st.floats(1, 100),
    max_delay_seconds=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
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
