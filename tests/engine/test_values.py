"""Values between stages, steps and flows: each has one type, one order and one value, on every attempt and replay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from orchestrator import ActivityFailed, Flow, Retry, RunStatus, process, stage, step
from orchestrator.core import jsonb
from tests.modes import EAGER, EVICT, NORMAL, modes_of

if TYPE_CHECKING:
    from fractions import Fraction


class Order(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    order_number: int


def drained(harness, run) -> Any:
    harness.drain()
    return harness.client.result(run)


def test_models_with_aliases_travel_between_stages_steps_signals_and_flows(harness):
    """What is written by names is read by names and by aliases: also what a partner sends in its own form."""

    def number(order: Order) -> Order:
        return Order(orderNumber=order.order_number + 1)

    @stage(registry=harness.registry)
    def place(order: Order) -> Order:
        return step(number, order)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, order: Order) -> Order:
        placed = await flow.stage(place, order)
        again = await flow.step(number, placed)
        paid = await flow.signal("paid", type=Order)
        return Order(orderNumber=again.order_number + paid.order_number)

    run = harness.start(p, {"orderNumber": 1})
    harness.client.signal(run, "paid", {"orderNumber": 40})
    assert drained(harness, run) == Order(orderNumber=43)


def test_a_step_answers_the_same_type_at_first_and_after_a_crash(harness):
    """The first answer is the recorded one, as every later attempt gets it. Guards `return kept.value`."""
    seen: list[Any] = []

    def typed() -> UUID:
        return uuid4()

    def plain() -> Any:
        return {"b": 1e16, "a": (1, 2), 3: Order(orderNumber=1)}

    @stage(registry=harness.registry, retry=Retry(max_attempts=2, delay_seconds=0))
    def ids() -> None:
        seen.append([step(uuid4), step(typed), step(plain), list(step(plain))])
        if len(seen) == 1:
            raise ConnectionError

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> None:
        await flow.stage(ids)

    run = harness.run(p)
    assert harness.status(run) is RunStatus.COMPLETED
    first, second = seen[:2]
    assert first == second
    assert [type(value) for value in first] == [str, UUID, dict, list]
    assert first[2] == {"a": [1, 2], "b": 1e16, "3": {"order_number": 1}}
    assert type(second[2]["b"]) is float
    assert first[3] == ["3", "a", "b"]


@modes_of(NORMAL, EVICT, EAGER, because="they differ in what a flow sees from memory")
@pytest.mark.parametrize("by", ["stage", "step", "signal", "input"])
def test_a_flow_goes_through_a_dict_in_one_order_on_every_replay(harness, by):
    """jsonb keeps no order: what a flow is given first is in the order in which it will be read again."""
    names = {"bb": 1, "a": 2, "ccc": 3, "B": 1e16}

    def found() -> dict[str, Any]:
        return dict(names)

    searched = stage(registry=harness.registry)(found)

    @stage(registry=harness.registry)
    def one(name: str) -> str:
        return name

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, given: dict[str, Any]) -> list[str]:
        match by:
            case "stage":
                given = await flow.stage(searched)
            case "step":
                given = await flow.step(found)
            case "signal":
                given = await flow.signal("names")
        assert type(given["B"]) is float
        return [await flow.stage(one, name) for name in given]

    run = harness.start(p, names)
    harness.client.signal(run, "names", names)
    assert drained(harness, run) == ["B", "a", "bb", "ccc"]


# -- what can't be kept --------------------------------------------------------------------------


def broken(registry: Any, value: Any, called: list[int]) -> dict[str, Any]:
    """Each has an effect, and then a value that can't be kept."""

    def pay() -> Any:
        called.append(1)
        return value

    paid = stage(registry=registry, retry=Retry(delay_seconds=0))(pay)

    @stage(registry=registry, retry=Retry(delay_seconds=0))
    def steps() -> None:
        step(pay)

    @stage(registry=registry)
    def mend(why: str) -> str:
        return why

    async def caught(flow: Flow, pending: Any) -> str:
        try:
            await pending
        except ActivityFailed as failure:
            return await flow.stage(mend, failure.message)
        return "kept"

    @process(version=1, registry=registry)
    async def of_a_stage(flow: Flow) -> str:
        return await caught(flow, flow.stage(paid))

    @process(version=1, registry=registry)
    async def of_a_step_of_a_stage(flow: Flow) -> str:
        return await caught(flow, flow.stage(steps))

    @process(version=1, registry=registry)
    async def of_a_step(flow: Flow) -> str:
        return await caught(flow, flow.step(pay, retry=Retry(delay_seconds=0)))

    return {"stage": of_a_stage, "stage's step": of_a_step_of_a_stage, "step": of_a_step}


def too_deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(240):
        found = [found]
    return found


@modes_of(NORMAL, EAGER, because="no message is of a value's kind")
@pytest.mark.parametrize("where", ["stage", "stage's step", "step"])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        pytest.param(10**5000, "more than 4300 digits", id="an integer of 5,000 digits"),
        pytest.param(too_deep(), "200 deep", id="nested too deep"),
        pytest.param({1: "a", "1": "b"}, "two keys", id="two keys in one"),
        pytest.param({"a": object}, "can't be written as JSON", id="a class"),
    ],
)
def test_a_result_that_cannot_be_kept_is_a_failure_at_once_and_its_effect_is_had_once(
    harness, where, value, says
):
    """The worker does not die of it, no attempt repeats it, and the flow may go on. Guards the proof in `keep`."""
    called: list[int] = []
    run = harness.run(broken(harness.registry, value, called)[where])
    assert says in harness.client.result(run)
    assert len(called) == 1


