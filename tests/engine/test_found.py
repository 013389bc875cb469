"""Found while attacking the engine: each test states what must hold, and failed when it was written.

Worst first. Each docstring names the place and proposes the mending.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from sqlalchemy import text

from orchestrator import Flow, Retry, RunStatus, hours, process, stage, step
from orchestrator.engine.fire import fire
from orchestrator.engine.recover import sweep
from orchestrator.engine.stage import run_stage
from orchestrator.engine.turn import advance
from orchestrator.store import turns
from tests.harness import Thread, wait_until_blocked


class WorkerKilled(BaseException):
    """A worker that is told to go, or dies, at this point."""


# -- turns with inline steps ---------------------------------------------------------------------


def test_a_turn_held_by_a_worker_that_has_not_beaten_yet_is_not_free(harness):
    """store/turns.py TURN_IS_FREE: NOT EXISTS(worker row) reads "no row yet" as dead, and a worker's row
    appears with its first beat, up to two seconds after its first claim: two workers run one step at once.
    Mend: free when `turn_claimed_at <= now - dead_after AND NOT EXISTS (worker that beat since then)`."""
    called = []

    def charge() -> int:
        called.append(len(called))
        if len(called) == 1:
            advance(harness.worker("worker-2"), run.run_id)  # while worker-1 is inside the step
        return len(called)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        return await flow.step(charge)

    run = harness.start(p)
    advance(harness.context, run.run_id)
    assert called == [0]


def test_a_step_that_was_recorded_is_not_called_again_by_a_turn_that_read_before_it(harness):
    """store/activities.py _REMEMBER_FLOW_STEP records without raising the revision, so a stage that was
    claimed before it commits, and calls, on a journal that lacks the step. (engine/turn.py _hold)
    Mend: the step's statement raises the run's revision, and the turn goes on with the raised one."""
    called = []

    @stage(registry=harness.registry)
    def slow() -> int:
        with contextlib.suppress(WorkerKilled):
            advance(
                harness.context, run.run_id
            )  # worker-1 takes the signal's turn, and is killed in it
        return 1

    def charge() -> int:
        called.append("charge")
        return 1

    def dies_once() -> int:
        called.append("dies once")
        if called.count("dies once") == 1:
            raise WorkerKilled
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        beside = flow.stage(slow)
        await flow.signal("go")
        await flow.step(charge)
        await flow.step(dies_once)
        return await beside

    harness.freeze()
    run = harness.start(p)
    advance(harness.context, run.run_id)
    harness.client.signal(run, "go")
    run_stage(harness.worker("worker-2"), run.run_id, "slow", 1)
    harness.recover()
    assert harness.status(run) is RunStatus.COMPLETED
    assert called.count("charge") == 1


def test_a_step_is_not_recorded_on_a_result_that_is_not(harness):
    """engine/turn.py: the turn that settles a stage calls the flow's steps before the stage's result is
    committed; killed in between, the stage is done again and the remembered step belongs to the other result.
    Mend: before the first inline step of a turn, record what the turn stands on (settlement, consumed
    signals), reload, and go on."""
    numbers = iter(range(100))
    called = []

    @stage(registry=harness.registry)
    def draw() -> int:
        return next(numbers)

    def double(number: int) -> int:
        return 2 * number

    def dies_once() -> None:
        called.append("dies once")
        if len(called) == 1:
            raise WorkerKilled

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[int]:
        number = await flow.stage(draw)
        twice = await flow.step(double, number)
        await flow.step(dies_once)
        return [number, twice]

    harness.freeze()
    run = harness.start(p)
    with pytest.raises(WorkerKilled):
        harness.drain()
    harness.recover()
    number, twice = harness.client.result(run)
    assert twice == 2 * number


def test_a_stage_that_ended_in_time_is_not_timed_out_by_the_steps_that_follow_it(harness):
    """The same place: until the turn's commit the stage stays claimed, so recovery counts the flow's inline
    steps into its timeout and hands it out again. Mend: as above."""
    attempts = []

    @stage(registry=harness.registry, timeout_seconds=60)
    def quick() -> int:
        attempts.append("quick")
        return 1

    def slow_step() -> int:
        harness.beat(harness.context)
        harness.database.rows(
            "UPDATE perennial.activity SET claimed_at = claimed_at - interval '5 minutes'"
        )
        sweep(harness.worker("worker-2"))
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        await flow.stage(quick)
        return await flow.step(slow_step)

    run = harness.run(p)
    harness.drain()
    assert attempts == ["quick"]
    assert "attempt handed out again" not in harness.events(run)


# -- waits that never end ------------------------------------------------------------------------


def test_a_signal_for_one_wait_does_not_take_the_timeout_of_another(harness):
    """store/firing.py _SIGNAL_TIMEOUT + engine/fire.py: an unconsumed signal of the name cancels the timer of
    every wait of that name, though it answers only one: the other waits for ever.
    Mend: fire with a signal there -> leave the timer armed (due again in a few seconds) and ask for a turn."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[Any]:
        async def wait() -> Any:
            try:
                return await flow.signal("go", timeout=hours(1))
            except TimeoutError:
                return "timed out"

        return await flow.gather(wait(), wait())

    harness.freeze()
    run = harness.run(p)
    harness.move(hours=1)
    harness.client.signal(run, "go", "here")
    for timer_id in harness.due_timers():
        fire(harness.context, timer_id)
    harness.drain()
    for _ in range(5):
        harness.move(minutes=10)
        harness.drain()
    assert harness.status(run) is RunStatus.COMPLETED


