"""Words that were given up for the field's own (docs/glossary.md) don't come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GIVEN_UP = {
    "alarms": "timer index",
    "audience": "event listeners",
    "caretaker": "maintenance",
    "crew": "batch",
    "deed": "action",
    "meanwhile": "since, in between",
    "misfit": "error",
    "mover": "timer dispatcher",
    "patience": "lock timeout",
    "RecordAway": "RecordUnavailable",
    "RecordedOtherwise": "PayloadMismatch",
    "stopwatch": "monotonic",
}
"""The word, and the one to use."""

PARTS_OF_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def words_of(text: str) -> set[str]:
    """As they are read: `TimerIndex`, `timer_index` and "the timer index" have the same."""
    return {part.lower() for part in PARTS_OF_WORDS.findall(text)} | set(re.findall(r"\w+", text))


@pytest.mark.parametrize("word", GIVEN_UP)
def test_a_word_that_was_given_up_is_not_used(word):
    found = {
        str(path.relative_to(ROOT))
        for path in [*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "docs").glob("*.md")]
        if word in words_of(path.read_text(encoding="utf-8"))
    }
    assert not found, f"say {GIVEN_UP[word]}"


def test_the_words_of_a_name_are_found():
    assert {"heart", "caretaker", "alarms"} <= words_of("HeartBeat caretaker_work ALARMS alarms")
