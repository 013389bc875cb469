"""What is written comes back: proved where it is written, or refused there in a sentence.

docs/types.md has the table of these for people.
"""

from __future__ import annotations

import enum
import math
import re
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    SecretBytes,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from orchestrator.core import codec, jsonb
from orchestrator.errors import InvalidInput, PayloadError

T = TypeVar("T")
BERLIN = ZoneInfo("Europe/Berlin")


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")
    first_name: str
    date_of_birth: datetime | None = None


class Aliased(BaseModel):
    number: int = Field(alias="n")


class TwoAliases(BaseModel):
    amount: int = Field(validation_alias=AliasChoices("amt", "sum"), serialization_alias="betrag")
    first: int = Field(validation_alias=AliasPath("list", 0))


class ByAlias(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    amount: int = Field(validation_alias="amt", serialization_alias="betrag")


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    net: int

    @computed_field  # type: ignore[prop-decorator] # as pydantic documents it
    @property
    def gross(self) -> int:
        return self.net * 2


class Cat(BaseModel):
    kind: Literal["cat"] = Field(alias="Kind")
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = Field(alias="Kind")
    name: str = ""


class Page(BaseModel, Generic[T]):
    items: list[T]


@dataclass
class Point:
    x: float
    tags: frozenset[str] = field(default_factory=frozenset)


@pydantic_dataclass
class Aliases:
    a: int = Field(alias="A")


class Pair(NamedTuple):
    left: int
    right: str


class Row(TypedDict):
    id: Annotated[int, Field(alias="ID")]
    at: datetime


class Colour(enum.Enum):
    RED = "red"


class Shade(enum.IntEnum):
    DARK = 2


class Money:
    """Has no `==` and no JSON form of its own."""

    def __init__(self, cents: int) -> None:
        self.cents = cents


Cents = Annotated[
    Money,
    PlainValidator(lambda read: read if isinstance(read, Money) else Money(read)),
    PlainSerializer(lambda money: money.cents),
]


class Raw(BaseModel):
    body: Json[list[int]]


class Node(BaseModel):
    value: Any
    below: list[Node] = []


COMES_BACK = [
    pytest.param(Camel(firstName="ann"), Camel, id="camelCase"),
    pytest.param(Aliased(n=1), Aliased, id="an alias"),
    pytest.param([Aliased(n=1)], list[Aliased], id="aliases in a list"),
    pytest.param({"a": Camel(firstName="ann")}, dict[str, Camel | None], id="aliases in a union"),
    pytest.param(TwoAliases(amt=1, list=[2]), TwoAliases, id="an alias for each way"),
    pytest.param(ByAlias(amt=1), ByAlias, id="written by alias"),
    pytest.param(Computed(net=1), Computed, id="a computed field, extras forbidden"),
    pytest.param(Cat(Kind="cat"), Annotated[Cat | Dog, Field(discriminator="kind")], id="tagged"),
    pytest.param(Dog(Kind="dog", name="rex"), Cat | Dog, id="a union"),
    pytest.param(Page[Aliased](items=[Aliased(n=1)]), Page[Aliased], id="a generic"),
    pytest.param(Point(1.5, frozenset({"a"})), Point, id="a dataclass"),
    pytest.param(Aliases(A=1), Aliases, id="pydantic's dataclass"),
    pytest.param(Pair(1, "a"), Pair, id="a NamedTuple"),
    pytest.param({"id": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)}, Row, id="a TypedDict"),
    pytest.param(Colour.RED, Colour, id="an enum"),
    pytest.param({Colour.RED: Shade.DARK}, dict[Colour, Shade], id="enums as keys"),
    pytest.param({1: "a", 2: "b"}, dict[int, str], id="integers as keys"),
    pytest.param({UUID(int=1): None}, dict[UUID, None], id="UUIDs as keys"),
    pytest.param(Decimal("1.10"), Decimal, id="a Decimal"),
    pytest.param(b"text", bytes, id="bytes of UTF-8"),
    pytest.param({1, 2}, set[int], id="a set"),
    pytest.param(deque([1]), deque[int], id="a deque"),
    pytest.param((1, "a"), tuple[int, str], id="a tuple"),
    pytest.param(Path("/a"), Path, id="a path"),
    pytest.param(re.compile("a+"), re.Pattern[str], id="a pattern"),
    pytest.param(timedelta(days=1, microseconds=1), timedelta, id="a timedelta"),
    pytest.param(time(1, 2, tzinfo=UTC), time, id="a time"),
    pytest.param(datetime(2030, 7, 1, tzinfo=BERLIN), datetime, id="a zone"),
    pytest.param(
        datetime(2030, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
        datetime,
        id="an hour that is there twice",
    ),
    pytest.param(
        [{"at": datetime(2030, 10, 27, 2, 30, tzinfo=BERLIN)}],
        list[dict[str, datetime]],
        id="and its first",
    ),
    pytest.param(Money(5), Cents, id="an annotated serialiser"),
    pytest.param([Money(5)], list[Cents], id="annotated serialisers"),
    pytest.param(Raw(body="[1]"), Raw, id="JSON in JSON"),
    pytest.param(Node(value={"a": [1]}, below=[Node(value=None)]), Node, id="a recursive model"),
    pytest.param(1e16, float, id="a float that looks like an integer"),
    pytest.param([1, 1e300, "1e16"], list[int | float | str], id="a float among integers"),
    pytest.param(3, float, id="an integer for a float"),
    pytest.param(10**4299, int, id="the longest integer"),
    pytest.param(None, Camel | None, id="nothing"),
]


@pytest.mark.parametrize(("value", "declared"), COMES_BACK)
def test_what_is_written_comes_back_equal(value, declared):
    """As it will be read by every attempt and replay, and `keep` gives that at once."""
    kept = codec.keep(value, declared, what="it")
    back = codec.decode(codec.parse(kept.text), declared, what="it")
    plain = codec.parse(codec.encode(back, declared, what="it"))
    assert plain == codec.parse(codec.encode(kept.value, declared, what="it"))
    assert type(back) is type(kept.value)
    if not isinstance(value, Money | datetime | list):
        assert back == kept.value == value


class Quiet(BaseModel):
    name: str
    password: SecretStr


class Shy(BaseModel):
    name: str = ""
    note: str = Field(default="", exclude=True)


class Lacking(BaseModel):
    note: str = Field(exclude=True)


class Cached(BaseModel):
    name: str
    _found: int = PrivateAttr(0)


def cached() -> Cached:
    model = Cached(name="a")
    model._found = 3
    return model


class Animal(BaseModel):
    name: str


class Cow(Animal):
    milk: int = 1


@dataclass
class Base:
    a: int


@dataclass
class Sub(Base):
    b: int = 2


class Louder(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def louder(cls, text: str) -> str:
        return text + "!"


class OneWay(BaseModel):
    cents: int

    @field_serializer("cents")
    def as_text(self, cents: int) -> str:
        return f"{cents} cents"


class Breaks(BaseModel):
    cents: int

    @field_serializer("cents")
    def breaks(self, cents: int) -> int:
        raise KeyError(cents)


class Stop(BaseException):
    """As pytest's outcomes and trio's cancellations are."""


class BreaksBadly(BaseModel):
    cents: int

    @model_serializer
    def breaks(self) -> int:
        raise Stop


class ReadsBadly(BaseModel):
    cents: int

    @field_validator("cents", mode="wrap")
    @classmethod
    def breaks(cls, cents: Any, handler: Any) -> int:
        if isinstance(cents, int) and cents > 100:
            raise Stop
        return handler(cents)


def generator() -> Iterator[int]:
    yield 1


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


REFUSED = [
    pytest.param(Quiet(name="a", password="x"), Quiet, "password is a secret", id="a secret"),
    pytest.param(
        Quiet(name="a", password="x"), Any, "password is a secret", id="an undeclared one"
    ),
    pytest.param({"a": [SecretBytes(b"x")]}, Any, "a.0 is a secret", id="a secret in plain data"),
    pytest.param(
        {"a": Quiet(name="a", password="x")},
        dict[str, Any],
        "a.password is a secret",
        id="within Any",
    ),
    pytest.param(Shy(note="x"), Shy, "note is read back as another value", id="an excluded field"),
    pytest.param(Lacking(note="x"), Lacking, "note: Field required", id="a required one"),
    pytest.param(cached(), Cached, "_found is read back as another value", id="private state"),
    pytest.param(
        Cow(name="a"), Animal, "it is of type Cow and read back as Animal", id="a subclass"
    ),
    pytest.param([Cow(name="a")], list[Animal], "0 is of type Cow", id="one in a list"),
    pytest.param(
        Sub(1), Base, "it is of type Sub and read back as Base", id="a dataclass' subclass"
    ),
    pytest.param(
        Louder(text="a"), Louder, "text is read back as another", id="a validator that adds"
    ),
    pytest.param(OneWay(cents=1), OneWay, "cents: Input should be a valid integer", id="one way"),
    pytest.param(
        Breaks(cents=1), Breaks, "can't be written as JSON", id="a serialiser that raises"
    ),
    pytest.param(
        BreaksBadly(cents=1), BreaksBadly, "can't be written as JSON", id="and what it raises"
    ),
    pytest.param(
        ReadsBadly.model_construct(cents=101),
        ReadsBadly,
        "not taken back (Stop)",
        id="a validator too",
    ),
    pytest.param(None, Camel, "a NoneType would not come back as Camel", id="None for a model"),
    pytest.param(None, int, "a NoneType would not come back as int", id="None for an integer"),
    pytest.param(["a", None], list[str], "would not come back", id="None among texts"),
    pytest.param(Decimal("NaN"), Decimal, "finite number", id="a Decimal that is none"),
    pytest.param(b"\xff", bytes, "can't be written as JSON", id="bytes that are no text"),
    pytest.param(
        2**60 + 1, float, "of type int and read back as float", id="what a float can't hold"
    ),
    pytest.param(OrderedDict(b=1, a=2), OrderedDict[str, int], "another value", id="an order"),
    pytest.param({1: "a", "1": "b"}, Any, "two keys that JSON writes as '1'", id="two keys"),
    pytest.param(
        {"a": {True: 1, "true": 2}}, Any, "two keys that JSON writes as 'true'", id="deeper"
    ),
    pytest.param({1: "a", "1": "b"}, dict[int | str, str], "two keys", id="declared so"),
    pytest.param([{None: 1, "None": 2}], list[Any], "two keys", id="within a list"),
    pytest.param(10**4300, int, "more than 4300 digits", id="a longer integer"),
    pytest.param({"a": [-(10**5000)]}, Any, "more than 4300 digits", id="undeclared"),
    pytest.param(nested(250), Any, "200 deep", id="nested too deep"),
    pytest.param(nested(2000), Any, "can't be written as JSON", id="and much too deep"),
    pytest.param(generator(), Any, "can be gone through only once", id="a generator"),
    pytest.param(
        {"a": iter([1])}, Any, "a of type list_iterator can be", id="an iterator in a dict"
    ),
    pytest.param(math.inf, float, "NaN or an infinity", id="an infinity"),
    pytest.param(
        UUID(int=1), codec.Undeclared("it can't"), "comes back only as its", id="unreadable"
    ),
]


@pytest.mark.parametrize(("value", "declared", "says"), REFUSED)
def test_what_would_not_come_back_is_refused_where_it_is_written(value, declared, says):
    """In a sentence that says which value, where in it, and never what it is."""
    with pytest.raises(PayloadError, match=re.escape(says)) as refused:
        codec.encode(value, declared, what="result of stage pay")
    assert str(refused.value).startswith("result of stage pay")


@pytest.mark.parametrize("value", [{"a": 1}, ["a", 1.5], "a", None])
def test_plain_data_of_an_unreadable_annotation_are_kept(value):
    assert codec.keep(value, codec.Undeclared("it can't"), what="it").value == value


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (UUID(int=1), str(UUID(int=1))),
        ((1, 2), [1, 2]),
        ({1: "a"}, {"1": "a"}),
        (Aliased(n=1), {"number": 1}),
        ([{2: UUID(int=1)}], [{"2": str(UUID(int=1))}]),
    ],
)
def test_what_is_undeclared_is_seen_as_the_plain_data_that_it_becomes(value, kept):
    """Also where `Any` stands within a declared type."""
    assert codec.keep(value, Any, what="it").value == kept
    assert codec.keep({"in": value}, dict[str, Any], what="it").value == {"in": kept}


