"""What a `Flow` says of its run as a whole: what it is, how it is, and that it begins anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from orchestrator.core.attributes import AttributeValue
from orchestrator.core.flow_part import FlowPart


class AsAWhole(FlowPart):
    """The part of `Flow` that is about its run."""

    def attributes(
        self,
        attributes: Mapping[str, AttributeValue | None] | None = None,
        /,
        **named: AttributeValue | None,
    ) -> None:
        """Say what the run is: `flow.attributes(customer="C-17", amount=Decimal("9.90"))`.

        They are recorded with this turn, and need no await. What was said last of a name counts, also over what the
        run was started with; None takes it away. Runs are found by them (`client.list(where=…)`), and each can be
        asked for (`client.query`). A mapping, in place of names, takes any name.

        Raises PayloadError: not a str, int, Decimal, bool, datetime with a time zone, date, enum or list of str; or too
        many.
        """
        self._recorder.say_attributes({**(attributes or {}), **named})

    def status(self, text: str) -> None:
        """Say how the run is, in a sentence for people: `flow.status("3 of 10 letters are sent")`; "" takes it back.

        It is recorded with this turn, and shown wherever the run is (`show`, `ps`, the fleet's monitor). Raises
        PayloadError: not a line of at most 500 printable characters.
        """
        self._recorder.say_status(text)

    def continue_as_new(
        self,
        input: Any = None,  # noqa: A002 - the natural word
        *,
        version: int | None = None,
    ) -> NoReturn:
        """Begin the flow anew with another input, as the same run: `await flow.continue_as_new(state)`.

        So a run lasts for years and stays cheap: its journal begins empty in each chapter. It keeps its id, its
        business key, its attributes and the signals that no wait has taken. What is open ends as cancelled, and what
        comes late for it touches nothing of the next chapter. The next chapter goes on in the version that new runs
        take, or in `version`, which must take the input; `expires_after` begins anew.

        It doesn't return: `finally` blocks run, and may await. Raises DefinitionError in a branch.
        """
        self._recorder.continue_as_new(input, version)