def test_a_signal_awaited_twice_answers_twice(harness):
    """core/replay.py _answer_from_signals: the second await of one handle takes the next signal, or waits
    with nothing open: the run waits for nothing, for ever.
    Mend: answer from `self.consumed[request.key]` if it is there."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[Any]:
        go = flow.signal("go")
        return [await go, await go]

    run = harness.start(p)
    harness.client.signal(run, "go", 1)
    harness.drain()
    assert harness.client.result(run) == [1, 1]


# -- poison: a turn that can't be committed, for ever --------------------------------------------


def assert_parks(harness, run) -> None:
    for _ in range(3):
        harness.drain()
        harness.database.rows("UPDATE perennial.outbox SET publish_at = perennial.now()")
    harness.drain()
    view = harness.client.get(run)
    assert view.status is RunStatus.INCIDENT, view.status
    assert view.error is not None


def test_a_contradiction_met_with_a_finally_that_awaits_is_an_incident(harness):
    """core/replay.py: after a contradiction `is_over` is set, so the `finally` that asks for a stage raises
    _TurnOver in its place, which `take` does not catch: the turn crashes at every delivery.
    Mend: keep the contradiction on the turn, and let `take` end with it whatever comes out of the flow."""

    @stage(registry=harness.registry)
    def a() -> None: ...

    @stage(registry=harness.registry)
    def b() -> None: ...

    order = [a]

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        try:
            await flow.stage(order[0])
        finally:
            await flow.stage(a, key="clean-up")

    run = harness.start(p)
    advance(harness.context, run.run_id)
    order[0] = b
    harness.client.signal(run, "wake up")
    assert_parks(harness, run)


def test_a_bare_except_does_not_swallow_a_contradiction(harness):
    """core/replay.py: a flow that catches BaseException around an await completes over its contradiction where the
    key stayed the same (another kind). Mend: as above; `take` looks for a kept contradiction before the answer."""

    @stage(registry=harness.registry)
    def a() -> None: ...

    is_changed = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        try:
            await (flow.signal("a") if is_changed else flow.stage(a))
        except BaseException:  # noqa: BLE001
            return "swallowed"
        return "done"

    run = harness.start(p)
    advance(harness.context, run.run_id)
    is_changed.append(True)
    harness.client.signal(run, "wake up")
    assert_parks(harness, run)


@pytest.mark.parametrize("text_of_error", ["NUL \x00", "a file name that is no UTF-8: \udce9"])
def test_an_error_message_that_jsonb_cannot_keep_still_parks_the_run(harness, text_of_error):
    """core/replay.py _incident, engine/turn.py error_of: the message goes to jsonb as it is; Postgres refuses
    \\u0000 and lone surrogates, so the incident is never written and the turn is delivered for ever.
    Mend: one `readable()` for every message: replace NUL, encode with errors="backslashreplace", bound length."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        raise ValueError(text_of_error)

    assert_parks(harness, harness.start(p))


