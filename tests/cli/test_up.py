"""`perennial up` on real servers: one fleet, and every command against it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil
import pytest
from typer.testing import CliRunner, Result

from orchestrator.cli.app import app
from orchestrator.embedded import EmbeddedServerError, binaries

pytestmark = pytest.mark.slow

SOON_SECONDS_MAX = 30

APP = """
import os
from celery import Celery
from orchestrator import Flow, approval, hours, install, process, stage

@stage(queue="packing")
def pack(order: dict) -> dict:
    return {"packed": order["item"]}

@approval("ask-boss", escalate_to=["director"])
def boss(order):
    return [order["boss"]]

@process(version=1)
async def ship(flow: Flow, order: dict) -> dict:
    await flow.stage(pack, order)
    await flow.approval("boss", assign=["alice"], escalate={hours(24): ["carol"]}, timeout=hours(48))
    return await flow.signal("posted")

app = Celery("shop", broker=os.environ["PERENNIAL_BROKER_URL"])
install(app)
"""

YAML = """
process:
  name: order
  stages: [pack, ask-boss]
  timers: {approval_timeout_hours: 48, escalation_after_hours: 24}
"""

WRONG_YAML = """
process:
  name: wrong
  stages: [pakc, ask-boss]
"""


class Shop:
    """A directory with an app and its `perennial up`; `perennial(...)` as typed there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.up: subprocess.Popen[str] | None = None
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PERENNIAL_") and name != "COLUMNS"
        } | {"PERENNIAL_APP": "shop", "USER": "ops", "LOGNAME": "ops", "COLUMNS": "100"}

    def start_up(self) -> dict[str, Any]:
        """Start `up`; the document it prints when all is ready."""
        with (self.home / "notes").open("w") as notes:
            self.up = subprocess.Popen(
                self._command("up", "order.yaml", "--concurrency", "1", "--json"),
                cwd=self.home,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=notes,
                text=True,
            )
        lines = []
        for line in self.up.stdout:
            lines.append(line)
            if line == "}\n":
                return json.loads("".join(lines))
        raise AssertionError((self.home / "notes").read_text())

    def stop_up(self, number: int = signal.SIGTERM) -> int:
        with self.up:  # closes its stdout
            self.up.send_signal(number)
            return self.up.wait(SOON_SECONDS_MAX)

    def perennial(self, *arguments: str) -> Result:
        """A command typed there, in this process: starting Python each time would take minutes."""
        where = ("--data-dir", str(self.home / ".perennial"))
        nothing = {"PERENNIAL_DATABASE_URL": None, "PERENNIAL_BROKER_URL": None}
        env = {**nothing, "USER": "ops", "LOGNAME": "ops", "COLUMNS": "100"}
        return CliRunner().invoke(app, [*where, *arguments], env=env)

    def apart(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same in a process of its own: for what imports the app."""
        return subprocess.run(
            self._command(*arguments),
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        done = self.perennial(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def refusal(self, *arguments: str) -> tuple[int, str]:
        done = self.perennial(*arguments, "--json")
        assert done.stdout == ""
        return done.exit_code, json.loads(done.stderr)["error"]["type"]

    def refusal_apart(self, *arguments: str) -> tuple[int, str]:
        done = self.apart(*arguments, "--json")
        assert done.stdout == ""
        return done.returncode, json.loads(done.stderr)["error"]["type"]

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from orchestrator.cli import main; main()", *arguments]


def soon(fact: Callable[[], Any]) -> Any:
    """The fact, once it is one."""
    give_up_at = monotonic() + SOON_SECONDS_MAX
    while not (found := fact()):
        assert monotonic() < give_up_at, "it did not come to pass"
        Event().wait(0.1)
    return found


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    try:
        binaries.find_postgres()
        binaries.find_redis()
    except EmbeddedServerError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    home = Path(tempfile.mkdtemp(prefix="perennial-up-"))  # short, for the socket's path
    home.chmod(0o711)  # as root, Postgres' own account has to pass through
    (home / "shop.py").write_text(APP)
    (home / "order.yaml").write_text(YAML)
    (home / "wrong.yaml").write_text(WRONG_YAML)
    made = Shop(home)
    yield made
    if made.up is not None and made.up.poll() is None:
        made.stop_up()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def fleet(shop: Shop) -> dict[str, Any]:
    """What the running `up` says of itself; the first to ask starts it."""
    if shop.up is None or shop.up.poll() is not None:
        shop.told = shop.start_up()
    return shop.told


def test_one_command_starts_servers_workers_flower_and_deploys(shop, fleet):
    assert set(fleet["pids"]) == {"worker-1", "worker-2", "flower"}
    deployed = {(each["name"], each["version"]) for each in fleet["processes"]}
    assert deployed == {("order", 1), ("ship", 1)}
    assert shop.json("db", "check")["current"] == shop.json("db", "current")["head"]


def test_the_urls_file_is_for_its_owner_alone(shop, fleet):
    assert (shop.home / fleet["urls_file"]).stat().st_mode & 0o777 == 0o600


def answer(url: str, login: str = "") -> tuple[int, str]:
    request = Request(url)
    if login:
        request.add_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
    try:
        with urlopen(request, timeout=10) as told:
            return told.status, told.read().decode()
    except HTTPError as refusal:
        return refusal.code, refusal.read().decode()
    except URLError:
        return 0, ""


def test_flower_answers_nobody_without_its_password(shop, fleet):
    """It lists what runs are about, and its buttons stop workers and revoke tasks."""
    url = fleet["flower_url"]
    soon(lambda: answer(url)[0])
    file = shop.home / fleet["flower_password_file"]
    assert file.stat().st_mode & 0o777 == 0o600
    login = f"{fleet['flower_user']}:{file.read_text().strip()}"
    for path in ("/", "/workers", "/tasks", "/broker", "/api/workers"):
        assert answer(url + path)[0] == 401
        assert answer(url + path, f"{fleet['flower_user']}:guess")[0] == 401
        assert answer(url + path, login)[0] == 200
    page = answer(url + "/tasks", login)[1]
    columns = [name for name in ("args", "result", "kwargs") if f'data-column="{name}"' in page]
    assert columns == [
        "args",
        "result",
        "kwargs",
    ]  # a run's key, whose turn it is, what it waits for


def test_no_password_of_the_fleet_is_in_a_log_an_answer_a_page_or_a_process_list(shop, fleet):
    secrets = {
        "valkey": (shop.home / ".perennial" / "redis" / "password").read_text().strip(),
        "flower": (shop.home / fleet["flower_password_file"]).read_text().strip(),
    }
    login = f"{fleet['flower_user']}:{secrets['flower']}"
    soon(lambda: answer(fleet["flower_url"])[0])
    pages = [answer(fleet["flower_url"] + path, login)[1] for path in ("/broker", "/workers")]
    pages += [answer(f"{fleet['flower_url']}/api/workers?refresh=true", login)[1]]
    logs = shop.home / ".perennial" / "logs"
    assert logs.stat().st_mode & 0o777 == 0o700
    shown = [
        (shop.home / "notes").read_text(),
        json.dumps(fleet),
        *pages,
        *(log.read_text() for log in logs.iterdir()),
        *(
            " ".join(each.cmdline())
            for each in psutil.Process(shop.up.pid).children(recursive=True)
        ),
    ]
    assert any("transport:   redis://" in text for text in shown), "a worker's banner"
    assert not [text for text in shown for secret in secrets.values() if secret in text]


def test_a_second_up_on_the_same_data_is_refused(shop, fleet):
    assert shop.refusal_apart("up") == (1, "FleetFailed")


def test_show_answers_at_each_wait_and_every_wrong_decision_is_refused(shop, fleet):
    shop.perennial("start", "ship", "--key", "s1", "--input", '{"item": "tea"}')
    (wait,) = soon(lambda: [w for w in shop.json("show", "s1")["waits"] if w["kind"] == "approval"])
    assert (wait["name"], wait["who"]) == ("boss", ["alice"])
    assert [each["what"] for each in wait["next"]] == ["escalates to carol", "times out"]
    assert "perennial approve s1 boss --by alice" in shop.perennial("show", "s1").stdout
    assert shop.refusal("approve", "s1", "--by", "bob") == (1, "NotAssigned")
    assert shop.refusal("approve", "s1", "later", "--by", "alice") == (1, "DecisionTooEarly")
    assert shop.json("approve", "s1", "--by", "alice", "--comment", "yes")["outcome"] == "approved"
    assert shop.refusal("reject", "s1", "boss", "--by", "alice") == (1, "AlreadyDecided")

    (wait,) = soon(lambda: [w for w in shop.json("show", "s1")["waits"] if w["kind"] == "signal"])
    assert "perennial signal s1 posted" in shop.perennial("show", "s1").stdout
    assert shop.refusal("result", "s1") == (1, "RunNotClosed")
    assert shop.json("signal", "s1", "posted", '{"code": 7}', "--id", "p")["accepted"] is True
    assert shop.json("result", "s1", "--wait", "20") == {"result": {"code": 7}}
    events = [entry["actor"] for entry in shop.json("history", "s1")["history"]]
    assert "alice" in events
    assert shop.refusal("cancel", "s1") == (1, "RunClosed")


def test_the_yaml_process_runs_and_a_key_starts_it_once(shop, fleet):
    start = ("start", "order", "--key", "o1", "--input", '{"item": "tea", "boss": "alice"}')
    assert [shop.json(*start)["created"] for _ in range(2)] == [True, False]
    inbox = soon(
        lambda: shop.json("approvals", "--for", "alice", "--process", "order")["approvals"]
    )
    assert [approval["business_key"] for approval in inbox] == ["o1"]
    shop.perennial("reject", "o1", "--by", "alice", "--comment", "no")
    assert shop.json("result", "o1", "--wait", "20")["result"]["outcome"] == "rejected"


def test_an_operator_pauses_resumes_and_cancels(shop, fleet):
    shop.perennial("start", "ship", "--key", "s2", "--input", '{"item": "tea"}')
    soon(lambda: shop.json("show", "s2")["status"] == "waiting")
    shop.perennial("pause", "s2")
    assert shop.json("show", "s2")["status"] == "paused"
    shop.perennial("resume", "s2")
    soon(lambda: shop.json("show", "s2")["status"] == "waiting")
    shop.perennial("cancel", "s2", "--reason", "twice")
    assert [row["status"] for row in shop.json("ps", "--key", "s2")["runs"]] == ["cancelled"]
    assert shop.refusal("result", "s2") == (1, "RunFailed")


def test_deploy_says_what_is_new_and_refuses_with_the_line_and_a_remedy(shop, fleet):
    assert "unchanged" in shop.apart("deploy", "order.yaml").stdout
    refused = shop.apart("deploy", "order.yaml", "wrong.yaml")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: wrong.yaml:4: ")
    assert "Did you mean 'pack'?" in refused.stderr
    assert shop.refusal_apart("deploy", "missing.yaml") == (1, "DefinitionError")
    assert shop.refusal_apart("deploy", "--app", "nowhere.app") == (1, "AppNotFound")


def test_a_changed_process_of_a_deployed_version_is_refused(shop, fleet):
    given = '{"item": "tea", "boss": "alice"}'
    shop.perennial("start", "order", "--key", "holds the version", "--input", given)
    (shop.home / "changed.yaml").write_text(YAML.replace("48", "49"))
    assert shop.refusal_apart("deploy", "changed.yaml") == (1, "ProcessChanged")


def test_what_a_change_would_do_to_open_runs_is_seen_before_it_is_deployed(shop, fleet):
    shop.perennial("start", "ship", "--key", "waits for a check", "--input", '{"item": "tea"}')
    soon(lambda: shop.json("show", "waits for a check")["status"] == "waiting")
    done = shop.apart("check", "--process", "ship", "--json")
    checked = json.loads(done.stdout)
    assert (done.returncode, checked["is_safe"]) == (0, True), done.stdout
    assert {group["found"] for group in checked["groups"]} == {"unchanged"}
    shop.perennial("cancel", "waits for a check")


def test_what_is_not_there_ends_with_3(shop, fleet):
    assert shop.refusal("show", "nobody") == (3, "RunNotFound")
    assert shop.refusal("start", "nothing") == (3, "UnknownProcess")


def test_a_killed_worker_is_started_again_with_a_note(shop, fleet):
    pid = fleet["pids"]["worker-1"]
    pool = psutil.Process(pid).children()
    os.kill(pid, signal.SIGKILL)
    note = f"worker-1 (pid {pid}) was killed by SIGKILL; started again as pid "
    soon(lambda: note in (shop.home / "notes").read_text())
    psutil.wait_procs(pool, timeout=SOON_SECONDS_MAX)
    assert not any(process.is_running() for process in pool)


SPARE = """

@process(version=1)
async def spare(flow: Flow) -> int:
    await flow.sleep(hours({hours}))
"""


def test_changed_code_is_taken_on_request_and_a_version_that_runs_hold_is_refused_with_them(
    shop, fleet
):
    def reload_with(hours: int) -> subprocess.CompletedProcess[str]:
        (shop.home / "shop.py").write_text(APP + SPARE.format(hours=hours))
        return shop.apart("reload", "--json")

    def workers() -> set[int]:
        named = json.loads((shop.home / ".perennial" / "programs.json").read_text())
        return {each["pid"] for each in named if each["name"] != "flower"}

    before = workers()
    done = reload_with(24)
    assert done.returncode == 0, done.stderr
    assert {"spare", "order"} <= {each["name"] for each in json.loads(done.stdout)["deployed"]}
    soon(lambda: len(workers()) == 2 and not workers() & before)
    replaced = [each["replaced"] for each in json.loads(reload_with(23).stdout)["deployed"]]
    assert replaced.count(True) == 1  # no run has used it

    assert shop.perennial("start", "spare", "--key", "holder").exit_code == 0
    refused = reload_with(22)
    assert refused.returncode == 1
    assert "holder (" in json.loads(refused.stderr)["error"]["message"]
    (shop.home / "shop.py").write_text(APP.replace('"packing"', '"elsewhere"'))
    assert "elsewhere" in json.loads(shop.apart("reload", "--json").stderr)["error"]["message"]
    (shop.home / "shop.py").write_text(APP)


def test_the_workers_and_flower_of_a_killed_up_are_ended_by_the_next(shop, fleet):
    """They would join it under the same names, with old code, and keep Flower's port."""
    named = json.loads((shop.home / ".perennial" / "programs.json").read_text())
    assert {each["name"] for each in named} == {"worker-1", "worker-2", "flower"}
    old = [psutil.Process(each["pid"]) for each in named]
    shop.stop_up(signal.SIGKILL)
    assert all(process.is_running() for process in old)
    shop.told = shop.start_up()
    assert not any(process.is_running() for process in old)
    assert not {process.pid for process in old} & set(shop.told["pids"].values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_all_that_was_started_and_the_next_start_finds_the_data(shop, fleet, number):
    shop.perennial("start", "ship", "--key", f"kept-{number}", "--input", '{"item": "tea"}')
    started = psutil.Process(shop.up.pid).children(recursive=True)
    everything = psutil.process_iter(["cmdline"])  # None for one that is just ending
    ours = [
        each
        for each in everything
        if "postgres" in (line := " ".join(each.info["cmdline"] or ())) and str(shop.home) in line
    ]
    assert ours
    assert shop.stop_up(number) == 0
    gone, alive = psutil.wait_procs([*started, *ours], timeout=SOON_SECONDS_MAX)
    assert alive == []
    assert gone
    assert shop.perennial("ps").exit_code == 2
    shop.told = shop.start_up()
    soon(lambda: shop.json("show", f"kept-{number}")["status"] == "waiting")
