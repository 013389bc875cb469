"""Callbacks: a partner gets a token from a stage, and answers by it once, before or after its flow awaits it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from orchestrator import (
    CallbackFailed,
    CallbackRefused,
    CallbackTimedOut,
    CallbackToken,
    Flow,
    HeartbeatTimedOut,
    InvalidArguments,
    PayloadError,
    Registry,
    Retry,
    RunStatus,
    hours,
    minutes,
    process,
    stage,
)
from orchestrator.core.callback_token import hash_of
from orchestrator.engine.fire import fire
from tests.harness import Harness, meanwhile
from tests.modes import EAGER, EVICT, NORMAL, SWEEPS_ONLY, TWICE, modes_of

modes = modes_of(NORMAL, EVICT, TWICE, SWEEPS_ONLY, EAGER, because="a token is handed on in each")
once = modes_of(NORMAL, because="what is sent and kept is looked at")


@dataclass
class Paid:
    amount: int


class Partner:
    """It keeps what it was given."""

    def __init__(self, registry: Registry, failures: int = 0) -> None:
        self.tokens: list[str] = []

        @stage(registry=registry, retry=Retry(max_attempts=3, delay_seconds=60))
        def submit(token: CallbackToken, order: str) -> str:
            self.tokens.append(token.secret)
            if len(self.tokens) <= failures:
                raise ConnectionError
            return f"{order} is taken"

        self.submit = submit

    @property
    def token(self) -> str:
        return self.tokens[-1]


def ordering(registry: Registry, partner: Partner, **how: Any) -> Any:
    @process(version=1, registry=registry)
    async def order(flow: Flow) -> Any:
        promised = flow.callback("payment", type=Paid, **how)
        await flow.stage(partner.submit, promised.token, "a table")
        await flow.sleep(60)
        try:
            paid = await promised
        except (CallbackFailed, CallbackTimedOut, HeartbeatTimedOut) as error:
            return f"{type(error).__name__}: {error}"
        return paid.amount

    return order


def events(harness: Harness, run: Any) -> list[str]:
    return [each.event for each in harness.client.history(run) if "callback" in each.event]


def in_clear(harness: Harness) -> list[str]:
    """Whatever the record holds of tokens."""
    rows = harness.database.rows("SELECT token FROM perennial.callback WHERE token IS NOT NULL")
    return [row.token for row in rows]


@modes
def test_it_is_completed_before_it_is_awaited(harness: Harness):
    harness.freeze()
    partner = Partner(harness.registry)
    run = harness.run(ordering(harness.registry, partner))
    assert harness.client.complete(partner.token, {"amount": 7}, by="bank") == run.run_id
    harness.drain()
    harness.move(seconds=60)
    harness.drain()
    assert harness.client.result(run) == 7
    assert events(harness, run) == ["callback promised", "callback completed"]
    assert in_clear(harness) == []
    harness.assert_ended_cleanly(run)


@modes
def test_it_is_awaited_and_then_failed(harness: Harness):
    harness.freeze()
    partner = Partner(harness.registry)
    run = harness.run(ordering(harness.registry, partner, timeout=hours(9)))
    harness.move(minutes=2)
    harness.drain()
    (wait,) = harness.client.get(run).waits
    assert (wait.kind, wait.name, wait.who) == (
        "callback",
        "payment",
        ("whoever holds its token",),
    )
    assert [each.what for each in wait.next] == ["times out"]
    harness.client.fail_callback(partner.token, "the card was refused", error_type="Refused")
    harness.drain()
    assert harness.client.result(run) == (
        "CallbackFailed: payment failed after 1 attempt(s): Refused: the card was refused"
    )
    assert events(harness, run) == ["callback promised", "callback failed"]
    harness.assert_ended_cleanly(run)


@modes
def test_who_falls_silent_is_given_up_and_who_beats_is_not(harness: Harness):
    """Guards `a timer that was put off does not fire`, with the next test."""
    harness.freeze()
    partner = Partner(harness.registry)
    run = harness.run(ordering(harness.registry, partner, heartbeat=minutes(10), timeout=hours(1)))
    before = harness.client.get(run).revision
    for _ in range(4):
        harness.move(minutes=9)
        assert harness.client.heartbeat(partner.token) == run.run_id
        harness.drain()
    (wait,) = harness.client.get(run).waits
    assert [each.what for each in wait.next] == [
        "is given up, unless a heartbeat comes",
        "times out",
    ]
    assert before < harness.client.get(run).revision
    harness.move(minutes=10)
    harness.drain()
    assert harness.client.result(run) == (
        "HeartbeatTimedOut: no heartbeat of callback 'payment' came in time (activity payment)"
    )
    with pytest.raises(CallbackRefused, match=r"fell silent, at .* a token counts once"):
        harness.client.heartbeat(partner.token)
    harness.assert_ended_cleanly(run)


@once
def test_a_heartbeat_that_comes_as_its_deadline_fires_is_heard(harness: Harness):
    """Guards `a timer that was put off does not fire`: the timer is put off while the one who fires it waits for it."""
    harness.freeze()
    partner = Partner(harness.registry)
    run = harness.run(ordering(harness.registry, partner, heartbeat=minutes(10)))
    harness.move(minutes=10)
    (due,) = [
        row.id
        for row in harness.database.rows(
            "SELECT id FROM perennial.timer WHERE kind = 'callback-heartbeat'"
        )
    ]
    with harness.database.psycopg() as partners:
        partners.execute(f"SET perennial.now = '{harness.now.isoformat()}'")
        harness.client.heartbeat(partner.token, connection=partners)
        firing = meanwhile(harness, lambda _connection: fire(harness.context, due), at=harness.now)
        partners.commit()
        assert firing.outcome() == []
    harness.drain()
    assert harness.status(run) is RunStatus.WAITING


@modes
def test_it_times_out(harness: Harness):
    harness.freeze()
    partner = Partner(harness.registry)
    run = harness.run(ordering(harness.registry, partner, timeout=hours(1)))
    harness.move(hours=1)
    harness.drain()
    assert harness.client.result(run) == (
        "CallbackTimedOut: callback 'payment' was not answered in time (activity payment)"
    )
    with pytest.raises(CallbackRefused, match=r"payment of run .* timed out at"):
        harness.client.complete(partner.token, {"amount": 1})


@modes
def test_each_attempt_hands_on_one_token_which_the_record_forgets(harness: Harness):
    """Guards `each attempt hands on one token`: a partner that was asked twice has one, and the record its hash."""
    harness.freeze()
    partner = Partner(harness.registry, failures=1)
    run = harness.run(ordering(harness.registry, partner))
    assert in_clear(harness) == partner.tokens
    harness.move(seconds=60)
    harness.drain()
    assert len(partner.tokens) == 2
    assert len(set(partner.tokens)) == 1
    assert in_clear(harness) == []
    assert [row.hash for row in harness.database.rows("SELECT hash FROM perennial.callback")] == [
        hash_of(partner.token)
    ]
    tables = ("activity", "history", "outbox", "timer", "callback", "run")
    assert not any(
        partner.token in str(row)
        for table in tables
        for row in harness.database.rows(f"SELECT t::text FROM perennial.{table} t")
    )
    harness.client.complete(partner.token, {"amount": 3})
    harness.move(seconds=60)
    harness.drain()
    assert harness.client.result(run) == 3


@once
def test_what_is_no_token_or_comes_too_late_is_refused_in_a_sentence(harness: Harness):
    """Guards `a token counts once`."""
    harness.freeze()
    partner = Partner(harness.registry)
    order = ordering(harness.registry, partner)
    run = harness.run(order)
    revision = harness.client.get(run).revision
    for wrong in ("", "x" * 300, 7):
        with pytest.raises(CallbackRefused, match="no callback's token"):
            harness.client.complete(wrong, 1)  # type: ignore[arg-type]
    with pytest.raises(CallbackRefused, match="no callback has this token"):
        harness.client.complete("a guess", 1)
    with pytest.raises(PayloadError, match="amount: Input should be an integer"):
        harness.client.complete(partner.token, {"amount": "much"})
    assert harness.client.get(run).revision == revision
    harness.client.complete(partner.token, {"amount": 1})
    for again in (
        lambda: harness.client.complete(partner.token, {"amount": 2}),
        lambda: harness.client.fail_callback(partner.token, "no"),
        lambda: harness.client.heartbeat(partner.token),
    ):
        with pytest.raises(CallbackRefused, match=r"was completed at .*: a token counts once"):
            again()
    other = harness.run(order)
    harness.client.cancel(other)
    with pytest.raises(CallbackRefused, match=f"run {other.run_id} is cancelled; callback payment"):
        harness.client.complete(partner.token, {"amount": 2})


@once
def test_two_partners_that_answer_at_once_have_one_winner(harness: Harness):
    partner = Partner(harness.registry)
    run = harness.run(ordering(harness.registry, partner))
    with harness.database.psycopg() as first:
        harness.client.complete(partner.token, {"amount": 1}, connection=first)

        def late(connection: Any) -> Any:
            harness.client.fail_callback(partner.token, "no", connection=connection)

        second = meanwhile(harness, late)
        first.commit()
        with pytest.raises(CallbackRefused, match="was completed at"):
            second.outcome()
    assert events(harness, run) == ["callback promised", "callback completed"]


@once
def test_a_token_is_of_one_asking(harness: Harness):
    """Guards `a token is of one asking`: a stage that was taken back hands on another, and that one counts."""
    harness.freeze()
    partner = Partner(harness.registry)
    run = harness.run(ordering(harness.registry, partner))
    harness.move(seconds=5)
    harness.client.operations.rewind(run, "submit", by="ann", reason="sent to the wrong bank")
    harness.drain()
    former, new = partner.tokens
    with pytest.raises(CallbackRefused, match="was taken back by an operator"):
        harness.client.complete(former, {"amount": 1})
    harness.client.complete(new, {"amount": 2})
    harness.move(seconds=60)
    harness.drain()
    assert harness.client.result(run) == 2


@modes
def test_call_back_promises_submits_and_waits(harness: Harness):
    partner = Partner(harness.registry)

    @process(version=1, registry=harness.registry)
    async def order(flow: Flow) -> list[Any]:
        return await flow.gather(
            flow.call_back("payment", partner.submit, "a table", type=Paid),
            flow.call_back("delivery", partner.submit, order="a table"),
        )

    run = harness.run(order)
    for amount, token in enumerate(list(partner.tokens)):
        harness.client.complete(token, {"amount": amount})
    harness.drain()
    first, second = harness.client.result(run)
    assert [first["amount"] if isinstance(first, dict) else first.amount, second["amount"]] in (
        [0, 1],
        [1, 0],
    )
    harness.assert_ended_cleanly(run)


@once
def test_a_token_is_not_written_where_nobody_would_read_it(harness: Harness):
    @stage(registry=harness.registry)
    def plain(token: Any) -> None:
        raise AssertionError(token)

    @stage(registry=harness.registry)
    def texts(token: str) -> None:
        raise AssertionError(token)

    @process(version=1, registry=harness.registry)
    async def order(flow: Flow) -> list[str]:
        said = []
        promised = flow.callback("payment")
        for wrong in (plain, texts):
            try:
                await flow.stage(wrong, promised.token)
            except InvalidArguments as error:
                said.append(str(error))
        for refuse in (lambda: promised.token.secret, lambda: flow.callback("x", heartbeat=0)):
            try:
                refuse()
            except Exception as error:  # noqa: BLE001 - what it says is looked at
                said.append(str(error))
        try:
            await flow.call_back("payment", texts, 1)
        except Exception as error:  # noqa: BLE001 - what it says is looked at
            said.append(str(error))
        await flow.sleep(0)
        return said

    said = harness.client.result(harness.run(order))
    assert len(said) == 5
    assert "A flow never has it" in said[2]
    assert "for no time at all" in said[3]
    assert "first parameter is declared CallbackToken" in said[4]


def test_a_stage_is_tested_as_plain_python():
    partner = Partner(Registry())
    assert partner.submit(CallbackToken("abc"), "a chair") == "a chair is taken"
    assert partner.tokens == ["abc"]
    assert "abc" not in repr(CallbackToken("abc"))
