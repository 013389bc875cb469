"""What no linter checks, and every reader relies on: each rule is said with its reason.

Files and imports are looked at; nothing is run against a server. A checker has a test of its own that
shows it what it must find, so that no rule is kept by a checker that finds nothing.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from celery import Celery

import orchestrator
from orchestrator import Registry, Settings, install
from orchestrator.fleet.timer_index import FIRE, TimerIndex
from orchestrator.store.parts import ADVANCE
from orchestrator.store.schema import NOTIFY_CHANNEL, SCHEMA
from orchestrator.store.statement import Statement
from orchestrator.store.transitions import approvals, close, commit, outbox, settle, signals, start
from orchestrator.store.transitions.outbox import Handoff
from orchestrator.store.transitions.timers import ArmedTimer

ROOT = Path(__file__).parents[2]
HOUSE = ("orchestrator/", "workers/", "tasks/")
LINES_MAX = 450


def tracked(*, ending: str = "") -> list[str]:
    """The files of the repository that are there, as git lists them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return [name for name in listed if name.endswith(ending) and (ROOT / name).is_file()]


def modules() -> list[str]:
    return [name for name in tracked(ending=".py") if name.startswith(HOUSE)]


# -- nothing waits inside a process --------------------------------------------------------------

DELAYS = {"eta", "countdown"}


PAUSES = {
    "orchestrator/client/asynchronous.py": {
        "asyncio.sleep()": "`result(timeout_seconds=…)` of AsyncClient: the task is its caller's, who asked to wait"
    },
    "orchestrator/client/bulk.py": {
        "time.sleep()": "a rate that an operator has asked for: the thread is its caller's"
    },
    "orchestrator/client/client.py": {
        "time.sleep()": "`result(timeout_seconds=…)`: the thread is its caller's, who asked to wait"
    },
    "orchestrator/embedded/waiting.py": {
        "time.sleep()": "until a server of this machine has started; no worker does that"
    },
    "orchestrator/fleet/strangers.py": {
        "time.sleep()": "after another record's message was given back, at most a quarter of a second (docs/adr/0038)"
    },
}
"""Pauses that no run waits in."""


