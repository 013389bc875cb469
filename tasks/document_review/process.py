"""A document is reviewed until its reviewer agrees. Whoever is waited for is reminded; nobody waits for ever."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from orchestrator import Decision, Fail, Flow, days, process
from tasks.document_review.models import Document, Published
from tasks.document_review.stages import publish, send_mail

T = TypeVar("T")

ROUNDS_MAX = 5
REMINDED_EVERY = days(2)
EDITOR_AFTER, REVIEW_ENDS_AFTER = days(7), days(21)
REVISION_ENDS_AFTER = days(14)


@process(version=1)
async def document_review(flow: Flow, draft: Document) -> Published:
    """Review, revise, and review again, until somebody says yes."""
    document = draft
    for round_number in range(1, ROUNDS_MAX + 1):
        verdict = await review(flow, document)
        if verdict.approved:
            return Published(url=await flow.stage(publish, document), rounds=round_number)
        if verdict.timed_out:
            raise Fail(f"nobody has reviewed it in {REVIEW_ENDS_AFTER.days} days")
        await flow.stage(send_mail, document.author, f"Please change it: {verdict.reason}")
        document = await revision(flow, document)
    raise Fail(f"no agreement after {ROUNDS_MAX} rounds")


async def review(flow: Flow, document: Document) -> Decision:
    """The reviewer decides, and after a week the editor may too."""
    decision = flow.approval(
        "review",
        assign=[document.reviewer],
        escalate={EDITOR_AFTER: ["editor"]},
        timeout=REVIEW_ENDS_AFTER,
    )
    return await reminding(flow, decision, document.reviewer, "A document waits for your review")


async def revision(flow: Flow, document: Document) -> Document:
    """The author's next text, sent as a signal: `client.signal(run, "revised", document)`."""
    revised = flow.signal("revised", type=Document, timeout=REVISION_ENDS_AFTER, default=None)
    text = await reminding(flow, revised, document.author, "Your document waits for your changes")
    if text is None:
        raise Fail(f"its author has not changed it in {REVISION_ENDS_AFTER.days} days")
    return text


async def reminding(flow: Flow, answer: Awaitable[T], person: str, subject: str) -> T:
    """A race that only the answer can win: the reminders end with it."""

    async def reminders() -> T:
        while True:
            await flow.sleep(REMINDED_EVERY)
            await flow.stage(send_mail, person, subject)

    return (await flow.first({"answer": answer, "reminders": reminders()})).value
