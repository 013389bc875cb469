"""Who answers for what is claimed: an id for each thread, and one heartbeat for them all. (docs/adr/0005)"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from uuid import UUID

import pytest

from orchestrator.engine.liveness import Identity


def test_one_threads_failure_does_not_take_the_others_claims():
    """Every claim beats under the id it was made with, until its holder lets go. A failure gives
    the thread that failed a new id for what it claims next, and takes nothing from a claim that
    is still healthy.
    """

    identity = Identity("threads")
    with identity.lease() as healthy:
        with contextlib.suppress(ZeroDivisionError), identity.lease():
            raise ZeroDivisionError
        assert healthy in identity.leased_ids()
        with identity.lease() as later:
            assert later != healthy
    assert identity.leased_ids() == []


class Overrun(BaseException):
    """A time limit, which strikes anywhere."""


class StruckOnce:
    """A helper in whose first word a time limit strikes."""

    def __init__(self) -> None:
        self.is_struck = False

    def acquire(self, _worker_ids: Iterable[UUID], _name: str) -> None:
        if not self.is_struck:
            self.is_struck = True
            raise Overrun

    def release(self, _worker_ids: Iterable[UUID]) -> None: ...

    def beats(self) -> int:
        return 0


def test_a_block_that_never_began_is_not_held_for_ever():
    identity = Identity("struck", StruckOnce())
    with pytest.raises(Overrun), identity.lease():
        pass
    with identity.lease() as held:
        assert identity.leased_ids() == [held]
    assert identity.leased_ids() == []
