"""What the waits for a signal take, as a sender has learnt it: a payload that fits goes out in one statement.

It may be old: the record takes a signal only if the form that it fits is still the one of the wait that it would
answer, and says which that is if not.
"""

from __future__ import annotations

from orchestrator.core import codec
from orchestrator.engine.validation import Validator
from orchestrator.store.transitions.signals import Takes

NAMES_MAX = 1_000
"""So many are kept: a client that sends more kinds of signals learns again."""


class SignalForms:
    """One client's. For each name the form of its latest wait, by its digest."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, Validator]] = {}

    def fitted_by(self, name: str, payload: str) -> str | None:
        """The digest of the known form, if the payload (JSON text) fits it."""
        known = self._known.get(name)
        if known is None or known[1].problems(codec.parse(payload)):
            return None
        return known[0]

    def learn(self, name: str, takes: Takes) -> Validator:
        """From here on this is known of the name's waits."""
        if len(self._known) >= NAMES_MAX:
            self._known.clear()
        validator = Validator(takes.schema)
        self._known[name] = (takes.digest, validator)
        return validator
