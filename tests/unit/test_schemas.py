"""The JSON Schema of an input: whatever pydantic takes it takes, and what it refuses it says in pydantic's words."""

from __future__ import annotations

import enum
import ipaddress
import json
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NotRequired
from uuid import UUID

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    RootModel,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict

from orchestrator.core.schemas import SCHEMA_BYTES_MAX, input_schema_of
from orchestrator.engine.inputs import Contract
from orchestrator.errors import InvalidInput
from orchestrator.store.transitions.processes import InputOf


def written(declared: Any, value: Any) -> str:
    """As a producer that has nothing of the process would write it."""
    takes = input_schema_of(declared)
    return Contract("trip", InputOf(2, takes.digest, takes.schema)).written(value, None)


class Rank(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Found(enum.Enum):
    ONE = "one"

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls.ONE


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    city: str = Field(alias="cityName")
    home: str = Field("", validation_alias=AliasChoices("house", AliasPath("at", 0)))


class Camel(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=lambda name: f"{name}Of")
    city: str
    days: int = 3


class Reshaped(BaseModel):
    model_config = ConfigDict(extra="forbid")
    city: str

    @model_validator(mode="before")
    @classmethod
    def of_text(cls, value: Any) -> Any:
        return {"city": value} if isinstance(value, str) else value


class Cleaned(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    name: str = Field(max_length=3)
    code: Annotated[str, StringConstraints(to_upper=True, pattern="^[A-Z]+$")] = "A"


class Days(BaseModel):
    days: int

    @field_validator("days", mode="before")
    @classmethod
    def a_few(cls, value: Any) -> Any:
        return 3 if value == "a few" else value


class Point(NamedTuple):
    x: int
    y: int = 0


class Ticket(TypedDict):
    seat: int
    meal: NotRequired[str]


@dataclass
class Parcel:
    weight: Decimal
    tags: set[str] = field(default_factory=set)


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Trip(BaseModel):
    traveller: str
    city: str
    days: int = 3
    leaves_at: datetime | None = None
    stops: list[Tree] = []


TAKEN: list[tuple[Any, Any]] = [
    (int, "3"),
    (int, 3.0),
    (float, "1e3"),
    (bool, "yes"),
    (bool, 1),
    (Decimal, "1e5"),
    (Decimal, 3),
    (datetime, 1_700_000_000),
    (datetime, "2026-01-01T00:00:00Z"),
    (date, "2026-01-01"),
    (time, "10:00"),
    (timedelta, "PT3H"),
    (timedelta, 3.5),
    (UUID, "01a2117e-f0a0-76cb-8452-d7e79e168353"),
    (ipaddress.IPv4Address, "127.0.0.1"),
    (pathlib.Path, "/tmp"),
    (SecretStr, "hush"),
    (bytes, "text"),
    (Json[int], "3"),
    (set[int], [1, 1, 2]),
    (frozenset[int], [1, "1"]),
    (Annotated[set[int], Field(max_length=1)], [1, 1]),
    (tuple[int, str], [1, "a"]),
    (Point, [1, 2]),
    (Ticket, {"seat": "4"}),
    (Parcel, {"weight": "1.50", "tags": ["a", "a"]}),
    (Rank, "2"),
    (Rank, 1),
    (Found, "anything"),
    (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "dog", "name": "Rex"}),
    (Cat | Dog, {"kind": "cat", "lives": "9"}),
    (Aliased, {"cityName": "Oslo"}),
    (Aliased, {"city": "Oslo"}),
    (Aliased, {"cityName": "Oslo", "house": "x"}),
    (Aliased, {"cityName": "Oslo", "at": ["x"]}),
    (Camel, {"cityOf": "Oslo"}),
    (Camel, {"city": "Oslo", "days": 3}),
    (Reshaped, "Oslo"),
    (Cleaned, {"name": "  abc  ", "code": "ABC"}),
    (Annotated[str, StringConstraints(to_lower=True, max_length=3)], "ABC"),
    (Days, {"days": "a few"}),
    (Annotated[list[int], BeforeValidator(lambda value: [value])], 3),
    (RootModel[dict[str, int]], {"a": "1"}),
    (Tree, {"value": 1, "children": [{"value": "2"}]}),
    (int | None, None),
    (Literal[1, "a"], "a"),
    (Trip, {"traveller": "Ada", "city": "Oslo", "extra": 1}),
    (Any, {"any": "thing"}),
    (object, 3),
    (dict, {"a": None}),
]


@pytest.mark.parametrize(("declared", "value"), TAKEN)
def test_what_the_process_takes_is_taken_by_whoever_has_only_its_schema(declared, value):
    TypeAdapter(declared).validate_json(json.dumps(value), by_alias=True, by_name=True)
    assert written(declared, value)


REFUSED: list[tuple[Any, Any, str]] = [
    (Trip, None, "Input should be an object with traveller, city; none was given"),
    (Trip, "hello", "Input should be an object with traveller, city"),
    (Trip, {"traveller": "Ada"}, "city: Field required"),
    (Trip, {"traveller": "Ada", "city": 3}, "city: Input should be a string"),
    (Trip, {"traveller": "A", "city": "B", "days": "x"}, "days: Input should be an integer"),
    (
        Trip,
        {"traveller": "A", "city": "B", "leaves_at": "tomorrow"},
        "leaves_at: Input should be a valid date-time",
    ),
    (
        Trip,
        {"traveller": "A", "city": "B", "stops": [{"value": 1}, {}]},
        "stops.1.value: Field required",
    ),
    (Aliased | int, {"nothing": 1, "cityName": []}, "cityName: Input should be a string"),
    (Camel, {"daysOf": 3}, "cityOf: Field required"),
    (Camel, {"city": 3}, "city: Input should be a string"),
    (int | bool | None, [], "Input should be an integer or a boolean or null"),
    (Annotated[int, Field(gt=3)], 3, "Input should fit exclusiveMinimum 3"),
    (list[int], [1, {}], "1: Input should be an integer"),
    (list[int], {}, "Input should be a list"),
    (Literal["a", "b"], "c", "Input should be one of 'a', 'b'"),
    (Rank, "3", "Input should be one of 1, 2"),
    (Ticket, {"meal": "soup"}, "seat: Field required"),
    (Parcel, {"tags": []}, "weight: Field required"),
]


@pytest.mark.parametrize(("declared", "value", "why"), REFUSED)
def test_what_it_cannot_take_is_refused_with_its_place_and_what_was_expected(declared, value, why):
    with pytest.raises(InvalidInput) as refusal:
        written(declared, value)
    assert str(refusal.value) == f"input of trip version 2: {why}"


def test_extra_fields_are_named_and_values_never_are():
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")
        pin: int

    with pytest.raises(InvalidInput) as refusal:
        written(Strict, {"pin": "hush hush", "other": "secret"})
    assert str(refusal.value).endswith(
        "pin: Input should be an integer; Extra inputs are not permitted: other"
    ) or str(refusal.value).endswith(
        "Extra inputs are not permitted: other; pin: Input should be an integer"
    )
    assert "hush" not in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_default_is_not_written_into_the_schema():
    class Secretive(BaseModel):
        token: str = "hush"

    assert "hush" not in str(input_schema_of(Secretive).schema)


class Unwritable:
    pass


class Large(BaseModel):
    one: Literal[tuple(f"{number:0100}" for number in range(1000))]  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        (Any, "its type isn't declared"),
        (Unwritable, "no JSON Schema can be made of its type"),
        (Large, f"the bound is {SCHEMA_BYTES_MAX}"),
        (Literal["\x00"], "it holds a NUL character"),
        (Literal["\ud800"], "no JSON Schema can be made of its type"),
    ],
)
def test_a_type_without_a_schema_is_unchecked_and_says_why(declared, why):
    found = input_schema_of(declared)
    assert found.schema is None
    assert found.digest is None
    assert why in found.why
    assert written(declared, {"any": "thing"})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.invalid/schema.json"},
        {"type": "string", "pattern": "(?P<"},
        {"$ref": "#/$defs/absent"},
    ],
)
def test_a_schema_that_cannot_be_followed_refuses_nothing_and_fetches_nothing(schema):
    assert Contract("trip", InputOf(2, "d", schema)).written("x", None) == '"x"'


def test_two_annotations_of_one_meaning_have_one_digest():
    assert input_schema_of(Annotated[int, {}]).digest == input_schema_of(int).digest
    assert input_schema_of(int).digest != input_schema_of(str).digest
    assert input_schema_of(Callable[[int], int]).schema == {}