def test_a_stage_error_that_jsonb_cannot_keep_fails_the_stage(harness):
    """engine/turn.py error_of: the retry or failure can't be written, so the attempt looks like a dead worker's.
    Mend: as above."""

    @stage(registry=harness.registry, retry=Retry(max_attempts=1))
    def broken() -> None:
        raise ValueError("NUL \x00")

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(broken)

    run = harness.run(p)
    assert harness.status(run) is RunStatus.FAILED


@pytest.mark.parametrize(
    "asks",
    [
        pytest.param(lambda flow, _: flow.sleep(math.inf), id="sleep(inf)"),
        pytest.param(lambda flow, _: flow.sleep(math.nan), id="sleep(nan)"),
        pytest.param(lambda flow, _: flow.sleep(1e15), id="sleep(30 million years)"),
        pytest.param(lambda flow, a: flow.stage(a, key="k" * 5000), id="a key of 5000 characters"),
        pytest.param(lambda flow, a: flow.stage(a, key="nul\x00"), id="a key with NUL"),
        pytest.param(lambda flow, _: flow.signal("nul\x00"), id="a signal name with NUL"),
        pytest.param(
            lambda flow, _: flow.approval("m", assign=["nul\x00"]), id="an assignee with NUL"
        ),
    ],
)
def test_what_postgres_cannot_take_parks_the_run_and_does_not_loop(harness, asks):
    """core/flow.py takes them, the commit fails in Postgres, and the turn is delivered again for ever (§7: a
    poison message parks its run). Mend: check at the request (finite, at most some years; keys and names of
    at most 200 characters without control characters), and let a DataError at the commit park the run."""

    @stage(registry=harness.registry)
    def a() -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await asks(flow, a)

    assert_parks(harness, harness.start(p))


def test_a_retry_without_an_upper_bound_is_refused_or_works(harness):
    """core/retries.py: `max_delay_seconds=math.inf` is a natural way to say "no cap"; its policy becomes
    `Infinity` in JSON, which Postgres refuses at every commit. Mend: refuse what is not finite in __post_init__."""
    try:
        retry = Retry(max_delay_seconds=math.inf)
    except Exception:  # noqa: BLE001 - refused early is as good
        return

    @stage(registry=harness.registry, retry=retry)
    def a() -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(a)

    run = harness.run(p)
    assert harness.status(run) is RunStatus.COMPLETED


def test_a_step_that_kills_its_worker_parks_the_run_at_last(harness):
    """engine/turn.py: nothing counts the turns that die with their worker, so a step that is killed for its
    memory is called for ever (every 5 minutes in the end). Mend: `outbox.publishes` of an advance over a bound
    (say 20), with no commit since, parks the run; or record the step's attempt before calling it."""
    called = []

    def out_of_memory() -> None:
        called.append(1)
        raise WorkerKilled

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.step(out_of_memory, retry=Retry(max_attempts=3))

    run = harness.start(p)
    for _ in range(60):
        with contextlib.suppress(WorkerKilled):
            harness.drain()
        harness.database.rows("UPDATE perennial.outbox SET publish_at = perennial.now()")
        harness.database.rows(
            "UPDATE perennial.run SET turn_claimed_at = turn_claimed_at - interval '1 hour'"
        )
    assert harness.status(run) is not RunStatus.RUNNING
    assert len(called) < 60


