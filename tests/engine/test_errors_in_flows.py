"""What a flow knows of an error that it catches is the same at each replay, and no more than its author has named."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from orchestrator import ActivityFailed, Fail, Flow, Retry, process, stage
from orchestrator.errors import DefinitionError
from tests.modes import EAGER, EVICT, NORMAL, TWICE, modes_of


class Response:
    status_code = 404
    token = "hunter2"


class Refused(Exception):
    """As of a partner's client library."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code, self.response, self.amount = "E17", Response(), Decimal("9.90")
        self.big = "x" * 3000
        self.circle: list[Any] = []
        self.circle.append(self.circle)
        self.password = "hunter2"

    @property
    def broken(self) -> str:
        raise RuntimeError("not you")


class NotFound(Refused, LookupError): ...


NAMED = (
    "code",
    "response.status_code",
    "amount",
    "big",
    "circle",
    "broken",
    "nothing.there",
    "__traceback__",
)


def fails(kind: str) -> None:
    deeply(kind, 30)


def deeply(kind: str, depth: int) -> None:
    if depth:
        deeper(kind, depth - 1)
    raise {"own": NotFound, "builtin": FileNotFoundError, "final": Fail}[kind]("no such person")


def deeper(kind: str, depth: int) -> None:
    deeply(kind, depth)


@modes_of(NORMAL, EVICT, TWICE, EAGER, because="the record is the same in the others")
@pytest.mark.parametrize("kind", ["own", "builtin", "final"])
def test_what_a_flow_sees_of_an_error_is_the_same_at_each_replay(harness, kind):
    again = Retry(max_attempts=2, delay_seconds=0)
    passes: list[list[Any]] = []
    failing = stage(name="fails", registry=harness.registry, retry=again, error_attributes=NAMED)(
        fails
    )

    @process(version=1, registry=harness.registry)
    async def p(flow: Flow) -> list[Any]:
        seen: list[Any] = []
        passes.append(seen)
        for pending in (
            flow.stage(failing, kind),
            flow.step(fails, kind, retry=again, error_attributes=NAMED),
        ):
            try:
                await pending
            except ActivityFailed as error:
                seen.append(
                    [
                        error.error_type,
                        error.message,
                        error.attempts,
                        error.attributes,
                        error.traceback,
                        [
                            error.is_a(which)
                            for which in (
                                NotFound,
                                f"{__name__}.Refused",
                                "LookupError",
                                OSError,
                                Exception,
                                "KeyError",
                                asyncio.CancelledError,
                            )
                        ],
                    ]
                )
            await flow.sleep(60)
        return seen

    harness.freeze()
    run = harness.start(p)
    for _ in range(3):
        harness.drain()
        harness.move(seconds=60)
    harness.drain()
    result = harness.client.result(run)
    assert len(passes) > 1 or harness.mode is EAGER, "there, its flow stays"
    for seen in passes:
        assert seen == result[: len(seen)]
    of_kind = {
        "own": ("NotFound", [True, True, True, False, True, False, False]),
        "builtin": ("FileNotFoundError", [False, False, False, True, True, False, False]),
        "final": ("Fail", [False, False, False, False, True, False, False]),
    }
    for name, message, attempts, attributes, traceback, classes in result:
        assert (name, classes) == of_kind[kind]
        assert (message, attempts) == ("no such person", 1 if kind == "final" else 2)
        assert attributes == (
            {"code": "E17", "response.status_code": 404, "amount": "9.90"} if kind == "own" else {}
        )
        assert traceback.endswith(f"{name}: no such person\n")
        assert len(traceback) == 1000
    recorded = harness.database.rows("SELECT detail::text FROM perennial.history")
    assert not [row for row in recorded if row[0] and "hunter2" in row[0]]


@modes_of(NORMAL, because="nothing runs")
def test_attributes_are_named_as_they_stand_in_python(harness):
    for wrong in (("a b",), ("",), ("code()",), (5,), [f"a{n}" for n in range(21)]):
        with pytest.raises(DefinitionError, match="error_attributes"):
            stage(name="f", registry=harness.registry, error_attributes=wrong)(fails)
