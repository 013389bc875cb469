"""A verb of many runs: shown first, applied by its digest, and never to all by accident."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from orchestrator import RunFilter, RunStatus
from orchestrator.client.bulk import Bulk
from orchestrator.client.operations import Operations
from orchestrator.core.bulk import LineState, OperationState, OperationView, Preview, Result
from orchestrator.core.selection import Selected
from tests.cli.samples import NOW, RUN_ID, ago, ahead

ID = UUID("01a22829-1216-707a-8e46-99465ceadc99")


def selected(number: int, status: RunStatus = RunStatus.INCIDENT) -> Selected:
    return Selected(UUID(int=number), 7, "hire", 3, status, f"k{number}", "abc")


PREVIEW = Preview(
    "resume",
    "go on from where they stand",
    {},
    RunFilter(cause="abc"),
    tuple(map(selected, range(5))),
    ((selected(9, RunStatus.FAILED), "it is failed, and resume acts on incident or paused"),),
    ID,
)


def operation(
    state: OperationState = OperationState.FINISHED, *, held: bool = False, **counts: int
) -> OperationView:
    return OperationView(
        ID,
        "resume",
        {},
        {"cause": "abc"},
        PREVIEW.digest,
        "ann",
        "IAM is back",
        state,
        50.0,
        ago(minutes=5),
        NOW if state is OperationState.FINISHED else None,
        5,
        {name.replace("_", " "): count for name, count in counts.items()},
        "ann's" if held else None,
        ahead(seconds=9) if held else None,
        is_held=held,
    )


@pytest.fixture
def many(client, monkeypatch):
    """`client.operations.bulk`, answered as the rest of the made-up client."""
    client.answers |= {
        "preview": PREVIEW,
        "apply": operation(done=4, skipped=1),
        "list": [operation(OperationState.RUNNING, done=2, to_do=3)],
        "get": operation(OperationState.PAUSED, done=2, to_do=3),
        "results": [
            Result(1, RUN_ID, "k1", LineState.DONE, "", NOW),
            Result(2, RUN_ID, None, LineState.REFUSED, "not this one", NOW),
        ],
        "stop": operation(done=5),
    }

    class Facet:
        def __getattr__(self, verb: str) -> Any:
            assert hasattr(Bulk, verb), f"Bulk has no {verb}"
            return client.answer_to(verb)

    monkeypatch.setattr(Operations, "bulk", None, raising=False)
    monkeypatch.setattr("tests.cli.samples._Facet.bulk", Facet(), raising=False)
    return client


def test_a_query_is_shown_first_and_nothing_is_done(perennial, many):
    told = perennial("resume", "--cause", "abc", "--by", "ann", "--reason", "IAM is back")
    assert told.exit_code == 0
    assert "resume: 5 runs would go on from where they stand" in told.stdout
    assert "hire v3, incident, cause abc  k0, k1, k2 and 2 more" in told.stdout
    assert "it is failed, and resume acts on incident or paused" in " ".join(told.stdout.split())
    assert f"perennial resume --digest {PREVIEW.digest}" in told.stderr
    assert many.calls == [
        ("preview", ("resume", RunFilter(cause="abc")), {"by": "ann", "reason": "IAM is back"})
    ]


def test_the_digest_applies_it_at_a_rate(perennial, many):
    told = perennial(
        "resume", "--cause", "abc", "--digest", "d1", "--rate", "30/min", "--by", "ann"
    )
    assert told.exit_code == 0
    assert "resume of 5 runs: 4 done, 1 skipped" in told.stdout
    ((verb, args, given),) = many.calls
    assert (verb, args, given["rate_per_second"]) == ("apply", ("d1",), 0.5)
    assert (given["verb"], given["asked"], given["by"]) == ("resume", RunFilter(cause="abc"), "ann")


def test_what_was_refused_ends_with_1(perennial, many):
    many.answers["apply"] = operation(done=4, refused=1)
    assert perennial("cancel", "--digest", "d1").exit_code == 1


def test_json_is_the_preview_or_what_was_applied(perennial, many):
    shown = perennial.json("restart", "--failed", "--version", "2")
    assert (shown["digest"], shown["runs"], shown["operation"]) == (PREVIEW.digest, 5, str(ID))
    assert shown["groups"][0] == {
        "process": "hire",
        "version": 3,
        "status": "incident",
        "cause": "abc",
        "runs": 5,
        "samples": ["k0", "k1", "k2"],
    }
    assert shown["refused"][0]["reason"].startswith("it is failed")
    assert many.calls[0][2]["version"] == 2
    done = perennial.json("pause", "--digest", "d1")
    assert (done["state"], done["counts"]) == ("finished", {"done": 4, "skipped": 1})


def test_who_is_at_the_keyboard_is_asked(perennial, many, monkeypatch):
    monkeypatch.setattr(
        "orchestrator.cli.bulk._is_confirmed", lambda _printer, shown: bool(shown.runs)
    )
    assert "4 done" in perennial("resume", "--cause", "abc").stdout
    assert many.calls[1][1] == (PREVIEW.digest,)


@pytest.mark.parametrize("verb", ["resume", "pause", "cancel", "restart", "retry"])
@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "All runs are never meant"),
        (("k1", "--cause", "abc"), "and not both"),
        (("--cause", "abc", "--rate", "fast"), "'fast' is no rate"),
        (("--cause", "abc", "--rate", "0/s"), "'0/s' is no rate"),
    ],
)
def test_a_verb_that_names_no_runs_or_too_many_ways_is_refused(perennial, many, verb, words, why):
    told = perennial(verb, *words)
    assert told.exit_code == 2
    assert why in " ".join(told.stderr.split())
    assert many.calls == []


def test_failed_runs_are_retried_by_query(perennial, many):
    many.answers["preview"] = replace(PREVIEW, verb="retry", looks=(("k1", ("provision again",)),))
    words = ("retry", "--process", "hire", "--error", "ConnectionError", "--expires-in", "2")
    told = perennial(*words, "--by", "ann")
    assert "k1: provision again" in told.stdout
    assert f"perennial retry --digest {many.answers['preview'].digest}" in told.stderr
    asked = RunFilter(process="hire", error_type="ConnectionError")
    given = {"by": "ann", "reason": "", "version": None, "expires_in_seconds": 7200.0}
    assert many.calls == [("preview", ("retry", asked), given)]
    for option in (("--yes",), ("--input", "{}"), ("--arguments", "{}")):
        refused = perennial(*words, *option)
        assert (refused.exit_code, f"{option[0]} is of one run" in refused.stderr) == (2, True)
    assert perennial("retry", "--digest", "d1").exit_code == 0


def test_any_verb_is_said_of_many_with_its_arguments(perennial, many):
    many.answers["preview"] = replace(PREVIEW, verb="skip")
    told = perennial(
        *("operations", "preview", "skip", "--cause", "abc", "--by", "ann"),
        *("--with", "key=notify", "--with", 'result={"sent": false}'),
    )
    given = {"by": "ann", "reason": "", "key": "notify", "result": {"sent": False}}
    assert many.calls == [("preview", ("skip", RunFilter(cause="abc")), given)]
    digest = many.answers["preview"].digest
    assert f"perennial operations apply {digest}" in told.stderr
    assert "4 done" in perennial("operations", "apply", digest, "--rate", "5/s").stdout
    assert (many.calls[1][1], many.calls[1][2]["verb"]) == ((digest,), None)
    for wrong in ("key", "by=ann"):
        assert perennial("operations", "preview", "skip", "--with", wrong).exit_code == 2


def test_one_run_is_named_as_ever(perennial, many):
    assert perennial("resume", "permit-17", "--by", "ann").stdout == "Resumed permit-17\n"
    assert many.calls == [("resume", ("permit-17",), {"by": "ann"})]


def test_operations_say_how_far_they_are_and_who_is_at_them(perennial, many):
    page = perennial("operations").stdout
    assert f"{ID}  interrupted  resume of 5 runs by ann, 5 min ago: IAM is back" in page
    assert "2 done, 3 to do" in page
    many.answers["list"] = [operation(OperationState.RUNNING, held=True, done=2, to_do=3)]
    assert "running" in perennial("operations").stdout
    assert "ann's is at it" in perennial("operations").stdout
    (told,) = perennial.json("operations")["operations"]
    assert (told["is_interrupted"], told["counts"]["to do"]) == (False, 3)
    many.answers["list"] = []
    assert "No verb was said" in perennial("operations").stdout


def test_one_operation_says_what_became_of_each_run(perennial, many):
    page = perennial("operations", str(ID), "--limit", "2").stdout
    assert "k1  done" in page
    assert f"{RUN_ID}  refused  not this one" in page
    assert f"perennial operations resume {ID}" in page
    told = perennial.json("operations", str(ID), "--state", "refused")
    assert [each["state"] for each in told["results"]] == ["done", "refused"]
    assert many.calls[-1][2]["state"] is LineState.REFUSED
    assert perennial("operations", str(ID), "--state", "odd").exit_code == 2


def test_an_operation_goes_on_is_paused_and_is_stopped(perennial, many):
    many.answers |= {
        "resume": operation(done=5),
        "pause": operation(OperationState.PAUSED, done=2, to_do=3),
    }
    assert "5 done" in perennial("operations", "resume", str(ID), "--rate", "5/s").stdout
    assert many.calls[-1][2]["rate_per_second"] == 5.0
    assert "3 runs to do" in perennial("operations", "pause", str(ID)).stdout
    assert "5 done" in perennial("operations", "stop", str(ID)).stdout
