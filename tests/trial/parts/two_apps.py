"""Two apps on one database: neither sends the other's handoffs where its own are awaited, nor waits for them."""

from __future__ import annotations

from tests.trial.ground import Ground, check

APP = """
import os

from celery import Celery

from orchestrator import Flow, install, process, stage

NAME = os.environ["NAME"]
app = Celery(NAME, broker=os.environ["PERENNIAL_BROKER_URL"])
app.conf.task_default_queue = f"trial-{NAME}"


@stage(name=f"{NAME}-work")
def work(number: int) -> str:
    return f"{NAME} {number}"


@process(name=f"{NAME}-order", version=1)
async def order(flow: Flow, number: int) -> str:
    return await flow.stage(work, number)


install(app)
"""

PRODUCER = """
import os
import time

from orchestrator import Client

name = os.environ["NAME"]
with Client() as client:
    began = time.monotonic()
    runs = [client.start(f"{name}-order", n, key=f"order {n}") for n in range(20)]
    results = [client.result(run, timeout_seconds=30) for run in runs]
    assert results == [f"{name} {n}" for n in range(20)], results
    assert len(client.list(process=f"{name}-order", limit=100)) == 20
    print(round(time.monotonic() - began, 1))
"""

SECONDS_MAX = 5.0


def two_apps(ground: Ground) -> str:
    """Twenty short runs each, under the same business keys."""
    venv, database = ground.venv(), ground.database()
    environments, spaces = {}, {}
    for name in ("shop", "desk"):
        space = spaces[name] = ground.space(name, {"both.py": APP, "producer.py": PRODUCER})
        environment = environments[name] = ground.environment(
            NAME=name,
            PERENNIAL_DATABASE_URL=database,
            PERENNIAL_BROKER_URL=ground.servers.broker_url,
            PERENNIAL_NAMESPACE=name,
        )
        ground.run([venv.path("perennial"), "db", "upgrade"], environment=environment)
        ground.run(
            [venv.path("perennial"), "--app", "both", "deploy"], cwd=space, environment=environment
        )
        ground.start(
            [
                venv.path("celery"),
                "-A",
                "both",
                "worker",
                "--pool",
                "solo",
                "--loglevel",
                "WARNING",
            ],
            cwd=space,
            environment=environment,
        )
    seconds = []
    for name, space in spaces.items():  # the other's workers are there, with nothing else to do
        said = ground.run(
            [venv.path("python"), "producer.py"], cwd=space, environment=environments[name]
        )
        seconds.append(float(said))
    check(max(seconds) < SECONDS_MAX, f"twenty short runs took {seconds} s")
    return f"20 runs each in {' and '.join(f'{each} s' for each in seconds)}"