def test_a_runaway_flow_that_catches_everything_is_parked(harness):
    """core/replay.py request(): the 10,001st request raises a DefinitionError, which a retry loop with
    `except Exception` swallows: the turn never ends. Mend: raise it as a BaseException, like a contradiction."""
    from orchestrator.core import replay

    spins = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        while True:
            try:
                flow.sleep(1)
            except Exception:  # noqa: BLE001
                spins.append(1)
                if len(spins) > 10:
                    return  # so that this test ends; the author's loop would not

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "REQUESTS_PER_TURN_MAX", 20)
        assert_parks(harness, harness.start(p))


# -- letting go ----------------------------------------------------------------------------------


def test_a_finally_that_fails_while_its_flow_is_let_go_is_not_an_incident(harness):
    """core/replay.py _let_go: close() runs `finally` blocks, and what they raise (here: a name not bound yet)
    becomes the turn's outcome: a run that only waits is parked. Mend: suppress every Exception there (and
    TurnAbandoned)."""

    @stage(registry=harness.registry)
    def grant() -> str:
        return "grant"

    @stage(registry=harness.registry)
    def revoke(what: str) -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> str:
        granted = None
        try:
            granted = await flow.stage(grant)
            return granted
        finally:
            flow.stage(revoke, granted.upper())

    run = harness.run(p)
    assert harness.status(run) is RunStatus.COMPLETED


# -- keys ----------------------------------------------------------------------------------------


def test_a_named_key_cannot_take_the_place_of_a_numbered_one(harness):
    """core/replay.py _free_key: `a#2` given by name, then `a` twice: the second `a` becomes `a#2` unchecked,
    one of the two requests is lost. Mend: refuse `#` and `/` in keys that authors give."""

    @stage(registry=harness.registry)
    def a(number: int) -> int:
        return number

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[int]:
        return await flow.gather(flow.stage(a, 1, key="a#2"), flow.stage(a, 2), flow.stage(a, 3))

    run = harness.run(p)
    view = harness.client.get(run)
    assert (view.error or {}).get("type") == "DefinitionError" or view.output == [1, 2, 3]


def test_a_key_cannot_take_the_place_of_a_stages_step(harness):
    """core/replay.py: an author's key `work/charge` and step `charge` of stage `work` are one row; the step can't
    be recorded, and every attempt calls it again. Mend: refuse `/` in keys that authors give."""
    charged = []

    def charge() -> int:
        charged.append(1)
        return 1

    @stage(registry=harness.registry, retry=Retry(delay_seconds=0))
    def work() -> int:
        return step(charge)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        flow.sleep(3600, key="work/charge")
        return await flow.stage(work)

    run = harness.run(p)
    assert harness.status(run) in (RunStatus.COMPLETED, RunStatus.INCIDENT)
    assert len(charged) <= 1


# -- payloads ------------------------------------------------------------------------------------


def test_a_step_result_without_a_json_form_does_not_repeat_the_step(harness):
    """core/codec.py encode: a declared class that pydantic knows nothing of raises PydanticSchemaGenerationError,
    a RuntimeError that is not caught: not a PayloadError, so the stage is retried and its effect repeated.
    Mend: catch PydanticUserError in encode/decode/check_input as PayloadError."""
    charged = []

    class Receipt: ...

    def charge() -> Receipt:
        charged.append(1)
        return Receipt()

    charge.__annotations__["return"] = Receipt

    @stage(registry=harness.registry, retry=Retry(max_attempts=5, delay_seconds=0))
    def pay() -> None:
        step(charge)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(pay)

    run = harness.run(p)
    assert len(charged) == 1
    assert harness.client.get(run).error["type"] == "ActivityFailed"


