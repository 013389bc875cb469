"""Sixty days of a review in a moment."""

from __future__ import annotations

import pytest

from orchestrator import RunStatus, days
from orchestrator.testing import ProcessTester
from tasks.document_review import document_review
from tasks.document_review.models import Document, Published
from tasks.document_review.stages import mails, publish

DRAFT = Document(title="House Rules", text="Be kind.", author="ada", reviewer="bob")


@pytest.fixture(autouse=True)
def _no_mails() -> None:
    mails.clear()


def test_it_is_published_when_its_reviewer_agrees(perennial_tester: ProcessTester) -> None:
    run = perennial_tester.start(document_review, DRAFT)
    perennial_tester.approve(run, "review", by="bob")
    assert perennial_tester.result(run) == Published(
        url="https://docs.example/house-rules", rounds=1
    )
    assert mails == []


def test_changes_are_asked_for_made_and_reviewed_again(perennial_tester: ProcessTester) -> None:
    run = perennial_tester.start(document_review, DRAFT)
    perennial_tester.reject(run, "review", by="bob", comment="too short")
    assert mails == [("ada", "Please change it: too short")]

    longer = DRAFT.model_copy(update={"text": "Be kind to each other."})
    perennial_tester.signal(run, "revised", longer)
    perennial_tester.approve(run, by="bob")

    assert perennial_tester.result(run).rounds == 2
    assert perennial_tester.calls(publish)[0].arguments == {"document": longer}


def test_a_reviewer_is_reminded_every_two_days_until_the_editor_decides(
    perennial_tester: ProcessTester,
) -> None:
    run = perennial_tester.start(document_review, DRAFT)
    perennial_tester.advance_time(days(7))
    assert mails == [("bob", "A document waits for your review")] * 3

    perennial_tester.approve(run, "review", by="editor")
    perennial_tester.advance_time(days(60))
    assert len(mails) == 3, "nobody is reminded of what is done"


def test_nobody_waits_for_ever(perennial_tester: ProcessTester) -> None:
    unread, unchanged = (perennial_tester.start(document_review, DRAFT) for _ in range(2))
    perennial_tester.reject(unchanged, by="bob", comment="too short")
    for run, why in ((unread, "nobody has reviewed it"), (unchanged, "has not changed it")):
        ended = perennial_tester.run_to_the_end(run)
        assert ended.status is RunStatus.FAILED
        assert why in ended.error["message"]


@pytest.mark.perennial(always_replay=True)
def test_its_flow_is_pure(perennial_tester: ProcessTester) -> None:
    run = perennial_tester.start(document_review, DRAFT)
    perennial_tester.advance_time(days(3))
    perennial_tester.reject(run, by="bob")
    perennial_tester.signal(run, "revised", DRAFT)
    perennial_tester.approve(run, by="bob")
    assert perennial_tester.result(run).rounds == 2
