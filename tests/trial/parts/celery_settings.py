"""Celery's pools and settings, as teams have them: with each, a run with a timer and a stage goes its way."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.trial.ground import Failed, Ground, check, free_port

APP = """
import json
import os

from celery import Celery

from orchestrator import Flow, install, process, seconds, stage

app = Celery("set", broker=os.environ["PERENNIAL_BROKER_URL"])
app.conf.task_default_queue = os.environ["QUEUE"]
app.conf.update(json.loads(os.environ["CONF"]))


@app.task(name="mine.add")
def add(a, b):
    return a + b


@stage(name="double")
def double(amount: int) -> int:
    return amount * 2


@process(name="order", version=1)
async def order(flow: Flow, amount: int) -> int:
    await flow.sleep(seconds(0.2))
    return await flow.stage(double, amount)


install(app)
"""

RUN = """
import uuid
from orchestrator import Client

with Client() as client:
    print(client.result(client.start("order", 21, key=uuid.uuid4().hex), timeout_seconds=20))
"""


@dataclass(frozen=True)
class Case:
    """How a worker is started, and what its app has set."""

    name: str
    options: str = "--pool solo"
    conf: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("prefork", "--pool prefork --concurrency 2"),
    Case("threads", "--pool threads --concurrency 4"),
    Case("solo"),
    Case("gevent", "--pool gevent --concurrency 10"),
    Case("a task's limit of runs", "--pool prefork --concurrency 1 --max-tasks-per-child 1"),
    Case("late acknowledgement", conf={"task_acks_late": True, "worker_prefetch_multiplier": 1}),
    Case("time limits", "--pool prefork --concurrency 1 --time-limit 30 --soft-time-limit 20"),
    Case("results ignored", conf={"task_ignore_result": True}),
    Case(
        "states tracked, events sent",
        "--pool solo -E",
        {"task_track_started": True, "task_send_sent_event": True},
    ),
    Case(
        "other serializer, json accepted",
        conf={"task_serializer": "yaml", "accept_content": ["json", "yaml"]},
    ),
    Case("compressed", conf={"task_compression": "gzip"}),
    Case("a key prefix", conf={"broker_transport_options": {"global_keyprefix": "acme:"}}),
    Case(
        "no acknowledgement emulation", conf={"broker_transport_options": {"ack_emulation": False}}
    ),
    Case("another time zone, no UTC", conf={"timezone": "Asia/Tokyo", "enable_utc": False}),
    Case(
        "a rate limit on its own task",
        conf={"task_annotations": {"mine.add": {"rate_limit": "1/m"}}},
    ),
    Case(
        "missing queues not made",
        conf={"task_create_missing_queues": True, "task_remote_tracebacks": True},
    ),
    Case(
        "no gossip, mingle or heartbeat",
        "--pool solo --without-gossip --without-mingle --without-heartbeat",
    ),
    Case(
        "retries of the whole app",
        conf={"task_publish_retry": False, "task_reject_on_worker_lost": True},
    ),
)


def celery_settings(ground: Ground) -> str:
    """Each case on a queue of its own. All are tried, and what failed is named."""
    venv, database = ground.venv("gevent", "pyyaml"), ground.database()
    space = ground.space("settings", {"set_app.py": APP, "run.py": RUN})
    common = ground.environment(
        PERENNIAL_DATABASE_URL=database, PERENNIAL_BROKER_URL=ground.servers.broker_url
    )
    ground.run([venv.path("perennial"), "db", "upgrade"], environment=common)
    ground.run(
        [venv.path("perennial"), "--app", "set_app", "deploy"],
        cwd=space,
        environment={**common, "QUEUE": "none", "CONF": "{}"},
    )
    failed = []
    for number, case in enumerate(CASES):
        environment = {
            **common,
            "QUEUE": f"trial-set-{number}",
            "CONF": json.dumps(case.conf),
            "PERENNIAL_NAMESPACE": f"trial-set-{number}",
        }
        log = f"worker-{number}"
        worker = ground.start(
            [
                venv.path("celery"),
                "-A",
                "set_app",
                "worker",
                *case.options.split(),
                "--loglevel",
                "INFO",
                "-n",
                f"w{number}@{free_port()}",
            ],
            cwd=space,
            environment=environment,
            log=log,
        )
        try:
            said = ground.run([venv.path("python"), "run.py"], cwd=space, environment=environment)
            check(said.strip() == "42", said)
        except Failed as why:
            failed.append(f"{case.name}: {str(why).splitlines()[-1]} (log: {log}.log)")
        ground.end(worker)
    if failed:
        raise Failed(f"{len(failed)} of {len(CASES)} failed:\n" + "\n".join(failed))
    return f"{len(CASES)} pools and settings"
