"""What is said of an exception, whatever it is like."""

from __future__ import annotations

import json
import logging
import traceback

import pytest

from orchestrator.core.failures import (
    TRACEBACK_CHARACTERS_MAX,
    clear_frames,
    error_of,
    presentable,
    repr_of,
)
from tests.unit.hostile import HOSTILE, LazyText


def raised(make) -> BaseException:
    try:
        raise make()  # noqa: TRY301
    except BaseException as error:  # noqa: BLE001
        return error


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_whatever_is_raised_can_be_recorded_and_logged(make, caplog):
    """Bounded, as JSON that Postgres takes, and in a logger that would raise if it could not print it."""
    error = raised(make)
    kept = error_of(error)
    text = json.dumps(kept, ensure_ascii=False).encode()
    assert b"\\u0000" not in text
    assert len(text) < 50_000
    assert kept["type"]
    assert kept["at"].startswith(__file__)
    assert "Traceback (most recent call last)" in kept["traceback"]
    assert len(kept["traceback"]) <= TRACEBACK_CHARACTERS_MAX + 20
    logging.getLogger("hostile").error("failed", exc_info=presentable(error))
    assert b"failed" in caplog.text.encode()  # as a file or a wire takes it
    assert len(caplog.text) < 200_000
    assert len(repr_of(error)) <= 10_000
    clear_frames(error)


def test_text_that_is_none_yet_is_made_text():
    """Django's lazy translations: `__str__` answers with a promise of text."""
    assert error_of(raised(LazyText))["message"] == "übersetzt"


def test_an_ordinary_exception_is_presented_as_it_is():
    error = raised(lambda: ValueError("plain"))
    assert presentable(error) is error
    assert error_of(error)["message"] == "plain"


def test_a_traceback_has_the_lines_and_causes_and_no_values():
    secret = "hunter2"  # noqa: F841 - a local variable of the frame that raises

    def fails() -> None:
        try:
            int("nothing")
        except ValueError as cause:
            raise LookupError("no such thing") from cause

    kept = error_of(raised(fails))["traceback"]
    assert "hunter2" not in kept.replace('secret = "hunter2"', "")
    assert "ValueError: invalid literal" in kept
    assert "direct cause of the following" in kept
    assert kept.rstrip().endswith("LookupError: no such thing")
    assert 'int("nothing")' in kept


def test_a_long_traceback_keeps_its_beginning_and_its_end():
    def deeper(depth: int) -> None:
        if depth == 0:
            raise ValueError("at the bottom")
        deeper(depth - 1)

    kept = error_of(raised(lambda: deeper(300)))["traceback"]
    assert len(kept) <= TRACEBACK_CHARACTERS_MAX + 20
    assert kept.rstrip().endswith("ValueError: at the bottom")
    assert kept.startswith("Traceback")


def test_an_exceptions_notes_are_no_reason_to_fail():
    error = raised(lambda: ValueError("noted"))
    error.add_note("a note")
    assert "a note" in traceback.format_exception(error)[-1]
    assert "a note" in error_of(error)["traceback"]
