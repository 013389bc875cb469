"""The partners of a run's callbacks: who has been handed a token answers it, once that counts.

    partners.acts()     what they can do now: answer, send a heartbeat, answer again, answer by a token that is none

An answer counts once. A second one is refused, and so is a token that is none. Where a worker is lost after its stage
has done its work, and before that is recorded, the next attempt hands on another: either answers, once. So it is where
the partner has answered before the stage fails, and is tried again: that one is of no more use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from uuid import UUID

from orchestrator import Client
from orchestrator.errors import CallbackRefused
from tests.oracle.programs import Callback, Program

HEARTBEATS_MAX = 2


class Partners:
    """Of one run. `tokens`: what they were handed, by the key of the stage that did it."""

    def __init__(
        self,
        client: Client,
        run_id: UUID,
        program: Program,
        *,
        tokens: Callable[[UUID], Mapping[str, Sequence[str]]],
        run_has_ended: Callable[[], bool],
    ) -> None:
        self.client, self.run_id = client, run_id
        self._tokens, self._run_has_ended = tokens, run_has_ended
        self._callbacks = program.callbacks
        self._answered: set[str] = set()
        self._beats: dict[str, int] = {}
        self._again: set[str] = set()
        self.troubles: list[str] = []

    @property
    def is_done(self) -> bool:
        """Nobody has anything to say that counts."""
        return all(
            each.name in self._answered
            for each in self._callbacks
            if each.answer in ("done", "failed")
        )

    def acts(self) -> list[Callable[[], str]]:
        """What each of them can do now."""
        if not self._callbacks:
            return []
        found: list[Callable[[], str]] = []
        tokens = self._tokens(self.run_id)
        handed = {key.rpartition("/")[2]: each for key, each in tokens.items()}
        for each in self._callbacks:
            own = handed.get(each.submit.key, ())
            if each.answer not in ("done", "failed") or not own:
                continue
            if each.name not in self._answered:
                found += [partial(self.answer, each, token) for token in own]
                if self._beats.get(each.name, 0) < HEARTBEATS_MAX:
                    found += [partial(self.beat, each, token) for token in own]
            elif each.name not in self._again:
                found.append(partial(self.answer_again, each, own))
        return found

    def look_at_tokens(self, *, lost: int) -> None:
        """Each attempt hands on the same one, but for what is said above. `lost`: attempts, of all stages."""
        handed = self._tokens(self.run_id)
        for each in self._callbacks:
            for key, tokens in handed.items():
                is_its = key.rpartition("/")[2] == each.submit.key
                if is_its and len(tokens) > 1 + lost + (each.name in self._answered):
                    self.troubles.append(f"{key} has handed on {len(tokens)} tokens; {lost} lost")

    def answer(self, part: Callback, token: str) -> str:
        """That counts, unless the run has ended."""
        self._answered.add(part.name)
        try:
            self._say(part, token, part.payload)
        except CallbackRefused as refusal:
            if not self._run_has_ended():
                self.troubles.append(f"the answer to {part.name} was refused: {refusal}")
            return f"{part.name}: {refusal}"
        return f"{part.name} is answered"

    def answer_again(self, part: Callback, tokens: Sequence[str]) -> str:
        """Whatever is said now counts for nothing; nor does a token that is none."""
        self._again.add(part.name)
        for wrong in (*tokens, tokens[0][::-1]):
            try:
                self._say(part, wrong, part.payload + 1000)
            except CallbackRefused:
                continue
            self.troubles.append(f"{part.name} was answered twice, or by a token that is none")
        return f"{part.name} is answered again"

    def beat(self, part: Callback, token: str) -> str:
        """A sign of life: it moves nothing but the deadline of silence."""
        self._beats[part.name] = self._beats.get(part.name, 0) + 1
        try:
            self.client.heartbeat(token)
        except CallbackRefused as refusal:
            if not self._run_has_ended():
                self.troubles.append(f"a heartbeat of {part.name} was refused: {refusal}")
        return f"a heartbeat of {part.name}"

    def _say(self, part: Callback, token: str, payload: int) -> None:
        if part.answer == "done":
            self.client.complete(token, payload)
        else:
            self.client.fail_callback(token, f"{payload} is too much", error_type="Declined")


def nobody(_run_id: UUID) -> Mapping[str, Sequence[str]]:
    """No token was handed on."""
    return {}
