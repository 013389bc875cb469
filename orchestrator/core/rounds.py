"""A stage with `on_exhausted=ask(…)`, as a flow awaits it: people say whether it is tried again.

    charge                       the stage, as any other
    charge#again/exhausted-1     the approval, once its attempts are used up
    charge#again/round-2         approved: the same stage with the same arguments, and all its attempts
    charge#again/exhausted-2     and so on; rejected, or too late: it has failed by what it failed by last

All of it follows from the facts, in a scope of its own: keys and ordinals of what is around it are as without it.
Every round is one activity to the world: it has the same idempotency keys, and remembers the steps of those before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from orchestrator.core.combinators import Scoped
from orchestrator.core.journal import Activity, ActivityKind
from orchestrator.core.kinds.approval import AskPeople
from orchestrator.core.kinds.base import Request
from orchestrator.core.kinds.stage import StageCall
from orchestrator.core.on_exhausted import OnExhausted
from orchestrator.core.pending import Pending, Recorder
from orchestrator.core.steps import AGAIN
from orchestrator.errors import ActivityFailed

T = TypeVar("T")


class Rounds(Scoped[T]):
    """A stage that was asked for, with all that may follow on it. Awaited as the Pending that it stands for."""

    __slots__ = ("_asked",)

    def __init__(self, pending: Pending[T], call: StageCall, recorder: Recorder) -> None:
        policy = call.stage.on_exhausted
        assert policy is not None  # noqa: S101 - its caller has looked
        rounds: _Rounds[T] = _Rounds(pending, call, policy, recorder)
        super().__init__(pending.key, rounds.result, pending.unawaited, None)
        self._asked = pending.request

    @property
    def asked(self) -> Request:
        """The stage, at its first round."""
        return self._asked

    def scope_of(self, _index: int, /) -> str:
        """Beside its key, where no author's keys can be."""
        return scope_of_rounds(self.key)


class _Rounds(Generic[T]):
    """How far it has come, for all who await it."""

    __slots__ = ("_asking", "_call", "_count", "_last", "_policy", "_recorder")

    def __init__(
        self, first: Pending[T], call: StageCall, policy: OnExhausted, recorder: Recorder
    ) -> None:
        self._call, self._policy, self._recorder = call, policy, recorder
        self._last, self._count = first, 1
        self._asking: Pending[Any] | None = None

    async def result(self) -> T:
        """Of the last round. Raises ActivityFailed."""
        while True:
            last, count = self._last, self._count
            try:
                return await last
            except ActivityFailed as error:
                if not self._policy.is_for(error, self._call.stage.retry):
                    raise
                decision = await self._ask(count, error)
                if not decision.approved:
                    raise
            if count == self._count:  # else somebody else who awaits it has gone on
                self._begin(count + 1)

    def _ask(self, count: int, error: ActivityFailed) -> Pending[Any]:
        if self._asking is None:
            approval = self._policy.approval(self._call.stage.name, error)
            self._asking = self._request(approval.name, f"exhausted-{count}", AskPeople(approval))
        return self._asking

    def _begin(self, count: int) -> None:
        call = StageCall(self._call.stage, self._call.arguments, self._call.compensation)
        self._last = self._request(call.stage.name, f"round-{count}", call)
        if call.compensation is not None:
            self._recorder.note_undoable(self._last.request, call.compensation)
        self._count, self._asking = count, None

    def _request(self, name: str, key: str, asked: AskPeople | StageCall) -> Pending[Any]:
        request = self._recorder.request(name, key, asked)
        return Pending(request, self._recorder.unawaited)


def scope_of_rounds(key: str) -> str:
    """Where all stands that follows on the end of the stage of that key."""
    return f"{key}{AGAIN}"


def with_what_followed(journal: Iterable[Activity], keys: Iterable[str]) -> set[str]:
    """Those keys, and what their being exhausted has led to: it goes where they go."""
    entries = {each.key: each for each in journal}
    found = set(keys)
    for key in [key for key in found if key in entries]:
        found |= {each.key for each in entries.values() if _follows(each, entries[key])}
    return found


def was_tried_again(journal: Iterable[Activity], key: str) -> bool:
    """Whether people have let it be: what came of that counts, and not how it ended itself."""
    entries = {each.key: each for each in journal}
    return any(
        each.kind is ActivityKind.STAGE and _follows(each, entries[key])
        for each in entries.values()
    )


def _follows(each: Activity, on: Activity) -> bool:
    if each.scope == scope_of_rounds(on.key):
        return True
    return on.scope.endswith(AGAIN) and each.scope == on.scope and each.ordinal > on.ordinal
