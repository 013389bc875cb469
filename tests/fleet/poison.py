"""What must not harm anybody else: stages that kill their process, are deaf, or return what can't be kept.

On the app of the other tests, and in a module of its own: `fleet.app = "tests.fleet.poison"`.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import Any

from orchestrator import Flow, Retry, process, stage, step
from tests.fleet.app import app, pass_gate, registry

__all__ = ["app"]

BOUND_BYTES = 1024 * 1024
AT_ONCE = Retry(max_attempts=3, delay_seconds=0)


class Thing:
    """Has no JSON form."""


def die(how: str) -> None:
    """End this process, as a crash, a leak or an operator would."""
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


@stage(registry=registry, retry=AT_ONCE)
def crash(how: str) -> None:
    """Kills its process, always."""
    die(how)


@stage(registry=registry, timeout_seconds=1, retry=Retry(max_attempts=1))
def deaf(gate: int) -> str:
    """Catches what should end it, and goes on."""
    with suppress(Exception):  # a soft time limit is one
        pass_gate(gate)
        return "at last"
    threading.Event().wait()
    return "never"


@stage(registry=registry, timeout_seconds=1, retry=Retry(max_attempts=1))
def slow() -> None:
    """Takes longer than it may, and lets itself be told so."""
    threading.Event().wait(60)


@stage(registry=registry)
def swallow(value: Any) -> None:
    """Takes anything."""


@stage(registry=registry)
def too_large() -> str:
    """More than the record takes."""
    return "x" * BOUND_BYTES


@stage(registry=registry)
def no_json() -> dict[str, Any]:
    """Nothing that JSON has."""
    return {"thing": Thing()}


@stage(registry=registry)
def too_large_a_step() -> None:
    """The step's result is remembered, or should be."""
    step(too_large_in_a_step)


def too_large_in_a_step() -> str:
    """More than the record takes."""
    return "x" * BOUND_BYTES


@process(version=1, registry=registry)
async def poisoned(flow: Flow, what: str) -> None:
    """One stage, by its name."""
    await flow.stage(what)


@process(version=1, registry=registry)
async def crashing(flow: Flow, how: str) -> None:
    """A stage that kills its worker."""
    await flow.stage(crash, how)


@process(version=1, registry=registry)
async def crashing_turn(flow: Flow, how: str) -> None:
    """A step of the flow that kills its worker."""
    await flow.step(die, how)


@process(version=1, registry=registry)
async def deafening(flow: Flow, gate: int) -> str:
    """A stage that ignores its timeout."""
    return await flow.stage(deaf, gate)


@process(version=1, registry=registry)
async def too_large_an_argument(flow: Flow) -> None:
    """A stage's argument that the record doesn't take."""
    await flow.stage(swallow, "x" * BOUND_BYTES)
