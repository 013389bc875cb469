"""The tables of docs/types.md: each row is tried, and a row that is added must be."""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import Base64Bytes, BaseModel, Field, PlainSerializer, PlainValidator, SecretStr
from typing_extensions import TypedDict

from orchestrator.core import codec
from orchestrator.core.codec import PAYLOAD_BYTES_MAX, Undeclared
from orchestrator.errors import PayloadError

PAGE = Path(__file__).parents[2] / "docs" / "types.md"


class Order(BaseModel):
    order_number: int = Field(alias="orderNumber")


@dataclass
class Point:
    x: int
    y: int


class Pair(NamedTuple):
    left: int
    right: str


class Row(TypedDict):
    id: int


class Colour(Enum):
    RED = "red"


class Shade(IntEnum):
    DARK = 1


class Side(StrEnum):
    LEFT = "left"


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    __hash__ = None  # type: ignore[assignment]


Cents = Annotated[
    Money,
    PlainValidator(lambda read: read if isinstance(read, Money) else Money(read)),
    PlainSerializer(lambda money: money.cents),
]


class Hidden(BaseModel):
    note: str = Field(default="", exclude=True)


class Cow(Point):
    """A subclass."""


class Unwritable: ...


COMES_BACK: dict[str, list[tuple[Any, Any]]] = {
    "`bool`, `int`": [(bool, True), (int, 10**4299), (float, 1e16), (str, "a"), (type(None), None)],
    "`list[int]`": [
        (list[int], [1]),
        (tuple[int, str], (1, "a")),
        (set[int], {1, 2}),
        (frozenset[str], frozenset("a")),
        (deque[int], deque([1])),
    ],
    "`dict[str, int]`": [
        (dict[str, int], {"b": 1, "a": 2}),
        (dict[int, str], {1: "a"}),
        (dict[UUID, str], {UUID(int=1): "a"}),
        (dict[Colour, int], {Colour.RED: 1}),
    ],
    "a pydantic model": [(Order, Order(orderNumber=1))],
    "a dataclass": [(Point, Point(1, 2)), (Pair, Pair(1, "a")), (Row, {"id": 1})],
    "a union": [
        (Cat | Dog, Dog(kind="dog")),
        (Cat | None, None),
        (Annotated[Cat | Dog, Field(discriminator="kind")], Cat(kind="cat")),
    ],
    "`Enum`": [
        (Colour, Colour.RED),
        (Shade, Shade.DARK),
        (Side, Side.LEFT),
        (Literal["a", 1], 1),
    ],
    "`Decimal`": [(Decimal, Decimal("1.10"))],
    "`datetime`": [
        (datetime, datetime(2030, 7, 1, tzinfo=ZoneInfo("Europe/Berlin"))),
        (datetime, datetime(2030, 7, 1, tzinfo=UTC)),
        (date, date(2030, 7, 1)),
        (time, time(1, 2)),
        (timedelta, timedelta(days=1, seconds=1)),
    ],
    "`UUID`": [(UUID, UUID(int=1)), (Path, Path("/a")), (re.Pattern[str], re.compile("a"))],
    "`bytes`": [(bytes, b"text"), (Base64Bytes, b"\xff\x00")],
    "`Annotated": [(Cents, Money(5))],
}

REFUSED: dict[str, list[tuple[Any, Any]]] = {
    "`SecretStr": [(SecretStr, SecretStr("x")), (Any, {"a": SecretStr("x")})],
    "a subclass": [(Point, Cow(1, 2))],
    "a field with `exclude=True`": [(Hidden, Hidden(note="x"))],
    "a validator": [
        (Annotated[int, PlainValidator(lambda read: int(read) + 1)], 1),
        (Annotated[int, PlainSerializer(lambda number: f"{number} EUR")], 1),
    ],
    "`None`": [(int, None), (Order, None)],
    "`OrderedDict": [(OrderedDict[str, int], OrderedDict(b=1, a=2))],
    "`{1:": [(Any, {1: "a", "1": "b"})],
    "a generator": [(Any, (each for each in [1])), (Any, {"a": iter([1])})],
    "NaN": [(float, float("nan")), (Any, [float("inf")])],
    "text with a NUL": [(str, "\x00"), (str, "\ud800")],
    "more than 1 MiB": [(str, "x" * PAYLOAD_BYTES_MAX), (int, 10**4300)],
    "a declared class": [(Unwritable, Unwritable())],
    "a step's annotation": [(Undeclared("it can't be read"), UUID(int=1))],
}

ANY = "nothing, or `Any`"


def rows(heading: str) -> list[str]:
    section = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [line.removeprefix("| ") for line in lines[1:]]


@pytest.mark.parametrize("row", rows("What comes back as it is"))
def test_what_the_page_says_comes_back_does(row):
    if row.startswith(ANY):
        kept = codec.keep((1, UUID(int=1)), Any, what="it").value
        assert kept == [1, "00000000-0000-0000-0000-000000000001"]
        return
    (tried,) = [tried for beginning, tried in COMES_BACK.items() if row.startswith(beginning)]
    for declared, value in tried:
        back = codec.decode(
            codec.parse(codec.encode(value, declared, what="it")), declared, what="it"
        )
        assert back == value
        assert type(back) is type(value)


@pytest.mark.parametrize("row", rows("What is refused"))
def test_what_the_page_says_is_refused_is(row):
    (tried,) = [tried for beginning, tried in REFUSED.items() if row.startswith(beginning)]
    for declared, value in tried:
        with pytest.raises(PayloadError):
            codec.encode(value, declared, what="it")


def test_every_trial_has_its_row():
    found = [*rows("What comes back as it is"), *rows("What is refused")]
    for beginning in (*COMES_BACK, *REFUSED):
        assert any(row.startswith(beginning) for row in found), beginning
