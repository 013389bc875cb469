"""Values of rich types come back exactly as they went in, through each door of a run.

One flow takes a value in its input, hands it to a stage, has it back, and so on: a step, a step of a stage, a signal, a
callback, a poll's state, a map, a recorded scope, a default, the run's own result. What is compared is the value and
its type, to the last digit of a Decimal. And for types that are made up as they come: what is written is read again.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.alias_generators import to_camel

from orchestrator import (
    CallbackToken,
    Flow,
    Registry,
    process,
    stage,
    step,
)
from orchestrator.core import codec
from orchestrator.testing import ProcessTester

T = TypeVar("T")
registry = Registry()
tokens: list[str] = []


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Card(BaseModel):
    kind: Literal["card"] = Field("card", alias="Kind")
    last_digits: str = Field(alias="lastDigits")


class Transfer(BaseModel):
    kind: Literal["transfer"] = Field("transfer", alias="Kind")
    iban: str | None = None


Payment = Annotated[Card | Transfer, Field(discriminator="kind")]


@dataclass(frozen=True)
class Place:
    town: str
    at: tuple[float, float] | None = None


class Page(BaseModel, Generic[T]):
    model_config = ConfigDict(frozen=True)
    items: tuple[T, ...]
    more: bool = False


class Order(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")
    order_number: UUID
    total_amount: Decimal
    placed_at: datetime
    due_on: date | None
    colours: dict[Colour, Level]
    paid_by: Payment
    deliver_to: Place | None
    pages: Page[Page[Decimal]]
    lasts: timedelta
    anything: list[int | str | None]


# -- what they hold ------------------------------------------------------------------------------

ZONES = [UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), timezone(timedelta(hours=5))]
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
decimals = st.decimals(
    allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9
)
moments = st.datetimes(
    datetime(1970, 1, 2),  # noqa: DTZ001 - its zone is drawn
    datetime(2100, 1, 1),  # noqa: DTZ001 - the same
    timezones=st.sampled_from(ZONES),
)
payments = st.one_of(
    st.builds(lambda digits: Card(lastDigits=digits), texts),
    st.builds(lambda iban: Transfer(iban=iban), st.none() | texts),
)
places = st.builds(Place, texts, st.none() | st.tuples(st.floats(-90, 90), st.floats(-180, 180)))
orders = st.fixed_dictionaries(
    {
        "order_number": st.uuids(),
        "total_amount": decimals,
        "placed_at": moments,
        "due_on": st.none() | st.dates(),
        "colours": st.dictionaries(st.sampled_from(Colour), st.sampled_from(Level)),
        "paid_by": payments,
        "deliver_to": st.none() | places,
        "pages": st.lists(st.lists(decimals, max_size=2), max_size=2).map(
            lambda pages: Page[Page[Decimal]](
                items=tuple(Page[Decimal](items=tuple(page)) for page in pages)
            )
        ),
        "lasts": st.timedeltas(timedelta(0), timedelta(days=400)),
        "anything": st.lists(st.one_of(st.none(), st.integers(-(2**53), 2**53), texts), max_size=3),
    }
).map(lambda each: Order(**each))


def exactly(value: Any) -> Any:  # noqa: PLR0911 - one for each kind of value
    """What tells it from any other: types, and digits, too."""
    match value:
        case BaseModel():
            return type(value), [(name, exactly(each)) for name, each in value]
        case list() | tuple():
            return type(value), [exactly(each) for each in value]
        case dict():
            return sorted(str((exactly(key), exactly(each))) for key, each in value.items())
        case datetime():
            return value.astimezone(UTC).replace(fold=0), value.utcoffset()
        case Decimal() | float():
            return type(value), str(value)
        case _ if is_dataclass(value):
            return type(value), [exactly(getattr(value, each.name)) for each in fields(value)]
        case _:
            return type(value), value


# -- the doors -----------------------------------------------------------------------------------


def echo(order: Order) -> Order:
    return order


@stage(registry=registry)
def through_a_stage(order: Order) -> Order:
    return step(echo, order)


@stage(registry=registry)
def many_of_one(page: Page[Order]) -> list[Order]:
    return list(page.items)


@stage(registry=registry)
def look(seen: Order) -> Order:
    return seen


@stage(registry=registry)
def ask_partner(token: CallbackToken, order: Order) -> Order:
    tokens.append(token.secret)
    return order


async def in_a_scope(flow: Flow, order: Order) -> Order:
    return await flow.stage(through_a_stage, order)


@process(version=1, registry=registry)
async def doors(flow: Flow, order: Order) -> Page[Order]:
    came = [order]
    came.append(await flow.stage(through_a_stage, came[-1]))
    came.append(await flow.step(echo, came[-1]))
    came.append(await flow.signal("order", type=Order))
    promised = flow.callback("order", type=Order, key="promised")
    came.append(await flow.stage(ask_partner, promised.token, came[-1]))
    came.append(await promised)
    came += await flow.stage(many_of_one, Page[Order](items=(came[-1],)))
    came.append(await flow.poll(look, state=came[-1], until=lambda _seen: True, every=60))
    came += (await flow.map(through_a_stage, [came[-1]])).raise_if_failed()
    came.append(await flow.scope("part", in_a_scope, flow, came[-1], record=True))
    came.append(await flow.signal("never", type=Order, timeout=0, default=came[-1]))
    return Page[Order](items=tuple(came))


@pytest.fixture(scope="module")
def tester() -> Iterator[ProcessTester]:
    with ProcessTester(registry=registry) as tester:
        yield tester


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],  # a run takes too long to be made smaller
)
@given(order=orders)
def test_a_value_is_the_same_behind_each_door(tester: ProcessTester, order: Order) -> None:
    run = tester.start(doors, order)
    run = tester.signal(run, "order", order)
    run = tester.complete(tokens[-1], order)
    assert run.status.is_closed, run.waits or run.error
    came = tester.result(run)
    assert len(came.items) == 11
    assert {str(exactly(each)) for each in came.items} == {str(exactly(order))}


# -- types that are made up ----------------------------------------------------------------------

Typed = tuple[Any, Any]

LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**70), 2**70)),
    (str, texts),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (Decimal, decimals),
    (datetime, moments),
    (date, st.dates()),
    (timedelta, st.timedeltas(timedelta(0), timedelta(days=10**4))),
    (UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Payment, payments),
    (Place, places),
]


def leaf(place: int) -> st.SearchStrategy[Typed]:
    declared, values = LEAVES[place]
    return values.map(lambda value: (declared, value))


def grown(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """One type around one or two others."""
    return st.one_of(
        inner.map(lambda of: (list[of[0]], [of[1], of[1]])),  # type: ignore[index,misc]
        inner.map(lambda of: (of[0] | None, of[1])),
        inner.map(lambda of: (of[0] | None, None)),
        st.tuples(texts, inner).map(lambda of: (dict[str, of[1][0]], {of[0]: of[1][1]})),  # type: ignore[index,misc]
        st.tuples(inner, inner).map(
            lambda of: (tuple[of[0][0], of[1][0]], (of[0][1], of[1][1]))  # type: ignore[index,misc]
        ),
        inner.map(lambda of: (Page[of[0]], Page[of[0]](items=(of[1],)))),  # type: ignore[index,misc]
        st.tuples(inner, inner).map(model),
    )


def model(of: tuple[Typed, Typed]) -> Typed:
    """A model of two fields, one by an alias."""
    (first, one), (second, other) = of
    made = create_model("Made", plain=(first, ...), named=(second, Field(alias="Its Name")))
    return made, made(**{"plain": one, "Its Name": other})


made_up = st.recursive(st.integers(0, len(LEAVES) - 1).flatmap(leaf), grown, max_leaves=4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(typed=made_up)
def test_what_is_written_of_a_type_that_is_made_up_is_read_again(typed: Typed) -> None:
    declared, value = typed
    kept = codec.keep(value, declared, what="it")
    again = codec.decode(codec.parse(kept.text), declared, what="it")
    assert str(exactly(again)) == str(exactly(value))
    assert codec.encode(again, declared, what="it") == kept.text
