"""The Celery app that holds the stages: where it is named, and what is said where it isn't found."""

from __future__ import annotations

import json
import sys
from datetime import date
from enum import StrEnum
from types import SimpleNamespace
from typing import Annotated, Literal

import pytest
from celery import Celery
from pydantic import BaseModel, Field, TypeAdapter

from orchestrator.cli.apps import load_app
from orchestrator.cli.example import example_input
from orchestrator.cli.failures import AppNotFound
from orchestrator.cli.servers import give_broker
from orchestrator.cli.session import Session

TRIP = """
from celery import Celery
from orchestrator import Registry, install
app = Celery("trip", broker="memory://")
install(app, registry=Registry())
class Trip: pass
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A directory of one's own, with a module and a package, and nothing of them left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "tripmodule.py").write_text(TRIP, encoding="utf-8")
    (tmp_path / "trippackage").mkdir()
    (tmp_path / "trippackage" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "trippackage" / "flows.py").write_text(TRIP, encoding="utf-8")
    (tmp_path / "tripbroken.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    yield
    for name in [name for name in sys.modules if name.startswith("trip")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "name", ["tripmodule", "tripmodule:app", "tripmodule.app", "trippackage.flows:app"]
)
def test_an_app_is_found_as_celery_finds_it(name):
    assert load_app(Session(app=name, names_app=True)).main == "trip"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tripmodule:apq", "the module 'tripmodule' has no 'apq': it has 'app'. Name yours"),
        ("tripmodule.apq", "the module 'tripmodule' has no 'apq': it has 'app'."),
        ("trippackage.flows:apq", "the module 'trippackage.flows' has no 'apq': it has 'app'."),
        ("trippackage:app", "the module 'trippackage' has no 'app': it has no Celery app at all."),
        ("trippackage", "the module 'trippackage' has no 'app': it has no Celery app at all."),
        ("tripmodule:Trip", "tripmodule:Trip is no Celery app but a class."),
        ("tripmodule:install", "tripmodule:install is no Celery app but a function."),
        (
            "tripmodule.py",
            "'tripmodule.py' is a path, and an app is named by its module: --app tripmodule",
        ),
        ("./trippackage/flows.py", "--app trippackage.flows"),
        ("nowhere", "there is no module 'nowhere'"),
        ("nowhere:app", "there is no module 'nowhere'"),
        ("trippackage.nothing:app", "there is no module 'trippackage.nothing'"),
        ("tripbroken", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    ],
)
def test_a_name_that_is_no_app_is_one_true_sentence(name, told):
    with pytest.raises(AppNotFound) as caught:
        load_app(Session(app=name, names_app=True))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_an_app_the_command_asks_for_one(perennial):
    perennial.session.app = "usual.app"  # this checkout has the usual one
    code, error = perennial.refusal("deploy")
    assert (code, error["type"]) == (1, "AppNotFound")
    assert "no Celery app is named" in error["message"]
    assert "--app module:app, or PERENNIAL_APP" in error["message"]


@pytest.mark.parametrize(
    "words",
    [
        ("--app", "nowhere", "{}"),
        ("-A", "nowhere", "{}"),
        ("{}", "--app", "nowhere"),
        ("{}", "-A", "nowhere"),
    ],
)
@pytest.mark.parametrize("command", ["deploy", "services"])
def test_the_app_is_named_before_or_after_the_command(perennial, command, words):
    code, error = perennial.refusal(*(word.format(command) for word in words))
    assert (code, error["type"]) == (1, "AppNotFound")
    assert "'nowhere'" in error["message"]


class Colour(StrEnum):
    RED = "red"


class Leg(BaseModel):
    to: str
    on: date


class Journey(BaseModel):
    who: str
    legs: Annotated[list[Leg], Field(min_length=1)]
    colour: Colour
    kind: Literal["by air", "by sea"]
    seats: int = Field(ge=2)
    note: str | None = None
    friend: Journey | None = None


@pytest.mark.parametrize(
    "kind", [Journey, Leg, int, str, bool, list[int], dict[str, int], int | None]
)
def test_an_example_is_an_input_that_the_process_takes(kind):
    example = example_input(SimpleNamespace(takes_input=True, input_type=kind))
    assert example is not None
    TypeAdapter(kind).validate_python(json.loads(example))


def test_without_a_type_that_says_so_there_is_no_example():
    assert example_input(SimpleNamespace(takes_input=False, input_type=int)) is None
    assert example_input(SimpleNamespace(takes_input=True, input_type=object())) is None


def test_ps_says_what_it_looked_for_and_did_not_find(perennial, client):
    client.answers["list"] = []
    assert perennial("ps").stdout == "No runs. `perennial start PROCESS` starts one.\n"
    for words, told in {
        ("--status", "running"): "No run is running.",
        ("--status", "paused", "--status", "incident"): "No run is paused or incident.",
        ("--process", "trip"): "No run of trip is there.",
        ("--key", "a-1", "--status", "failed"): "No run with the key 'a-1' is failed.",
    }.items():
        assert perennial("ps", *words).stdout.startswith(told)


def test_up_gives_its_broker_to_an_app_that_names_none(monkeypatch):
    """Celery alone would look for RabbitMQ on this machine, and `up` would wait for its workers in vain."""
    monkeypatch.setenv("CELERY_BROKER_URL", "")  # so that it ends with the test
    app, notes = Celery("shop", set_as_current=False), []
    give_broker(app, "redis://:secret@127.0.0.1:7000/0", notes.append)
    assert app.conf.broker_url == "redis://:secret@127.0.0.1:7000/0"
    assert notes == []


def test_up_says_that_an_apps_own_broker_is_another(monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "")
    app = Celery("shop", broker="redis://:theirs@localhost:6379/0", set_as_current=False)
    notes = []
    give_broker(app, "redis://:secret@127.0.0.1:7000/0", notes.append)
    (note,) = notes
    assert "redis://:***@localhost:6379/0" in note
    assert "PERENNIAL_BROKER_URL" in note
    assert "theirs" not in note
    assert "secret" not in note
    assert app.conf.broker_url == "redis://:theirs@localhost:6379/0"
