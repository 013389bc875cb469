"""Cut a guard out, and see its tests go red: never in place, in a copy that is thrown away.

Workshop.open         a copy of what git tracks, in which all named tests pass uncut
Workshop.play         a copy of that with one guard cut out, its tests over it, and the verdict
Workshop.run_without  the same with several, over any tests

A test counts as red when it fails where it should: in its own body, by what the guard is there to
prevent. An import that breaks, a fixture, a statement that Postgres can't read or a hang says nothing
about the guard.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from queue import Queue
from typing import TypeVar

from orchestrator.embedded import ServerUrls
from tests.guards.guards import Guard
from tests.guards.preloaded import Ended, Preloaded
from tests.guards.witness import WITNESS, Witnessed

Choice = TypeVar("Choice")

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 60

_OPTIONS = [
    *("--quiet", "--all", "-p", "no:cacheprovider", "-p", "tests.guards.witness"),
    *("-p", "pytest_timeout", f"--timeout={TIMEOUT_SECONDS}"),
]


def of_this_commit(choices: Sequence[Choice]) -> Choice:
    """One of them, another for each commit: what is too dear for every run of the tests is done in turns."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return choices[int(commit, 16) % len(choices)]


@dataclass(frozen=True)
class Verdict:
    """`problem` None: the guard can't be removed unnoticed."""

    guard: Guard
    reds: dict[str, str]
    """What each test that went red died of, in one line."""
    problem: str | None = None


class GuardsAreNotReady(Exception):
    """Before anything is cut out, the named tests must be there and pass."""


class Workshop:
    """Copies of the repository in one temporary folder, and one pair of servers for all of them.

    `template` is a migrated database there: all that a guard can't be cut out of.
    """

    def __init__(self, folder: Path, urls: ServerUrls, template: str, jobs: int) -> None:
        self._folder, self._whole = folder, folder / "whole"
        self._environment = {
            **{name: value for name, value in os.environ.items() if "PERENNIAL" not in name},
            "PERENNIAL_TEST_DATABASE_URL": urls.database_url,
            "PERENNIAL_TEST_BROKER_URL": urls.broker_url,
            "PERENNIAL_TEST_TEMPLATE": template,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        self._idle: Queue[Preloaded] = Queue()
        for _ in range(jobs):
            self._idle.put(Preloaded())

    @classmethod
    @contextmanager
    def open(
        cls, guards: Iterable[Guard], urls: ServerUrls, template: str, *, jobs: int
    ) -> Iterator[Workshop]:
        """A workshop where the tests of these guards pass. Raises GuardsAreNotReady."""
        with tempfile.TemporaryDirectory(prefix="perennial-guards-") as folder:
            workshop = cls(Path(folder), urls, template, jobs)
            try:
                workshop._copy_what_git_tracks()
                workshop._try_uncut(sorted({test for guard in guards for test in guard.tests}))
                yield workshop
            finally:
                for _ in range(jobs):
                    workshop._idle.get().close()

    def play(self, guard: Guard) -> Verdict:
        """Cut this guard out of a copy of its own, and run its tests there."""
        return _judge(guard, *self.run_without([guard], guard.tests))

    def run_without(
        self, guards: Sequence[Guard], tests: Iterable[str], **environment: str
    ) -> tuple[Ended, list[Witnessed]]:
        """Cut these guards out of a copy of their own, and run those tests there."""
        copy = self._folder / re.sub(r"\W+", "-", " ".join(guard.name for guard in guards))
        # With its bytecode, which is still good.
        shutil.copytree(self._whole, copy, copy_function=os.link)
        try:
            for guard in guards:
                file = guard.cut_out_of(copy)
                Path(cache_from_source(str(file))).unlink(missing_ok=True)
            return self._run(copy, tests, environment)
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def _try_uncut(self, tests: Sequence[str]) -> None:
        if tests:  # without any, pytest would run all there are
            ended, _ = self._run(self._whole, tests)
            if ended.code != 0:
                raise GuardsAreNotReady(ended.said)

    def _copy_what_git_tracks(self) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (self._whole / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self._whole / name)

    def _run(
        self, copy: Path, tests: Iterable[str], also: Mapping[str, str] | None = None
    ) -> tuple[Ended, list[Witnessed]]:
        witness = copy.with_suffix(".witness")
        witness.touch()
        preloaded = self._idle.get()
        try:
            environment = {**self._environment, **(also or {}), WITNESS: str(witness)}
            ended = preloaded.run(copy, [*_OPTIONS, *tests], environment)
        finally:
            self._idle.put(preloaded)
        lines = witness.read_text().splitlines()
        return ended, [Witnessed(**json.loads(line)) for line in lines]


def _judge(guard: Guard, ended: Ended, witnessed: list[Witnessed]) -> Verdict:
    if ended.code not in (0, 1):  # not "all passed", nor "some failed"
        return Verdict(guard, {}, f"pytest could not run: {ended.said}")
    called = {told.test: told for told in witnessed if told.phase == "call"}
    broken = [told for told in witnessed if told.phase == "setup"]
    green = [test for test in guard.tests if test not in called]
    if broken or green:
        setups = [f"{told.test} broke in its setup: {told.says}" for told in broken]
        return Verdict(guard, {}, "\n".join([*setups, *(f"{test} stays green" for test in green)]))
    reds = {test: _in_one_line(told) for test, told in called.items()}
    beside = [
        f"{test} dies of something else: {reds[test]}"
        for test, told in called.items()
        if not guard.is_missed_by(told.died_of, told.says)
    ]
    return Verdict(guard, reds, "\n".join(beside) or None)


def _in_one_line(told: Witnessed) -> str:
    return " ".join(f"{told.died_of[0]}: {told.says}".split())[:200]
