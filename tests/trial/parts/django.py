"""Django: every verb inside `atomic()`, on Django's own connection; what is rolled back never was."""

from __future__ import annotations

from sqlalchemy import make_url

from tests.trial.ground import Ground, check

FLOWS = """
from orchestrator import Flow, hours, process


@process(name="order", version=1)
async def order(flow: Flow, amount: int) -> None:
    await flow.approval("boss", assign=["ann"], timeout=hours(8))
    await flow.signal("paid")
"""

SITE = """
import os

import django
from django.conf import settings

settings.configure(
    USE_TZ=True,
    TIME_ZONE="Asia/Tokyo",
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["DB_NAME"],
        "USER": os.environ["DB_USER"],
        "PASSWORD": os.environ["DB_PASSWORD"],
        "HOST": os.environ["DB_HOST"],
        "PORT": os.environ["DB_PORT"],
    }},
)
django.setup()


class Stop(Exception):
    pass
"""

START = """
from contextlib import suppress

from site_settings import Stop
from django.db import connection
from django.db.transaction import atomic

from flows import order
from orchestrator import Client

client = Client()
client.processes.deploy(order)
with suppress(Stop), atomic():
    client.start("order", 1, key="never", connection=connection)
    raise Stop
assert client.operations.counts() == {}, client.operations.counts()
with atomic():
    client.start("order", 1, key="k", connection=connection)
    with suppress(Stop), atomic():
        client.start("order", 2, key="inner", connection=connection)
        raise Stop
    assert client.operations.counts() == {}, client.operations.counts()
assert [run.business_key for run in client.list()] == ["k"], client.list()
"""

DECIDE = """
from contextlib import suppress

from site_settings import Stop
from django.db import connection
from django.db.transaction import atomic

from orchestrator import Client

client = Client()
with suppress(Stop), atomic():
    client.reject("k", by="ann", connection=connection)
    raise Stop
with atomic():
    decision = client.approve("k", by="ann", connection=connection)
    assert decision.at.utcoffset().total_seconds() == 0, decision
    client.signal("k", "paid", {"cents": 5}, connection=connection)
with atomic():
    client.operations.pause("k", connection=connection)
with atomic():
    client.operations.resume("k", connection=connection)
"""

WORKER = """
import os

from celery import Celery

import flows
from orchestrator import install

app = Celery("orders", broker=os.environ["PERENNIAL_BROKER_URL"])
app.conf.task_default_queue = "trial-django"
install(app)
"""

LOOK = """
from orchestrator import Client

run = Client().get("k")
print(f"{run.status}: {run.waiting_for}")
"""


def django(ground: Ground) -> str:
    """A producer with a worker beside it, and a person who decides in a view."""
    venv = ground.venv("django>=5.2,<6")
    python = venv.path("python")
    files = {
        "flows.py": FLOWS,
        "site_settings.py": SITE,
        "start.py": START,
        "decide.py": DECIDE,
        "orders.py": WORKER,
        "look.py": LOOK,
    }
    space, database = ground.space("django", files), ground.database()
    url = make_url(database)
    environment = ground.environment(
        PERENNIAL_DATABASE_URL=database,
        PERENNIAL_BROKER_URL=ground.servers.broker_url,
        DB_NAME=url.database or "",
        DB_USER=url.username or "",
        DB_PASSWORD=str(url.password or ""),
        DB_HOST=url.host or str(url.query.get("host", "")),
        DB_PORT=str(url.port or url.query.get("port", "")),
    )

    def told(program: str) -> str:
        return ground.run([python, program], cwd=space, environment=environment).strip()

    ground.run([venv.path("perennial"), "db", "upgrade"], environment=environment)
    told("start.py")
    ground.start(
        [*f"{python} -m celery -A orders worker --pool solo --loglevel WARNING".split()],
        cwd=space,
        environment=environment,
    )
    log = space / "worker.log"
    ground.wait_for(
        lambda: told("look.py") == "waiting: approval boss", "the run asks its boss", log=log
    )
    told("decide.py")
    ground.wait_for(
        lambda: told("look.py").startswith("completed"), "the run is completed", log=log
    )
    check(told("look.py") == "completed: None", told("look.py"))
    return (
        "start, approve, reject, signal, pause and resume in atomic(); rolled back, they never were"
    )
