"""Verbs with a preview: what is shown, when nothing is done, and what is done exactly."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.core.reentry.change import Preview
from orchestrator.core.run import RunStatus
from orchestrator.engine.operations.re_enter import Result
from orchestrator.errors import OperationRefused
from tests.cli.samples import RUN_ID

PREVIEW = Preview(
    "retry",
    RUN_ID,
    "permit-17",
    RunStatus.FAILED,
    goes_on=("stage provision-access is asked for anew",),
    repeats=("stage notify",),
    drops=("approval manager, approved by alice",),
    notes=("2 steps are remembered",),
)
VERBS = {
    "retry": ("permit-17",),
    "skip": ("permit-17", "notify", "--reason", "asked to"),
    "complete": ("permit-17", "notify", "--result", "7"),
    "fail": ("permit-17", "notify", "--error", "no more"),
    "edit": ("permit-17", "notify", "--arguments", '{"days": 3}'),
    "rewind": ("permit-17", "--to", "notify"),
    "fork": ("permit-17", "--at", "notify", "--key", "try"),
}
WRONG = {
    "retry": [("permit-17", "--arguments", "3"), ("permit-17", "--input", "{")],
    "skip": [("permit-17", "notify"), ("permit-17", "notify", "--reason", "x", "--result", "{")],
    "edit": [("permit-17", "notify", "--arguments", "[]")],
    "rewind": [("permit-17",)],
}


@pytest.fixture(autouse=True)
def _answers(client):
    for verb in VERBS:
        client.answers[verb] = Result(RUN_ID, verb, is_applied=True, preview=PREVIEW)


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_shown_is_what_is_done(perennial, client, verb):
    told = perennial(verb, *VERBS[verb], "--yes", "--by", "ann", "--reason", "asked to")
    assert told.exit_code == 0
    for line in (
        "permit-17, which is failed",
        "Next           stage provision-access is asked for anew",
        "Done again     stage notify",
        "Counts no more approval manager, approved by alice",
        "Note           2 steps are remembered",
        f"Preview        {PREVIEW.digest}",
        f"Done. perennial show {RUN_ID}",
    ):
        assert line in told.stdout
    (_, _, looked), (_, _, done) = client.calls
    assert looked["dry_run"] is True
    assert "dry_run" not in done
    assert (done["by"], done["reason"], done["digest"]) == ("ann", "asked to", PREVIEW.digest)


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_done_unasked(perennial, client, verb):
    told = perennial(verb, *VERBS[verb])
    assert told.exit_code == 2
    assert "--yes does what is shown" in told.stderr
    document = perennial.json(verb, *VERBS[verb])
    assert (document["applied"], document["digest"]) == (False, PREVIEW.digest)
    assert all(options["dry_run"] for _, _, options in client.calls)
    assert perennial.json(verb, *VERBS[verb], "--yes", "--digest", "abc")["applied"] is True
    assert client.calls[-1][2]["digest"] == "abc"


LACKING = replace(PREVIEW, notes=("the flow's code is not at hand: the result is taken as it is",))


def test_code_that_is_not_at_hand_is_said_with_how_it_comes(perennial, client):
    """An app that nobody has named may be missing, or broken; one that is named is to be there."""
    client.answers["skip"] = Result(RUN_ID, "skip", is_applied=True, preview=LACKING)
    told = perennial("skip", *VERBS["skip"], "--yes")
    assert told.exit_code == 0
    assert "Done." in told.stdout
    assert "no Celery app is named, and there is no no_app_is_here in" in told.stderr
    assert "--app module:app, or PERENNIAL_APP" in told.stderr
    told = perennial("--app", "no_app_is_here", "skip", *VERBS["skip"], "--yes")
    assert told.exit_code == 1
    assert "there is no module 'no_app_is_here'" in told.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("rewind", *VERBS["rewind"], "--yes"),
        ("retry", "--process", "access-request"),
        ("operations", "preview", "skip", "--process", "access-request"),
        ("operations", "apply", "3f2a91c04b7d"),
        ("operations", "resume", str(RUN_ID)),
    ],
)
def test_the_app_of_this_folder_is_imported_unasked(perennial, tmp_path, monkeypatch, words):
    """As by `check` and `deploy`: else a run would be looked at without its code."""
    (tmp_path / "app_of_this_folder.py").write_text(
        "from celery import Celery\napp = Celery('here', broker='memory://')\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    perennial.session.app = "app_of_this_folder"
    perennial(*words)
    assert sys.modules.pop("app_of_this_folder").app.main == "here"


def test_an_app_with_other_code_is_named(perennial, client, tmp_path, monkeypatch):
    (tmp_path / "app_of_other_code.py").write_text(
        "from celery import Celery\napp = Celery('here', broker='memory://')\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    client.answers["rewind"] = Result(RUN_ID, "rewind", is_applied=True, preview=LACKING)
    told = perennial("--app", "app_of_other_code", "rewind", *VERBS["rewind"], "--yes")
    del sys.modules["app_of_other_code"]
    assert "app_of_other_code hasn't the code that the run stands on" in told.stderr


@pytest.mark.parametrize(("verb", "words"), [(v, w) for v, each in WRONG.items() for w in each])
def test_what_is_no_such_value_is_refused_before_anything(perennial, client, verb, words):
    assert perennial(verb, *words, "--yes").exit_code == 2
    assert client.calls == []


def test_a_refusal_is_one_sentence_with_the_run_as_it_was_typed(perennial, client):
    client.answers["retry"] = OperationRefused(
        f"run {RUN_ID} is cancelled: there is nothing to retry. `perennial restart RUN` starts it once more"
    )
    told = perennial("retry", "permit-17")
    assert told.exit_code == 1
    assert "run permit-17 is cancelled" in told.stderr
    assert "`perennial restart permit-17`" in told.stderr
    client.answers["retry"] = OperationRefused(f"run {RUN_ID} waits: `perennial approve RUN boss`")
    assert "`perennial approve permit-17 boss`" in perennial("retry", "permit-17").stderr


def test_options_of_retry_reach_it(perennial, client):
    words = ("--input", "7", "--arguments", '{"days": 3}', "--version", "2", "--expires-in", "1.5")
    perennial("retry", "permit-17", *words, "--yes")
    given = client.calls[-1][2]
    assert (given["input"], given["arguments"], given["version"], given["expires_in"]) == (
        7,
        {"days": 3},
        2,
        timedelta(hours=1.5),
    )


def test_what_an_activity_gets_reaches_it(perennial, client):
    for verb, expected in {
        "skip": {"key": "notify", "result": None},
        "complete": {"key": "notify", "result": 7},
        "fail": {"key": "notify", "error": "no more", "error_type": "FailedByHand"},
        "edit": {"key": "notify", "arguments": {"days": 3}},
        "rewind": {"to": "notify", "even_if_completed": False},
        "fork": {"at": "notify", "key": "try"},
    }.items():
        perennial(verb, *VERBS[verb], "--yes")
        given = client.calls[-1][2]
        assert {name: given[name] for name in expected} == expected