def test_a_type_that_has_no_json_form_is_refused_before_anything_is_done():
    with pytest.raises(PayloadError, match="is declared as Money, which can't be written as JSON"):
        codec.check_declared(Money, what="result of stage pay")
    codec.check_declared(Camel, what="it")
    codec.check_declared(Any, what="it")


def test_an_error_of_an_authors_validator_is_the_values_fault_and_not_the_workers():
    """Whatever it raises, at reading as at checking an input; what ends a process goes through."""

    def breaks(read: Any) -> int:
        raise read if isinstance(read, BaseException) else KeyError(read)

    declared = Annotated[int, PlainValidator(breaks)]
    with pytest.raises(PayloadError, match="doesn't fit"):
        codec.decode(1, declared, what="it")
    with pytest.raises(InvalidInput, match="KeyError"):
        codec.check_input(1, declared, what="it")
    with pytest.raises(SystemExit):
        codec.check_input(SystemExit(), declared, what="it")


# -- as Postgres gives it back -------------------------------------------------------------------


def test_keys_come_in_the_order_of_jsonb():
    """The shorter first, then by their bytes: as a replay will see them."""
    assert list(codec.parse('{"bb": 1, "é": 2, "a": 3, "B": {"y": 1, "x": 2}}')) == [
        "B",
        "a",
        "bb",
        "é",
    ]
    assert list(codec.parse('[{"b": 1, "a": 2}]')[0]) == ["a", "b"]


def test_numbers_stay_what_they_are_and_texts_are_left_alone():
    text = jsonb.settled('[1e16,1.5E+3,2e-7,-0.0,-1e300,"1e16","a \\" 1e5"]')
    assert text == f'[10000000000000000.0,1500.0,2e-7,0.0,-{int(1e300)}.0,"1e16","a \\" 1e5"]'


def test_a_reader_shows_what_it_cannot_read_and_reads_the_rest():
    digits = "9" * 5000
    read = jsonb.loads(f'{{"a": {digits}, "b": [1, "{digits}"], "c": {"[" * 3000}{"]" * 3000}}}')
    assert read["b"] == [1, digits]
    assert "5000 digits" in repr(read["a"])
    deep = read["c"]
    while isinstance(deep, list):
        (deep,) = deep
    assert "nested deeper than 200" in repr(deep)
    assert isinstance(jsonb.loads("{"), jsonb.Unreadable)
    with pytest.raises(PayloadError, match="can't be read: an integer"):
        codec.decode(read["a"], Any, what="it")
    with pytest.raises(PayloadError, match="can't be written"):
        codec.encode(read, Any, what="it")
