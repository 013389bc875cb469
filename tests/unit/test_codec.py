"""Values into the record and out again, by the type their author declared."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from orchestrator.core import codec, jsonb
from orchestrator.errors import InvalidInput, PayloadError


class Level(enum.Enum):
    LOW = "low"


class Model(BaseModel):
    name: str
    at: datetime | None = None


@dataclass
class Grant:
    role: str
    levels: list[Level]


keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=5)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | keys
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(keys, children, max_size=3),
    max_leaves=8,
)


def through(value: Any, declared: Any = Any) -> Any:
    return codec.decode(codec.parse(codec.encode(value, declared, what="it")), declared, what="it")


@given(plain)
def test_plain_data_comes_back_as_it_went(value):
    assert through(value) == value


@pytest.mark.parametrize(
    ("value", "declared"),
    [
        (Model(name="ann", at=datetime(2030, 1, 1)), Model),  # noqa: DTZ001
        ([Model(name="ann")], list[Model]),
        (Grant("admin", [Level.LOW]), Grant),
        ({"a": Grant("admin", [])}, dict[str, Grant]),
        (Decimal("0.10"), Decimal),
        (date(2030, 1, 1), date),
        (timedelta(hours=1), timedelta),
        (UUID(int=1), UUID),
        ({1, 2}, set[int]),
        ((1, "a"), tuple[int, str]),
        (None, Model | None),
        (3, float),
        ("on", Literal["on", "off"]),
        (None, type(None)),
    ],
)
def test_declared_types_come_back_as_themselves(value, declared):
    back = through(value, declared)
    assert back == value
    assert type(back) is (float if declared is float else type(value))


def test_an_undeclared_model_is_written_as_plain_data():
    assert through(Model(name="ann")) == {"name": "ann", "at": None}


class Unknown: ...


@pytest.mark.parametrize(
    ("value", "declared", "says"),
    [
        (Unknown(), Any, "a Unknown can't be written as JSON"),
        ("seven", int, "a str can't be written as JSON"),
        (Unknown(), Unknown, "Unknown"),
        ("\ud800", str, "can't be written as JSON"),
        (b"\xff", bytes, "can't be written as JSON"),
        ("a\x00b", str, "NUL"),
        ({"a\x00b": 1}, Any, "NUL"),
        ("x" * (codec.PAYLOAD_BYTES_MAX + 1), str, "the bound is 1048576"),
        (math.inf, float, "result of stage x"),
    ],
)
def test_what_the_record_cannot_keep_is_refused_with_its_name(value, declared, says):
    with pytest.raises(PayloadError) as refused:
        codec.encode(value, declared, what="result of stage x")
    assert "result of stage x" in str(refused.value)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("value", "declared"),
    [
        ("s3cret", int),
        (["s3cret"], list[int]),
        (Model.model_construct(name=("s3cret", "two\nlines"), at="s3cret"), Model),
    ],
)
def test_a_refusal_says_what_was_expected_and_does_not_repeat_the_value(value, declared):
    with pytest.raises(PayloadError, match="Expected") as refused:
        codec.encode(value, declared, what="result of stage x")
    assert "s3cret" not in str(refused.value)


def test_the_largest_payload_is_taken():
    codec.encode("x" * (codec.PAYLOAD_BYTES_MAX - 2), str, what="it")


def test_a_recorded_value_that_does_not_fit_says_what_was_expected():
    with pytest.raises(PayloadError, match="result of stage x doesn't fit Model"):
        codec.decode({"nome": "ann"}, Model, what="result of stage x")


@pytest.mark.parametrize("value", [Model(name="ann"), {"name": "ann"}])
def test_an_input_is_an_object_of_its_type_or_data_that_fits(value):
    assert codec.parse(codec.check_input(value, Model, what="input of p")) == {
        "name": "ann",
        "at": None,
    }


def test_an_input_that_does_not_fit_is_refused_with_pydantics_words():
    with pytest.raises(InvalidInput, match=r"(?s)input of p: .*Field required"):
        codec.check_input({}, Model, what="input of p")


def test_the_bound_of_a_payload_is_in_bytes():
    """As its message says: characters that take two bytes count twice."""

    with pytest.raises(PayloadError):
        codec.encode("é" * 600_000, what="input")


def test_a_text_that_only_speaks_of_nul_is_kept():
    r"""The six characters \u0000, in a log line say, are text. In JSON their backslash is escaped,
    which tells them from a NUL.
    """

    assert codec.parse(codec.encode("\\u0000", what="input")) == "\\u0000"


def test_a_number_that_json_lacks_is_refused_where_it_is_made():
    """NaN and infinity would become null without a word, and break whoever reads them as a float."""

    with pytest.raises(PayloadError):
        codec.encode(math.nan, float, what="result of stage x")


@pytest.mark.parametrize("declared", [None, Any], ids=["declared", "undeclared"])
@pytest.mark.parametrize(
    "value",
    [
        *(True, False, 0, -1, 2**64 - 1, 2**64, -(2**200), 1.5, -0.0, 1e16),
        *("", "plain", 'a "quoted" \\ one', "\u00e9", "\n", "\u2028", "NaN", "1e16", "x" * 10_001),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_scalar_is_written_and_read_as_pydantic_does(value, declared):
    """Most of what travels is one, and goes the short way."""
    kind = type(value) if declared is None else declared
    text = codec.encode(value, kind, what="it")
    assert text == jsonb.settled(TypeAdapter(kind).dump_json(value).decode())
    back = codec.decode(jsonb.loads(text), kind, what="it")
    assert (type(back), back) == (type(value), TypeAdapter(kind).validate_json(text))