def test_a_signal_that_does_not_fit_can_be_caught_by_its_flow(harness):
    """core/replay.py _answer: what decoding raises leaves the driver instead of being thrown into the flow (in a
    gather's branch it is the gather's), so one malformed signal parks the run, and again at each resume.
    Mend: turn PayloadError into `_Answer(error=...)`; uncaught it is an incident as before."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        while True:
            try:
                return await flow.signal("amount", type=int)
            except Exception:  # noqa: BLE001
                continue

    run = harness.start(p)
    harness.client.signal(run, "amount", "a lot")
    harness.client.signal(run, "amount", 7)
    harness.drain()
    assert harness.client.result(run) == 7


# -- people --------------------------------------------------------------------------------------


def test_a_decision_by_a_name_that_several_open_approvals_have_is_refused(harness):
    """store/approvals.py _CHOSEN: of two open approvals of one name, the last opened is decided, whoever was
    meant; deciding again decides the other. Mend: refuse a name that several open approvals have, say the keys
    (engine/deliver.py does so when no name is given)."""
    from orchestrator.errors import DecisionRefused

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        async def review(person: str) -> None:
            await flow.approval("review", assign=[person])

        await flow.gather({"first": review("bob"), "second": review("bob")}, key="reviews")

    run = harness.run(p)
    with pytest.raises(DecisionRefused):
        harness.client.approve(run, "review", by="bob")


def test_a_person_is_not_refused_because_another_approval_has_the_same_name(harness):
    """The same place: bob is asked for one `review` and carol for the other; `review` picks the wrong one."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        async def review(person: str) -> None:
            await flow.approval("review", assign=[person])

        await flow.gather({"first": review("bob"), "second": review("carol")}, key="reviews")

    run = harness.run(p)
    harness.client.approve(run, "review", by="carol")
    harness.client.approve(run, "review", by="bob")
    harness.drain()
    assert harness.status(run) is RunStatus.COMPLETED


def test_a_business_key_that_looks_like_an_id_finds_its_run(harness):
    """client.py _id_of: any string that parses as a UUID is taken for a run's id, and UUIDs are common business
    keys. Mend: when no run has the id, look for the key."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.signal("go")

    key = "3f2f4dc2-55c7-4d0e-9d5b-1d9f4b0f7a01"
    run = harness.run(p, key=key)
    assert harness.client.get(key).id == run.run_id


# -- starts --------------------------------------------------------------------------------------


def test_a_second_start_in_an_open_transaction_does_not_hold_up_the_run(harness):
    """store/runs.py _START: ON CONFLICT DO UPDATE locks the run's row FOR UPDATE (business_key is in a unique
    index) until the caller commits: no turn, and not even a step (its foreign key) gets through meanwhile.
    Mend: ON CONFLICT DO NOTHING, and read the run that is there (a second statement only if it is too new)."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.signal("go")

    run = harness.start(p, key="REQ-1")
    with harness.database.psycopg() as producer:
        assert harness.client.start(p, key="REQ-1", connection=producer).run_id == run.run_id
        with harness.context.connection() as connection:
            connection.execute(text("SET lock_timeout = '300ms'"))
            loaded = turns.load_run(connection, run.run_id)
            from orchestrator.engine.turn import take_turns

            assert take_turns(harness.context, connection, loaded)


