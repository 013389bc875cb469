"""Everybody outside: plays a program's script on its run, one act at a time, in a random order.

    player.act(chance)   one thing that the script allows now; None where there is nothing to do now
    player.look()        the approvals as they are asked now, for those who don't look by themselves
    player.is_done       nothing is left to be done
    player.troubles      answers that contradict the script, in words

What is to be refused must be refused, whenever it is tried. What counts is tried until it is taken; a
run that has ended meanwhile needs it no more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from orchestrator import Client
from orchestrator.errors import (
    AlreadyDecided,
    DecisionRefused,
    DecisionTooEarly,
    DecisionTooLate,
    NotAssigned,
    RunClosed,
)
from tests.oracle.partners import Partners, nobody
from tests.oracle.programs import Ask, Objection, Program, Send, Verdict

Act = Callable[[], str]


class Asked(Protocol):
    """An approval as it stands: an ApprovalView, or a row with these columns."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def assignees(self) -> Sequence[str]: ...
    @property
    def deadline(self) -> datetime | None: ...
    @property
    def edition(self) -> int: ...


class Player:
    """The world of one run. `now` is the database's clock, or earlier by no more than is said late."""

    def __init__(
        self,
        client: Client,
        run_id: UUID,
        program: Program,
        *,
        now: Callable[[], datetime],
        tokens: Callable[[UUID], Mapping[str, Sequence[str]]] = nobody,
    ) -> None:
        self.client, self.run_id, self.now = client, run_id, now
        self.partners = Partners(
            client, run_id, program, tokens=tokens, run_has_ended=self._run_has_ended
        )
        self.sent_by_key: set[str] = set()
        self._program = program
        self.letters: list[Send] = [send for send in program.sends for _ in range(send.copies)]
        self.sent: set[str] = set()
        self._tried: set[str] = set()
        self.asks: dict[str, Ask] = {ask.name: ask for ask in program.asks}
        self._all_asks = dict(self.asks)
        self.objections: list[Objection] = list(program.objections)
        self.may_cancel = program.is_cancelled
        self.is_cancelled = False
        self.has_ended = False
        self.troubles: list[str] = []

    @property
    def is_done(self) -> bool:
        """True when nothing that counts is left to be done."""
        return self.has_ended or not (
            self.letters
            or any(ask.verdict is not None for ask in self.asks.values())
            or not self.partners.is_done
        )

    @property
    def needs_to_look(self) -> bool:
        """True when what it can do hangs on approvals."""
        return not self.has_ended and bool(self.asks or self.objections)

    def look(self) -> Sequence[Asked]:
        """Every approval of the run."""
        if not self.needs_to_look:
            return ()
        return self.client.approvals(run=self.run_id, state=None)

    def act(
        self,
        chance: random.Random,
        approvals: Sequence[Asked] | None = None,
        *,
        tries_early: bool = True,
    ) -> str | None:
        """Do one thing that the script allows now, and say what.

        `approvals` None: look. `tries_early`: those who are to decide may try before they are asked,
        and must be refused.
        """
        if self.has_ended:
            return None
        views = {view.name: view for view in (self.look() if approvals is None else approvals)}
        acts = self._possible(views, tries_early=tries_early)
        return chance.choice(acts)() if acts else None

    def is_asked_again(self, keys: Iterable[str]) -> None:
        """These have left the journal: who has decided is asked anew."""
        names = {key.rpartition("/")[2] for key in keys}
        self.asks |= {name: ask for name, ask in self._all_asks.items() if name in names}

    def of_copy(self, run_id: UUID, kept: Collection[str]) -> Player:
        """The world of a copy: what was sent to the run has come to it, too; of who was asked, those in what is `kept`
        have decided.
        """
        copy = Player(self.client, run_id, self._program, now=self.now)
        copy.letters = [letter for letter in copy.letters if letter.signal_id not in self.sent]
        copy.sent = set(self.sent)
        names = {key.rpartition("/")[2] for key in kept}
        copy.asks = {name: ask for name, ask in copy.asks.items() if name not in names}
        return copy

    def cancel(self) -> str:
        """Try to end the run, once."""
        self.may_cancel = False
        try:
            self.client.cancel(self.run_id, by="the world", reason="nobody wants it any more")
        except RunClosed:
            return self._ended("cancel: too late")
        self.is_cancelled = True
        return self._ended("cancel")

    def _possible(self, views: Mapping[str, Asked], *, tries_early: bool) -> list[Act]:
        acts: list[Act] = [
            lambda send=send: self._send(send)
            for send in {letter.name: letter for letter in reversed(self.letters)}.values()
        ]
        acts += [
            lambda ask=ask, view=views[ask.name]: self._decide(ask, ask.verdict, view)
            for ask in self.asks.values()
            if ask.verdict is not None
            and ask.name in views
            and (tries_early or ask.verdict.by in views[ask.name].assignees)
        ]
        acts += [
            lambda objection=objection: self._object(objection, views.get(objection.approval))
            for objection in self.objections
            if objection.why == "stranger" or self._is_late(views.get(objection.approval))
        ]
        return [*acts, *self.partners.acts()]

    def _is_late(self, view: Asked | None) -> bool:
        """Its deadline is over, though nobody may have said so yet, or somebody has decided."""
        return view is not None and (
            view.state != "open" or (view.deadline is not None and self.now() >= view.deadline)
        )

    def _send_by_key(self, send: Send) -> str:
        """By a key that only this run waits for; it may come before the wait, and after the run's end."""
        self.letters.remove(send)
        is_new = self.client.signal(
            correlation=f"{send.name} of {self.run_id}",
            name=send.name,
            payload=send.payload,
            signal_id=send.signal_id,
        )
        if bool(is_new) == (send.signal_id in self.sent_by_key):
            self.troubles.append(f"signal {send.signal_id} was new: {is_new}")
        self.sent_by_key.add(send.signal_id)
        return f"signal {send.name} by its key"

    def _send(self, send: Send) -> str:
        if send.by_key:
            return self._send_by_key(send)
        is_first = send.signal_id not in self._tried  # else the answer to the first may be lost
        self._tried.add(send.signal_id)
        try:
            is_new = self.client.signal(
                self.run_id, send.name, send.payload, signal_id=send.signal_id, by="the world"
            )
        except RunClosed:
            return self._ended(f"signal {send.name}: too late")
        self.letters.remove(send)
        if is_new and send.signal_id in self.sent:
            self.troubles.append(f"signal {send.signal_id} was taken twice")
        if is_first and not is_new:
            self.troubles.append(f"signal {send.signal_id} was refused at its first coming")
        self.sent.add(send.signal_id)
        return f"signal {send.name}" + ("" if is_new else " again")

    def _decide(self, ask: Ask, verdict: Verdict, view: Asked) -> str:
        """The decision that counts. Before the escalation that asks this person it is refused."""
        what = f"{ask.name} {verdict.outcome}"
        may_decide = view.state == "open" and verdict.by in view.assignees
        try:
            decision = self.client.decide(
                self.run_id,
                ask.name,
                verdict.outcome,
                by=verdict.by,
                comment=verdict.reason,
                edition=view.edition,
            )
        except DecisionRefused as refusal:
            if isinstance(refusal, DecisionTooLate) and self._run_has_ended():
                return self._ended(f"{what}: too late")
            is_ours = isinstance(refusal, AlreadyDecided) and refusal.by == verdict.by
            if is_ours:  # the answer to the first try was lost
                del self.asks[ask.name]
            elif may_decide or not isinstance(refusal, NotAssigned):
                self.troubles.append(f"{what} by {verdict.by} was refused: {refusal}")
                del self.asks[ask.name]
            return f"{what}: {type(refusal).__name__}"
        del self.asks[ask.name]
        if (decision.outcome, decision.by) != (verdict.outcome, verdict.by):
            self.troubles.append(f"{what} by {verdict.by} was answered with {decision}")
        return what

    def _object(self, objection: Objection, view: Asked | None) -> str:
        """A decision that nobody may take."""
        self.objections.remove(objection)
        what = f"{objection.approval} {objection.outcome} by {objection.by} ({objection.why})"
        try:
            self.client.decide(
                self.run_id,
                objection.approval,
                objection.outcome,
                by=objection.by,
                edition=None if view is None else view.edition,
            )
        except DecisionRefused as refusal:
            if not isinstance(refusal, self._fitting(objection, view)):
                self.troubles.append(f"{what} was refused by a {type(refusal).__name__}: {refusal}")
            return f"{what}: {type(refusal).__name__}"
        self.troubles.append(f"{what} was taken")
        return what

    def _fitting(
        self, objection: Objection, view: Asked | None
    ) -> tuple[type[DecisionRefused], ...]:
        """How it may be refused. In a fleet at work the view may be old by now."""
        if objection.why == "late":
            return (AlreadyDecided, DecisionTooLate)
        if view is None:
            return (DecisionTooEarly, NotAssigned, AlreadyDecided, DecisionTooLate)
        return (NotAssigned, AlreadyDecided, DecisionTooLate)

    def _run_has_ended(self) -> bool:
        return self.client.get(self.run_id).status.is_closed

    def _ended(self, said: str) -> str:
        self.has_ended = True
        return said
