"""What a review does to the world: it writes to people, and publishes. Stand-ins: they only keep what they did."""

from __future__ import annotations

from orchestrator import Retry, idempotency_key, stage
from tasks.document_review.models import Document

mails: list[tuple[str, str]] = []
"""To whom, and what. A real one is sent with `idempotency_key()`, so that a repeated attempt sends no second one."""


@stage(name="review-mail", retry=Retry(max_attempts=10), timeout_seconds=60)
def send_mail(to: str, subject: str) -> str | None:
    """The same mail once, however often the stage is tried. Returns its key."""
    mails.append((to, subject))
    return idempotency_key()


@stage(name="review-publish", timeout_seconds=300)
def publish(document: Document) -> str:
    """Where it can be read from now on."""
    return f"https://docs.example/{document.title.lower().replace(' ', '-')}"