def test_two_batches_of_starts_in_opposite_order_do_not_deadlock(harness):
    """store/runs.py _START inserts in the callers' order: two callers with the same keys in opposite order wait
    for each other, and Postgres kills one. Mend: INSERT … SELECT … ORDER BY business_key."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.signal("go")

    harness.client.deploy(p)
    keys = ["k1", "k2", "k3"]
    # A third caller stands on the middle, so that each of the two has its first and wants the other's.
    with harness.database.psycopg() as standing:
        harness.client.start(p, key="k2", connection=standing)
        forward = Thread(lambda: harness.client.start_many(p, [None] * 3, keys=keys))
        wait_until_blocked(harness.database, 1)
        backward = Thread(lambda: harness.client.start_many(p, [None] * 3, keys=keys[::-1]))
        wait_until_blocked(harness.database, 2)
        standing.rollback()
    ids = [{started.run_id for started in thread.outcome()} for thread in (forward, backward)]
    assert ids[0] == ids[1]


# -- how a run is shown --------------------------------------------------------------------------


def test_a_run_with_a_step_that_nobody_awaits_yet_waits_for_people(harness):
    """core/replay.py _blocked: a step that was asked for and not awaited counts as work at hand: the run is
    shown as running, with `step` as its stage. Mend: leave out StepCalls that have no journal entry."""

    def total() -> int:
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        later = flow.step(total)
        await flow.approval("manager", assign=["bob"])
        return await later

    harness.run(p)
    (listed,) = harness.client.list()
    assert (listed.status, listed.stage, listed.waiting_for) == (
        RunStatus.WAITING,
        "manager",
        "approval manager",
    )


def test_a_broken_flow_is_explained_with_its_own_line(harness):
    """core/replay.py _explain: the innermost frame is named, which is in asyncio or a library; its docstring
    promises the flow's line. Mend: the last frame whose file is the flow's."""
    import asyncio

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await asyncio.sleep(1)

    run = harness.run(p)
    assert "test_found.py" in harness.client.get(run).error["message"]


def test_a_turn_that_another_worker_holds_is_left_after_one_look(harness):
    """engine/turn.py take_turns: a commit refused because the turn is held is taken for a conflict: 20 replays
    and 40 statements before it leaves. Mend: if the reloaded revision is the same, nobody brought a fact: leave."""
    looks = []
    load_run = turns.load_run

    def counted(*args: Any) -> Any:
        looks.append(1)
        return load_run(*args)

    def long_step() -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(turns, "load_run", counted)
            advance(harness.worker("worker-2", registry=other), run.run_id)
        return 1

    from orchestrator import Registry

    other = Registry()

    async def flow_body(flow: Flow) -> int:
        if stepless:
            await flow.signal("go")
        return await flow.step(long_step)

    stepless = False

    @process(version=1, registry=harness.registry, name="p")
    async def p(flow: Flow) -> int:
        return await flow_body(flow)

    @process(version=1, registry=other, name="p")
    async def p_elsewhere(flow: Flow) -> int:
        await flow.signal("go")
        return 1

    harness.beat(harness.context)
    run = harness.start(p)
    advance(harness.context, run.run_id)
    assert len(looks) <= 2


def test_the_bound_of_a_payload_is_in_bytes():
    """core/codec.py encode: `len(text)` counts characters, the message says bytes. Mend: measure the bytes that
    dump_json gave, before decoding them."""
    from orchestrator.core import codec
    from orchestrator.errors import PayloadError

    with pytest.raises(PayloadError):
        codec.encode("é" * 600_000, what="input")


def test_a_text_that_only_speaks_of_nul_is_kept():
    r"""core/codec.py encode: the six characters \u0000 in a text (a log line, say) are taken for a NUL. Mend: look
    for an odd number of backslashes before u0000."""
    from orchestrator.core import codec

    assert codec.parse(codec.encode("\\u0000", what="input")) == "\\u0000"


def test_a_number_that_json_lacks_is_refused_where_it_is_made():
    """core/codec.py encode: NaN and infinity become null without a word, and break whoever reads them as a float.
    Mend: TypeAdapter with ConfigDict(ser_json_inf_nan="constants") and refuse, or check after."""
    from orchestrator.core import codec
    from orchestrator.errors import PayloadError

    with pytest.raises(PayloadError):
        codec.encode(math.nan, float, what="result of stage x")


def test_a_retry_without_delay_never_waits():
    """core/retries.py delay_before_next: 0 * 2**1024 overflows to the longest delay. Mend: 0 stays 0."""
    assert Retry(delay_seconds=0, max_attempts=5000).delay_before_next(2000, chance=0.5) == 0


# -- second round --------------------------------------------------------------------------------


def test_an_overdue_signal_that_nobody_awaits_yet_does_not_poll(harness):
    """engine/fire.py TOO_SOON_TO_SAY: a handle asked for and not awaited consumes nothing, so its due timer finds
    the signal each time, raises the revision and asks for a turn, every five seconds for weeks (a paused run
    likewise). Mend: core/replay.py _blocked gives buffered signals to open waits of their name in the order they
    were asked for, awaited or not; and a timer of a run that isn't moving is postponed until it is resumed."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        stop = flow.signal("stop", timeout=hours(1))
        await flow.approval("manager", assign=["bob"])
        return await stop

    harness.freeze()
    run = harness.run(p)
    harness.client.signal(run, "stop", "please")
    harness.move(hours=1)
    harness.drain()
    before = harness.client.get(run).revision
    for _ in range(10):
        harness.move(minutes=1)
        harness.drain()
    assert harness.client.get(run).revision - before <= 2
    harness.client.approve(run, by="bob")
    harness.move(minutes=1)
    harness.drain()
    assert harness.client.result(run) == "please"


