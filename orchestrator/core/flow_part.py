"""What every part of `Flow` may ask of the whole: each family of awaitables is a part, in a module of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from typing import Any

from orchestrator.core.kinds.base import Ask
from orchestrator.core.pending import Pending, Recorder
from orchestrator.core.unawaited import Unawaited


class FlowPart(ABC):
    """`Flow` has all of it."""

    _recorder: Recorder
    _unawaited: Unawaited

    @property
    @abstractmethod
    def now(self) -> datetime:
        """The time of the last fact that the flow has seen."""

    @abstractmethod
    def stage(self, stage: Any, /, *args: Any, **kwargs: Any) -> Pending[Any]:
        """Hand off to a stage."""

    @abstractmethod
    def step(self, function: Any, /, *args: Any, **kwargs: Any) -> Pending[Any]:
        """Call a short function in the turn itself."""

    @abstractmethod
    def _asked(
        self, name: str, key: str | None, ask: Ask, made: type[Pending[Any]] = Pending
    ) -> Pending[Any]:
        """Ask for something, as the code that called the method of the flow."""