@modes_of(NORMAL, because="it is about what one worker makes of a refusal")
@pytest.mark.parametrize("where", ["stage", "stage's step", "step"])
def test_what_postgres_alone_refuses_is_a_failure_at_once_too(harness, where):
    """A database of another encoding lacks characters; which ones, no code of ours can know. Guards `refused`."""
    called: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonb, "problem_of", lambda _text: None)
        run = harness.run(broken(harness.registry, "a\x00b", called)[where])
    assert "can't be kept by Postgres" in harness.client.result(run)
    assert len(called) == 1


@modes_of(NORMAL, because="nothing is recorded but failures")
def test_a_declared_result_that_has_no_json_form_is_known_before_its_effect(harness):
    """Guards `check_declared` where stages and steps are called."""
    called: list[int] = []

    class Receipt: ...

    def pay() -> Any:
        called.append(1)

    pay.__annotations__["return"] = Receipt
    paid = stage(registry=harness.registry)(pay)

    @stage(registry=harness.registry)
    def steps() -> None:
        step(pay)

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[str]:
        found = []
        for pending in (flow.stage(paid), flow.stage(steps), flow.step(pay)):
            try:
                await pending
            except ActivityFailed as failure:
                found.append(failure.message.partition(" is declared")[0])
        return found

    run = harness.run(p)
    assert harness.client.result(run) == [
        "result of stage pay",
        "result of step steps/pay",
        "result of step pay",
    ]
    assert not called


def third() -> Fraction:
    from fractions import Fraction

    return Fraction(1, 3)


def half() -> Fraction:
    return 0.5  # type: ignore[return-value] # an annotation is only that


@modes_of(NORMAL, because="a step is called where its flow is")
def test_a_step_whose_annotation_is_for_type_checkers_alone_keeps_plain_data(harness):
    """Else its value would be one type at first, and another after a crash. Guards `Undeclared`."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> tuple[float, str]:
        kept = await flow.step(half)
        try:
            await flow.step(third)
        except ActivityFailed as failure:
            return kept, failure.message
        return kept, ""

    run = harness.run(p)
    kept, why = harness.client.result(run)
    assert kept == 0.5
    assert "name 'Fraction' is not defined. Import the name at run time" in why


# -- what other hands have put into the record ---------------------------------------------------

LONG = "9" * 5000


def put(harness, sql: str, *values: Any) -> None:
    """With psycopg itself: the text goes to Postgres as it is."""
    with harness.database.psycopg(autocommit=True) as connection:
        connection.execute(sql, values)


@modes_of(NORMAL, because="it reads the record, however it came about")
def test_a_reader_never_fails_on_what_the_record_holds(harness):
    """`get`, `list`, `history`, `approvals`: what Python can't read is shown as such. Guards `jsonb.loads`."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow, given: Any) -> None:
        await flow.approval("boss", assign=["ann"])

    run = harness.run(p, 1)
    put(harness, "UPDATE perennial.run SET input = %s::text::jsonb", f'{{"n": {LONG}}}')
    put(
        harness,
        "INSERT INTO perennial.history (run_id, actor, event, detail)"
        " SELECT id, 'ann', 'noted', %s::text::jsonb FROM perennial.run",
        f'{{"n": {LONG}}}',
    )
    assert "5000 digits" in repr(harness.client.get(run).input["n"])
    assert "5000 digits" in repr(harness.client.approvals()[0].input["n"])
    assert "5000 digits" in repr(harness.client.history(run)[-1].detail["n"])
    assert harness.client.list()[0].id == run.run_id


@modes_of(NORMAL, EAGER, because="a turn reads what is recorded, however it came about")
@pytest.mark.parametrize("declared", [int, Any])
def test_a_value_that_cannot_be_read_parks_its_own_run(harness, declared):
    """It is told what it can't read; no message comes for ever, and runs that are read with it go on."""

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        return await flow.signal("number", type=declared, on_unfit="raise")

    bad, good = harness.start(p), harness.start(p)
    harness.drain()
    for run in (bad, good):
        harness.client.signal(run, "number", 1)
    put(
        harness,
        "UPDATE perennial.signal SET payload = %s::text::jsonb WHERE run_id = %s",
        LONG,
        bad.run_id,
    )
    harness.drain()
    assert harness.status(good) is RunStatus.COMPLETED
    view = harness.client.get(bad)
    assert view.status is RunStatus.INCIDENT
    assert "5000 digits" in view.error["message"]


@modes_of(NORMAL, because="a turn reads what is recorded, however it came about")
def test_a_signal_that_cannot_be_read_is_set_aside(harness):
    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> Any:
        return await flow.signal("number")

    run = harness.run(p)
    harness.client.signal(run, "number", 1)
    put(harness, "UPDATE perennial.signal SET payload = %s::text::jsonb", LONG)
    harness.drain()
    assert "5000 digits" in harness.client.get(run).waits[0].detail
    harness.client.signal(run, "number", 2)
    harness.drain()
    assert harness.client.result(run) == 2