def waits_in(source: str) -> Iterator[str]:
    """Each place where a process would wait: a sleep, a delayed message, or a retry of Celery's.

    `flow.sleep` is a durable timer, and the one sleep there is.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "sleep" for alias in node.names):
            yield f"{node.lineno}: from {node.module} import sleep"
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        named = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
        owner = called.value.id if _is_attribute_of_name(called) else ""
        if named == "wait" and isinstance(called, ast.Attribute) and _is_made_to_wait(called.value):
            yield f"{node.lineno}: {ast.unparse(called)}()"
        if named == "sleep" and owner != "flow":
            yield f"{node.lineno}: {ast.unparse(called)}()"
        if named == "retry" and isinstance(called, ast.Attribute):
            yield f"{node.lineno}: {ast.unparse(called)}()"
        for keyword in node.keywords:
            if keyword.arg in DELAYS:
                yield f"{node.lineno}: {ast.unparse(called)}({keyword.arg}=...)"


def _is_made_to_wait(node: ast.expr) -> bool:
    """`Event().wait(1)`, or a `nobody` that no one will ever set."""
    return isinstance(node, ast.Call) or (
        isinstance(node, ast.Name) and node.id in ("nobody", "never")
    )


def _is_attribute_of_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)


@pytest.mark.parametrize("module", modules())
def test_nothing_waits_inside_a_process(module):
    """A sleep holds a worker, and is lost with it. A delayed message (eta, countdown, retry) lies
    unacknowledged in one worker's memory: the visibility timeout delivers it twice, and a kill
    stalls it for an hour. What waits here is a row in Postgres and a timer.
    """
    found = [each.partition(": ") for each in waits_in((ROOT / module).read_text())]
    known = PAUSES.get(module, {})
    assert [f"{module}:{line}: {what}" for line, _, what in found if what not in known] == []
    assert {what for _, _, what in found} == set(known), "a pause that is gone is none to know of"


@pytest.mark.parametrize(
    "source",
    [
        "time.sleep(1)",
        "asyncio.sleep(1)",
        "gevent.sleep()",
        "from time import sleep",
        "from time import sleep as rest",
        "sleep(1)",
        "self.clock.sleep(1)",
        "task.apply_async((), countdown=3)",
        "task.apply_async((), eta=soon)",
        "task.signature((), countdown=3)",
        "self.retry()",
        "raise self.retry(exc=error)",
        "Event().wait(1)",
        "nobody.wait(seconds)",
        "app.current_task.retry()",
    ],
)
def test_a_wait_is_found(source):
    """Guards `waits_in`."""
    assert list(waits_in(source))


@pytest.mark.parametrize(
    "source",
    [
        "await flow.sleep(hours(1))",
        "def sleep(self): ...",
        "stage.retry.allows_another(1)",
        "stage(retry=Retry())",
        "stopped.wait(1)",
    ],
)
def test_what_does_not_wait_in_a_worker_is_let_be(source):
    assert not list(waits_in(source))


# -- names on the wire ---------------------------------------------------------------------------
#
# Old and new workers share one broker and one database during a deploy. A changed name is a message
# that nobody takes, a wake-up that nobody hears, or a second index of timers.


class Recorder:
    """In the place of a Redis client: which keys are used. Nothing is sent."""

    def __init__(self) -> None:
        self.used: dict[str, object] = {}

    def register_script(self, script: str):
        name = "arm" if "ZADD" in script else "move"

        def call(*, keys: list[str], args: list[object]) -> list[int]:
            self.used[name] = (keys, args[0])
            return [0, -1, 0]

        return call

    def set(self, key: str, _value: str, **options: object) -> bool:
        self.used["rebuild" if options else "epoch"] = key
        return True

    def delete(self, key: str) -> None:
        self.used["rebuilt"] = key

    def zrem(self, key: str, member: str) -> None:
        self.used["disarm"] = (key, member)


def test_our_celery_tasks_keep_their_names():
    app = Celery("app", broker="memory://")
    install(app, registry=Registry(), settings=Settings.model_construct())
    assert (ADVANCE, FIRE) == ("perennial.advance", "perennial.fire")
    ours = {name for name in app.tasks if not name.startswith("celery.")}
    assert ours == {"perennial.advance", "perennial.fire"}


def test_the_keys_in_redis_keep_their_names():
    redis, timer = Recorder(), UUID(int=7)
    timer_index = TimerIndex(
        redis,  # type: ignore[arg-type]
        namespace=Settings.model_fields["namespace"].default,
        default_queue="celery",
        key_prefix="",
        template="",
    )
    timer_index.arm([ArmedTimer(timer, 1.0, "slow")])
    timer_index.move()
    timer_index.disarm([(timer, None)])
    timer_index.may_rebuild()
    timer_index.rebuilt()
    assert redis.used == {
        "arm": (["perennial:due", "perennial:wake"], f"{timer}:slow"),
        "move": (["perennial:due", "perennial:epoch"], 200),
        "disarm": ("perennial:due", f"{timer}:celery"),
        "rebuild": "perennial:rebuild",
        "rebuilt": "perennial:rebuild",
        "epoch": "perennial:epoch",
    }


def test_what_a_message_carries_keeps_its_order():
    from orchestrator.fleet.publisher import _messages_of

    one, two = UUID(int=7), UUID(int=8)
    turns, stage = (
        [Handoff.advance(run_id, None) for run_id in (one, two)],
        Handoff(one, "ship#2", 3, "ship", None),
    )
    assert list(_messages_of([*turns, stage], 20)) == [
        (turns[0], (str(one), str(two))),
        (stage, (str(one), "ship#2", 3)),
    ]


def test_the_schema_and_the_channel_keep_their_names():
    assert SCHEMA == "perennial"
    assert NOTIFY_CHANNEL == "perennial_outbox"


@pytest.mark.parametrize("module", [approvals, close, commit, outbox, settle, signals, start])
def test_sql_speaks_of_the_same_names(module):
    """SQL text can't import a constant by itself: what it spells out must be what is pinned above."""
    told = " ".join(
        value.sql if isinstance(value, Statement) else value
        for value in vars(module).values()
        if isinstance(value, Statement | str)
    )
    assert set(re.findall(r"'(perennial\.\w+)'", told)) == {ADVANCE}
    assert set(re.findall(r"pg_notify\('(\w+)'", told)) <= {NOTIFY_CHANNEL}


# -- what users import ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", orchestrator.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    """A dataclass without a docstring is given its signature for one: that says nothing."""
    said = inspect.getdoc(getattr(orchestrator, name))
    assert said, f"orchestrator.{name} has no docstring"
    assert not said.startswith(f"{name}("), f"orchestrator.{name} has no docstring of its own"


