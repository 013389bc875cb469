"""Document review: a loop of changes, with reminders, until somebody agrees.

process.py      the flow: read this
stages.py       mails and publishing
test_document_review.py     sixty days of it, on the clock of the test
"""

from tasks.document_review.process import document_review

__all__ = ["document_review"]
