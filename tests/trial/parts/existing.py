"""A Celery app that exists, with tasks of its own: nine checks, before `install(app)` and after, are equal."""

from __future__ import annotations

import json

from tests.trial.ground import Ground, check

APP = """
import os

from celery import Celery, Task, chain, chord, group, signals

app = Celery("shop", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(
    task_default_queue=os.environ["QUEUE"],
    task_routes={"shop.mail": {"queue": os.environ["QUEUE"] + "-mail"}},
    task_acks_late=True,
    broker_transport_options={"global_keyprefix": os.environ["QUEUE"]},
    result_backend_transport_options={"global_keyprefix": os.environ["QUEUE"]},
)
NOTES = os.environ["NOTES"]


def note(what):
    with open(NOTES, "a") as file:
        file.write(what + "\\n")


class Telling(Task):
    def on_failure(self, exc, task_id, args, kwargs, einfo):
        note(f"on_failure {exc}")


@signals.task_failure.connect
def failed(sender=None, exception=None, **_):
    note(f"task_failure {sender.name} {exception}")


@app.task(name="shop.add")
def add(a, b):
    return a + b


@app.task(name="shop.total")
def total(numbers):
    return sum(numbers)


@app.task(name="shop.flaky", bind=True, autoretry_for=(ConnectionError,), retry_backoff=False,
          default_retry_delay=0, retry_jitter=False)
def flaky(self):
    if self.request.retries < 2:
        raise ConnectionError("not yet")
    return self.request.retries


@app.task(name="shop.again", bind=True, max_retries=3)
def again(self):
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    return "done"


@app.task(name="shop.mail", bind=True)
def mail(self):
    return self.request.delivery_info["routing_key"].rpartition("-")[2]


@app.task(name="shop.bad", base=Telling)
def bad():
    raise ValueError("no stock")


@app.task(name="shop.progress", bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={"at": 1})
    return bool(self.request.id)


if os.environ.get("INSTALL"):
    from orchestrator import Flow, install, process, stage

    @stage(name="price")
    def price(amount):
        return amount * 2

    @process(name="order", version=1)
    async def order(flow: Flow, amount: int) -> int:
        return await flow.stage(price, amount)

    install(app)
"""

CHECKS = """
import json
from datetime import UTC, datetime, timedelta

from shop import add, again, app, bad, chain, chord, flaky, group, mail, progress, total

wait = {"timeout": 30}
found = {
    "delay": add.delay(1, 2).get(**wait),
    "autoretry": flaky.delay().get(**wait),
    "retry": again.delay().get(**wait),
    "chain": chain(add.s(1, 2), add.s(4))().get(**wait),
    "group": group(add.s(n, n) for n in range(3))().get(**wait),
    "chord": chord((add.s(n, n) for n in range(3)), total.s())().get(**wait),
    "eta": add.apply_async((2, 2), eta=datetime.now(UTC) + timedelta(seconds=1)).get(**wait),
    "route": mail.delay().get(**wait),
    "progress": progress.delay().get(**wait),
}
try:
    bad.delay().get(**wait)
except ValueError as error:
    found["failure"] = str(error)
print(json.dumps(found))
"""

RUN = """
from orchestrator import Client

client = Client()
run = client.start("order", 21)
print(client.result(run, timeout_seconds=30))
"""


def existing(ground: Ground) -> str:
    """Without Perennial, and with it: the same answers, the same notes."""
    venv = ground.venv()
    space = ground.space("existing", {"shop.py": APP, "checks.py": CHECKS, "run.py": RUN})
    python = venv.path("python")
    found = {}
    for way in ("before", "after"):
        queue = f"trial-{way}"
        environment = ground.environment(
            BROKER=ground.servers.broker_url, QUEUE=queue, NOTES=str(space / f"notes-{way}")
        )
        if way == "after":
            environment |= {
                "INSTALL": "1",
                "PERENNIAL_DATABASE_URL": ground.database(),
                "PERENNIAL_BROKER_URL": ground.servers.broker_url,
            }
            ground.run([venv.path("perennial"), "db", "upgrade"], environment=environment)
            ground.run(
                [venv.path("perennial"), "--app", "shop", "deploy"],
                cwd=space,
                environment=environment,
            )
        worker = ground.start(
            [
                python,
                "-m",
                "celery",
                "-A",
                "shop",
                "worker",
                "--queues",
                f"{queue},{queue}-mail",
                "--concurrency",
                "2",
                "--loglevel",
                "WARNING",
            ],
            cwd=space,
            environment=environment,
            log=way,
        )
        said = ground.run([python, "checks.py"], cwd=space, environment=environment)
        notes = sorted((space / f"notes-{way}").read_text().splitlines())
        found[way] = (json.loads(said), notes)
        if way == "after":
            said = ground.run([python, "run.py"], cwd=space, environment=environment)
            check(said.strip() == "42", f"a run beside them came to {said!r}")
        ground.end(worker)
    before, after = found["before"], found["after"]
    check(before[1] == ["on_failure no stock", "task_failure shop.bad no stock"], str(before))
    check(before == after, f"before: {before}\nafter: {after}")
    return f"{len(before[0])} checks are equal before and after; a run goes its way beside them"
