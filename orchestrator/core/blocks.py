"""Blocks of a flow, as an author enters them: `with flow.timeout(…):` and `with flow.scope(…):`, `async with` too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

from orchestrator.core.kinds.timeout import BlockDeadline
from orchestrator.core.pending import Recorder
from orchestrator.errors import BlockTimedOut, DefinitionError


class _Block(ABC):
    """Either way in, and either way out. Each is entered once."""

    __slots__ = ("_is_entered", "_recorder", "key")

    def __init__(self, recorder: Recorder, key: str | None) -> None:
        self._recorder, self.key = recorder, key
        self._is_entered = False

    @abstractmethod
    def _enter(self) -> None:
        """On the way in."""

    @abstractmethod
    def _leave(self, error: BaseException | None) -> None:
        """On the way out, with what was raised."""

    def __enter__(self) -> Self:
        if self._is_entered:
            raise DefinitionError(
                f"a block of {type(self).__name__.lower()} is entered twice",
                remedy="Make another: call flow's method in the `with` itself.",
            )
        self._is_entered = True
        self._enter()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._leave(error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)


class Timeout(_Block):
    """A block under a deadline. `key`: of the deadline, in the journal."""

    __slots__ = ("_block", "_seconds")

    def __init__(self, recorder: Recorder, seconds: float, key: str | None) -> None:
        super().__init__(recorder, key)
        self._seconds = seconds

    def _enter(self) -> None:
        request = self._recorder.request("timeout", self.key, BlockDeadline(self._seconds))
        self.key = request.key
        self._block: Any = self._recorder.enter_block(request)
        if self._block.is_over:
            raise BlockTimedOut(request.key, name=request.name)

    def _leave(self, error: BaseException | None) -> None:
        self._recorder.leave_block(self._block)
        if error is not None and error is self._block.cancelled:
            raise BlockTimedOut(self._block.request.key, name=self._block.request.name) from None


class Scope(_Block):
    """A block whose keys stand under a name. `key`: the head of them."""

    __slots__ = ("_before", "_name")

    def __init__(self, recorder: Recorder, name: str) -> None:
        super().__init__(recorder, None)
        self._name = name

    def _enter(self) -> None:
        self.key = self._recorder.gather_key(None, self._name)
        self._before = self._recorder.enter_scope(self.key)

    def _leave(self, _error: BaseException | None) -> None:
        self._recorder.leave_scope(self._before)