def test_a_paused_run_with_an_overdue_signal_is_left_in_peace(harness):
    """The same place, for a run at rest."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        return await flow.signal("stop", timeout=hours(1))

    harness.freeze()
    run = harness.run(p)
    harness.client.pause(run)
    harness.client.signal(run, "stop", "please")
    harness.move(hours=1)
    harness.drain()
    before = harness.client.get(run).revision
    for _ in range(10):
        harness.move(minutes=1)
        harness.drain()
    assert harness.client.get(run).revision - before <= 2
    harness.client.resume(run)
    harness.drain()
    assert harness.client.result(run) == "please"


def test_one_threads_failure_does_not_take_the_others_claims():
    """engine/liveness.py _abandon: with a thread pool, one database error silences the identity of every claim of the
    process, and all of them are done again. Mend: after a failure new claims get a new identity, and the old
    one falls silent when its last healthy holder is done."""
    from orchestrator.engine.liveness import Identity

    identity = Identity("threads")
    with identity.holding() as healthy:
        with contextlib.suppress(ZeroDivisionError), identity.holding():
            raise ZeroDivisionError
        assert healthy in identity.held_ids()
        with identity.holding() as later:
            assert later != healthy
    assert identity.held_ids() == []


def test_a_stages_result_is_kept_when_its_worker_cannot_read_the_process(harness):
    """engine/turn.py take_turns: Definitions.find raises DefinitionError where this worker's stages don't fit the
    deployed spec; it is not caught, so the finished stage counts as lost and is done again, at every attempt.
    Mend: treat it like UnknownProcess: leave the run for another worker, and record the settlement."""
    from orchestrator import Registry
    from orchestrator.core.declarative import load_process

    done = []

    def registry_with(second: Any) -> Registry:
        registry = Registry()

        @stage(registry=registry, name="first", retry=Retry(delay_seconds=0))
        def first(value: int) -> int:
            done.append(value)
            return value

        stage(registry=registry, name="second")(second)
        return registry

    good = registry_with(lambda first: first)
    deployed = load_process("process:\n  name: p\n  stages: [first, second]\n", registry=good)
    old = registry_with(lambda first, of_another, release: None)
    harness.client.deploy(deployed)
    run = harness.client.start("p", 1)
    advance(harness.worker("good", registry=good), run.run_id)
    old_worker = harness.worker("old", registry=old)
    with contextlib.suppress(Exception):
        run_stage(old_worker, run.run_id, "first", 1)
    state = harness.database.value("SELECT state FROM perennial.activity WHERE key = 'first'")
    assert state == "done"


@pytest.mark.parametrize(
    "says",
    [
        pytest.param(lambda client, run: client.signal(run, "nul\x00"), id="a signal's name"),
        pytest.param(
            lambda client, run: client.signal(run, "go", signal_id="nul\x00"), id="a signal's id"
        ),
        pytest.param(
            lambda client, run: client.signal(run, "go", by="nul\x00"), id="a signal's sender"
        ),
        pytest.param(lambda client, run: client.approve(run, "m", by="nul\x00"), id="a decider"),
        pytest.param(
            lambda client, run: client.approve(run, "nul\x00", by="bob"), id="an approval's name"
        ),
        pytest.param(lambda client, run: client.cancel(run, by="nul\x00"), id="an operator"),
        pytest.param(lambda client, run: client.cancel(run, reason="nul\x00"), id="a reason"),
        pytest.param(lambda client, run: client.start("p", by="nul\x00"), id="a producer"),
        pytest.param(
            lambda client, run: client.start("p", attributes={"a": object()}), id="attributes"
        ),
        pytest.param(
            lambda client, run: client.start("p", attributes={"a": math.nan}),
            id="attributes with NaN",
        ),
        pytest.param(
            lambda client, run: client.start("p", expires_in=hours(10**10)),
            id="an expiry in a million years",
        ),
        pytest.param(lambda client, run: client.get("nul\x00"), id="a business key"),
    ],
)
def test_what_a_caller_says_wrongly_is_refused_in_our_words(harness, says):
    """client.py and engine/: these reach Postgres (or json) as they are, and come back as SQLAlchemy's errors.
    Mend: core/checks.py at the door of each verb, or make it readable where only people read it."""
    from orchestrator.errors import PerennialError

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.approval("m", assign=["bob"])

    run = harness.run(p)
    with contextlib.suppress(PerennialError):
        says(harness.client, run)


def test_a_turn_that_went_on_and_lost_its_step_does_not_speak_of_a_lost_attempt(harness, caplog):
    """engine/turn.py settle_and_advance: after GOES_ON the settlement is recorded; when the turn then can't be held,
    take_turns answers False, the settlement is recorded in vain, and the log warns of an outcome that was not
    dropped. Mend: answer True once the settlement is committed."""

    @stage(registry=harness.registry)
    def a() -> int:
        return 1

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> int:
        await flow.stage(a)
        return await flow.step(int, 1)

    run = harness.start(p)
    advance(harness.context, run.run_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "hold_turn", lambda *_args, **_kwargs: None)
        run_stage(harness.context, run.run_id, "a", 1)
    assert "dropped" not in caplog.text
    harness.freeze()
    harness.recover(2)
    assert harness.client.result(run) == 1


# -- third round ---------------------------------------------------------------------------------


def test_a_flow_that_kills_its_worker_without_a_step_parks_the_run_at_last(harness):
    """engine/turn.py counts lost turns where a step holds them; a flow whose own code never ends (a hard time limit)
    or eats its worker is delivered for ever. Mend: an advance that was sent more than a bound (say 10) of times
    without a commit takes its turn under the hold, so that its losses count too."""
    called = []

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        called.append(1)
        raise WorkerKilled  # stands for a hard time limit

    run = harness.start(p)
    for _ in range(40):
        with contextlib.suppress(WorkerKilled):
            harness.drain()
        harness.database.rows("UPDATE perennial.outbox SET publish_at = perennial.now()")
        harness.database.rows(
            "UPDATE perennial.run SET turn_claimed_at = turn_claimed_at - interval '1 hour'"
        )
    assert harness.status(run) is RunStatus.INCIDENT


def test_a_foreign_awaitable_in_a_gather_is_told_at_once(harness):
    """core/replay.py _answer_gather: a bug in one branch (here: a foreign awaitable) is told when the slowest
    sibling is done: after a month, perhaps. Mend: only ActivityFailed, SignalTimedOut and Fail wait for the
    siblings; any other exception of a branch is raised at once."""

    class Foreign:
        def __await__(self) -> Any:
            yield "something"

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.gather(flow.sleep(30 * 86_400), Foreign())

    assert harness.status(harness.run(p)) is RunStatus.INCIDENT


def test_a_paused_runs_handoffs_are_not_sent_again_and_again(harness):
    """store/outbox.py _DUE: what waits for a paused or parked run is sent every five minutes, and refused each time:
    a thousand parked runs are three messages a second for nothing. Mend: leave them out of what is due (resume
    makes them due), or give them no publish_at while the run rests."""

    @stage(registry=harness.registry)
    def a() -> None: ...

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(a)

    harness.freeze()
    run = harness.start(p)
    advance(harness.context, run.run_id)
    harness.client.pause(run)
    sent = 0
    for _ in range(12):
        harness.move(minutes=10)
        sent += len(harness.pending())
    assert sent <= 3
    harness.client.resume(run)
    harness.drain()
    assert harness.status(run) is RunStatus.COMPLETED
