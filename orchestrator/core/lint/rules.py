"""What is looked for in flow code: why it is wrong there, and what to write instead.

A flow is replayed from its journal: each time it must ask for the same, and nothing of it may be done twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """The mistakes, each by the word that `perennial lint` names it with."""

    FOREIGN_AWAIT = "foreign-await"
    CLOCK = "clock"
    SLEEP = "sleep"
    CHANCE = "chance"
    OUTSIDE = "outside"
    THREAD = "thread"
    SHARED_STATE = "shared-state"
    SWALLOWED = "swallowed"
    UNSTABLE_KEY = "unstable-key"
    NOT_AWAITED = "not-awaited"
    CALLED_DIRECTLY = "called-directly"
    SET_ORDER = "set-order"
    NO_REASON = "no-reason"


@dataclass(frozen=True, slots=True)
class Advice:
    """`why` it is wrong, and what to write instead."""

    why: str
    instead: str


ADVICE = {
    Rule.FOREIGN_AWAIT: Advice(
        "no event loop drives a flow: between two awaits it rests in the record",
        "await flow.stage(…), flow.step(…), flow.sleep(…), flow.signal(…) and their kin; what needs a loop is an "
        "`async def` stage",
    ),
    Rule.CLOCK: Advice(
        "a replay reads another time, and so decides otherwise",
        "flow.now, which is the same at each replay",
    ),
    Rule.SLEEP: Advice(
        "it holds a worker for as long as it lasts, at each replay anew",
        "await flow.sleep(…): a row in the record, and no worker",
    ),
    Rule.CHANCE: Advice(
        "a replay rolls other dice, and so decides otherwise",
        "flow.random() or flow.uuid(); what must be secret is made in a step or a stage",
    ),
    Rule.OUTSIDE: Advice(
        "it is done again at each replay, and what it finds then is recorded nowhere",
        "do it in a stage, or in a function that is called by await flow.step(…)",
    ),
    Rule.THREAD: Advice(
        "a flow runs in one thread, a moment at a time; nobody waits for what another thread does",
        "several at once: flow.gather(…), flow.map(…); work that takes time: a stage",
    ),
    Rule.SHARED_STATE: Advice(
        "the module's state is another one in each worker, and at each replay",
        "keep it in a variable of the flow, or let a stage keep it in your database",
    ),
    Rule.SWALLOWED: Advice(
        "it catches what isn't meant for it: a branch's cancellation, or a bug that was to park the run",
        "catch what may happen: ActivityFailed, WaitTimedOut; clean up in `finally`",
    ),
    Rule.UNSTABLE_KEY: Advice(
        "a key is how a replay finds what was asked for: this one is another each time",
        "make it of what the flow knows: its input, results, flow.uuid(…)",
    ),
    Rule.NOT_AWAITED: Advice(
        "it is asked for and nobody waits for it: it is done or not, by chance",
        "write `await` before it, or await it later, alone or in flow.gather(…)",
    ),
    Rule.CALLED_DIRECTLY: Advice(
        "it is done unrecorded, and again at each replay",
        "await flow.stage(…) for a stage, await flow.step(…) for a function",
    ),
    Rule.SET_ORDER: Advice(
        "the order of a set is another one in each process, and with it the order of what is asked for",
        "go over sorted(…), or keep a list or a dict",
    ),
    Rule.NO_REASON: Advice(
        "whoever reads it next must know why this one is fine",
        "# perennial: allow <the reason>",
    ),
}
"""By rule."""

LOOPS = ("asyncio", "anyio", "trio", "curio")
CLIENTS = (
    *(
        "httpx",
        "aiohttp",
        "requests",
        "urllib3",
        "urllib.request",
        "socket",
        "smtplib",
        "ftplib",
        "http.client",
    ),
    *(
        "subprocess",
        "boto3",
        "psycopg",
        "psycopg2",
        "asyncpg",
        "redis",
        "sqlite3",
        "pymongo",
        "grpc",
    ),
)
"""Modules of which any call is one to the outside."""

CALLS: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"),
            *(
                "datetime.date.today",
                "django.utils.timezone.now",
                "django.utils.timezone.localdate",
            ),
            *("pendulum.now", "pendulum.today", "arrow.now", "arrow.utcnow"),
            *(
                f"time.{name}"
                for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter")
            ),
            *(
                f"time.{name}"
                for name in ("perf_counter_ns", "process_time", "localtime", "gmtime")
            ),
        ),
        Rule.CLOCK,
    ),
    **dict.fromkeys(
        ("time.sleep", "asyncio.sleep", "gevent.sleep", "anyio.sleep", "trio.sleep"), Rule.SLEEP
    ),
    **dict.fromkeys(
        ("uuid.uuid1", "uuid.uuid4", "uuid.uuid6", "uuid.uuid7", "os.urandom"), Rule.CHANCE
    ),
    **dict.fromkeys(
        (
            "open",
            "input",
            "os.getenv",
            "os.environ.get",
            "os.system",
            "os.popen",
            "os.listdir",
            "os.getpid",
        ),
        Rule.OUTSIDE,
    ),
    **dict.fromkeys(
        (
            "asyncio.to_thread",
            "asyncio.create_task",
            "asyncio.ensure_future",
            "asyncio.run",
            "os.fork",
        ),
        Rule.THREAD,
    ),
    "orchestrator.step": Rule.CALLED_DIRECTLY,
    "orchestrator.idempotency_key": Rule.CALLED_DIRECTLY,
}
"""By what is called."""

MODULES: dict[str, Rule] = {
    **dict.fromkeys(("random", "secrets", "numpy.random"), Rule.CHANCE),
    **dict.fromkeys(CLIENTS, Rule.OUTSIDE),
    **dict.fromkeys(("threading", "concurrent.futures", "multiprocessing"), Rule.THREAD),
    **dict.fromkeys(LOOPS, Rule.FOREIGN_AWAIT),
}
"""By the module of what is called. A seeded `random.Random(…)` is none: it is the same each time."""

METHODS = dict.fromkeys(
    ("read_text", "write_text", "read_bytes", "write_bytes", "iterdir", "rglob"), Rule.OUTSIDE
)
"""Of a Path, whatever it is called."""


def rule_of_call(what: str) -> Rule | None:
    """The rule against calling that in a flow; None: there is none. `what`: dotted, from the root of its module."""
    if what in CALLS:
        return CALLS[what]
    if what == "random.Random":
        return None
    module = what
    while "." in module:
        module = module.rpartition(".")[0]
        if module in MODULES:
            return MODULES[module]
    return None
