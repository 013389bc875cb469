"""Conversations with a scripted model: nothing here speaks to anybody's."""

from __future__ import annotations

import pytest

from orchestrator import days
from orchestrator.testing import ProcessTester
from tasks.assistant import assistant
from tasks.assistant.model import Scripted, use
from tasks.assistant.models import Reply, Request, ToolCall
from tasks.assistant.process import ask_model, use_tool

LOOK = ToolCall(tool="look_up_order", arguments={"order": "7"})
REFUND = ToolCall(tool="refund", arguments={"order": "7", "amount": 30})
QUESTION = Request(person="ada", question="My lamp is broken. Can I have my money back?")


@pytest.fixture
def model() -> Scripted:
    scripted = Scripted(
        Reply(calls=[LOOK]), Reply(calls=[REFUND]), Reply(answer="That is settled.")
    )
    use(scripted)
    return scripted


def test_money_moves_only_when_the_person_agrees_and_that_may_take_days(
    perennial_tester: ProcessTester, model: Scripted
) -> None:
    run = perennial_tester.start(assistant, QUESTION)
    (asked,) = perennial_tester.approvals(assignee="ada")
    assert asked.name == "refund(order='7', amount=30)"
    assert [call.arguments["call"] for call in perennial_tester.calls(use_tool)] == [LOOK]

    perennial_tester.advance_time(days(3))
    perennial_tester.approve(run, by="ada")
    assert perennial_tester.result(run) == "That is settled."
    assert [message.text for message in model.heard[-1]] == [
        QUESTION.question,
        "look_up_order(order='7')",
        "order 7: a lamp, paid 30",
        "refund(order='7', amount=30)",
        "refunded 30 for order 7",
    ]


@pytest.mark.parametrize("says", ["no", "nothing"])
def test_without_a_yes_nothing_is_done_and_the_model_is_told(
    perennial_tester: ProcessTester, model: Scripted, says: str
) -> None:
    run = perennial_tester.start(assistant, QUESTION)
    if says == "no":
        perennial_tester.reject(run, by="ada", comment="half of it is enough")
    perennial_tester.run_to_the_end(run)
    told = model.heard[-1][-1].text
    assert told == ("not done: half of it is enough" if says == "no" else "not done: timed_out")
    assert len(perennial_tester.calls(use_tool)) == 1


def test_a_tool_that_fails_or_is_not_there_is_the_models_to_handle(
    perennial_tester: ProcessTester,
) -> None:
    use(
        model := Scripted(
            Reply(calls=[ToolCall(tool="sing"), LOOK]), Reply(answer="I can't see it.")
        )
    )
    perennial_tester.fail(use_tool, LookupError("no such order"))
    run = perennial_tester.start(assistant, QUESTION)
    perennial_tester.run_to_the_end(run)
    assert [message.text for message in model.heard[-1] if message.by == "tool"] == [
        "there is no tool sing",
        "it failed: no such order",
    ]


def test_a_crash_asks_the_model_again_and_nobody_twice(
    perennial_tester: ProcessTester, model: Scripted
) -> None:
    perennial_tester.crash(during=use_tool)
    run = perennial_tester.start(assistant, QUESTION)
    perennial_tester.approve(run, by="ada")
    perennial_tester.run_to_the_end(run)
    assert perennial_tester.result(run) == "That is settled."
    assert len(perennial_tester.calls(ask_model)) == len(model.heard) == 3