# Runs before anything of ours is imported. An audit hook sees sockets whoever opens them; reads of the
# environment are those by our modules, and anybody's that could be of our settings.
PROBE = """
import os, sys

seen = []


def watch(event, arguments):
    if event in ("socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo"):
        seen.append(f"{event}{arguments[1:]}")


sys.addaudithook(watch)


def reader():
    frame = sys._getframe(2)
    while frame.f_globals["__name__"] in ("os", "_collections_abc", "collections.abc"):
        frame = frame.f_back
    return frame.f_globals["__name__"]


class Watched(type(os.environ)):
    def __getitem__(self, key):
        who = reader()
        if who.split(".")[0] in ("__main__", "orchestrator", "tasks") or key.startswith("PERENNIAL_"):
            seen.append(f"{who} reads {key}")
        return super().__getitem__(key)

    def __iter__(self):
        seen.append(f"{reader()} reads the environment")
        return super().__iter__()


os.environ.__class__ = Watched
"""
TELL = """
for name in (
    "alembic", "celery", "kombu", "psycopg", "redis", "sqlalchemy",
    "orchestrator.client", "orchestrator.engine", "orchestrator.fleet", "orchestrator.store",
):
    if name in sys.modules:
        seen.append(f"{name} was imported")
print("\\n".join(seen))
"""


def seen_while(code: str) -> list[str]:
    """What the probe saw in an interpreter of its own, with settings that nobody could use."""
    done = subprocess.run(
        [sys.executable, "-c", f"{PROBE}\n{code}\n{TELL}"],
        cwd=ROOT,
        env={
            "PATH": "",
            "PERENNIAL_DATABASE_URL": "poison://nowhere",
            "PERENNIAL_BROKER_URL": "poison://nowhere",
            "PERENNIAL_HEARTBEAT_SECONDS": "poison",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


@pytest.mark.parametrize(
    ("module", "its_own"),
    [
        ("orchestrator", []),
        # The directory that this example changes is a database, so the example's client is SQLAlchemy.
        ("tasks.access_request", ["sqlalchemy was imported"]),
    ],
)
def test_to_import_a_process_takes_no_server_no_settings_and_no_celery(module, its_own):
    """A process's module is imported by workers, web servers, tests and editors. That may be before
    the environment is set, before a fork, and where Celery and SQLAlchemy are slow or not wanted.
    """
    assert seen_while(f"import {module}") == its_own


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import socket; socket.socket().close()", "socket.__new__"),
        ("import socket; socket.getaddrinfo('127.0.0.1', 80)", "socket.getaddrinfo"),
        ("os.environ.get('HOME')", "__main__ reads HOME"),
        ("os.getenv('HOME')", "__main__ reads HOME"),
        ("'HOME' in os.environ", "__main__ reads HOME"),
        ("dict(os.environ)", "__main__ reads the environment"),
        ("import sqlalchemy", "sqlalchemy was imported"),
        ("from orchestrator import Client", "orchestrator.client was imported"),
        (
            "from orchestrator import Settings\ntry: Settings()\nexcept ValueError: pass",
            "pydantic_settings",
        ),
    ],
)
def test_what_an_import_must_not_do_is_seen(code, found):
    """Guards the probe."""
    assert any(found in line for line in seen_while(code))


# -- what the repository holds -------------------------------------------------------------------

# Put together here, so that this file doesn't hold them.
NOWHERE_ELSE = [
    "/" + "work/",
    "/tmp/" + "scratch",
    "pypi" + ".org",
    "files." + "pythonhosted",
]


def test_no_file_names_a_machine_or_a_registry():
    """A path of one machine is wrong on every other. Which index packages come from is for whoever
    installs them to say: a host in a file or a lock would overrule their mirror.
    """
    found = []
    for name in tracked():
        text = (ROOT / name).read_bytes().decode("utf-8", errors="replace")
        found += [f"{name}: {words}" for words in NOWHERE_ELSE if words in text]
    assert found == []


def test_no_module_is_too_long_to_be_read_at_once():
    """A module that has grown beyond this has two reasons to change: split it by them, not by its
    length. Tests are left out: a long list of cases has one reason.
    """
    long = {
        name: count
        for name in modules()
        if (count := (ROOT / name).read_text().count("\n")) > LINES_MAX
    }
    assert not long, f"over {LINES_MAX} lines; find the second reason to change, and split: {long}"


def test_the_repository_is_seen():
    """Guards `tracked`: the rules above would hold over an empty list."""
    assert "orchestrator/core/replay.py" in modules()
    assert {"README.md", "pyproject.toml"} <= set(tracked())
