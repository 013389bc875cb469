"""A producer behind PgBouncer, which lends a session for one transaction; the worker goes to Postgres itself."""

from __future__ import annotations

import os
import pwd
import shutil

import psycopg
from sqlalchemy import make_url

from tests.trial.ground import Ground, NotRun, check, free_port

INI = """
[databases]
pooled = {target}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 100
logfile = {folder}/pgbouncer.log
pidfile = {folder}/pgbouncer.pid
"""

APP = """
import os

from celery import Celery

from orchestrator import Flow, install, process, stage

app = Celery("pooled", broker=os.environ["PERENNIAL_BROKER_URL"])
app.conf.task_default_queue = "trial-pgbouncer"


@stage
def double(amount: int) -> int:
    return amount * 2


@process(name="order", version=1)
async def order(flow: Flow, amount: int) -> int:
    await flow.approval("boss", assign=["ann"])
    await flow.signal("paid")
    return await flow.stage(double, amount)


install(app)
"""

PRODUCER = """
from concurrent.futures import ThreadPoolExecutor

from orchestrator import Client

with Client() as client, ThreadPoolExecutor(8) as threads:
    runs = list(threads.map(lambda n: client.start("order", n), range(40)))

    def go(run):
        while not client.approvals(run=run):
            pass
        client.approve(run, by="ann")
        client.signal(run, "paid")
        return client.result(run, timeout_seconds=60)

    assert list(threads.map(go, runs)) == [n * 2 for n in range(40)]
    client.cancel(client.start("order", 1), by="ops")
    print("runs")
"""

SHOWN = ("plan_cache_mode", "TimeZone", "idle_in_transaction_session_timeout", "search_path")


def pgbouncer(ground: Ground) -> str:
    """Forty runs from start to result, through two server sessions that nobody else feels."""
    command = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if command is None:
        raise NotRun("PgBouncer is not on this machine (Debian: apt-get install pgbouncer)")
    venv, database = ground.venv(), ground.database()
    port, space = (
        free_port(),
        ground.space("pgbouncer", {"pooled.py": APP, "producer.py": PRODUCER}),
    )
    url = make_url(database)
    parts = {
        "host": url.host or str(url.query.get("host", "")),
        "port": str(url.port or url.query.get("port", "")),
        "user": url.username or "",
        "password": str(url.password or ""),
        "dbname": url.database or "",
    }
    target = " ".join(f"{name}='{value}'" for name, value in parts.items() if value)
    (space / "pgbouncer.ini").write_text(INI.format(target=target, port=port, folder=space))
    start = [command, str(space / "pgbouncer.ini")]
    if os.geteuid() == 0:  # it refuses to run as root
        account = pwd.getpwnam("postgres" if _is_there("postgres") else "nobody")
        for path in (space, *space.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid)
        start = [
            "setpriv",
            f"--reuid={account.pw_uid}",
            f"--regid={account.pw_gid}",
            "--clear-groups",
            *start,
        ]
    pooled = f"postgresql://anybody@127.0.0.1:{port}/pooled"
    direct = ground.environment(
        PERENNIAL_DATABASE_URL=database, PERENNIAL_BROKER_URL=ground.servers.broker_url
    )
    through = {**direct, "PERENNIAL_DATABASE_URL": pooled}
    ground.start(start, cwd=space, environment=direct, log="start")

    def answers() -> bool:
        try:
            psycopg.connect(pooled, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    ground.wait_for(answers, "PgBouncer answers", 15, log=space / "start.log")
    before = _settings(pooled)
    ground.run([venv.path("perennial"), "db", "upgrade"], environment=direct)
    ground.run([venv.path("perennial"), "--app", "pooled", "deploy"], cwd=space, environment=direct)
    ground.start(
        [venv.path("celery"), "-A", "pooled", "worker", "--pool", "solo", "--loglevel", "WARNING"],
        cwd=space,
        environment=direct,
    )
    python = venv.path("python")
    for way in ({}, {"PERENNIAL_DATABASE_POOLER": "transaction"}):
        said = ground.run([python, "producer.py"], cwd=space, environment={**through, **way})
        check("runs" in said, said)
        check(
            _settings(pooled) == before,
            f"others feel our settings: {_settings(pooled)}, not {before}",
        )
    worker = space / "behind.log"
    ground.start(
        [*f"{venv.path('celery')} -A pooled worker --pool solo --loglevel WARNING".split()],
        cwd=space,
        environment=through,
        log="behind",
    )
    ground.wait_for(
        lambda: "a pooler stands between this worker and Postgres" in worker.read_text(),
        "a worker behind the pooler says so",
        log=worker,
    )
    return "80 runs from start to result through two server sessions; a worker behind them says so"


def _settings(pooled: str) -> set[tuple[str, ...]]:
    """What others find in the pool's sessions."""
    found = set()
    with (
        psycopg.connect(pooled, prepare_threshold=None) as one,
        psycopg.connect(pooled, prepare_threshold=None) as two,
    ):
        for connection in (one, two):  # both in a transaction at once: both server sessions
            found.add(tuple(str(connection.execute(f"SHOW {name}").fetchone()) for name in SHOWN))
    return found


def _is_there(account: str) -> bool:
    try:
        pwd.getpwnam(account)
    except KeyError:
        return False
    return True
