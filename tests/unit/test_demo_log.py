"""What the demo reads out of an event log."""

import gzip
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from demo import log as demo_log
from demo.log import (
    Event,
    HumanDecision,
    LogError,
    Trace,
    read_log,
    request_of,
    stream_traces,
)
from demo.make_sample import sample

SHARED_LOG = Path(__file__).parents[3] / "shared/data/bpic2020_travel_permits.xes.gz"
MONDAY = datetime(2024, 1, 1, 9, tzinfo=UTC)


def trace(*events: tuple[float, str]) -> Trace:
    """Events by hours after Monday morning."""
    return Trace("t", {}, tuple(Event(MONDAY + timedelta(hours=at), name) for at, name in events))


def xes(*traces: str) -> bytes:
    return f"<log>{''.join(traces)}</log>".encode()


def xes_trace(name: str, *events: tuple[str, str]) -> str:
    written = "".join(
        f'<event><string key="concept:name" value="{event}"/>'
        f'<date key="time:timestamp" value="{at}"/></event>'
        for event, at in events
    )
    return f'<trace><string key="concept:name" value="{name}"/>{written}</trace>'


def read(content: bytes) -> list[Trace]:
    return list(stream_traces(io.BytesIO(content), source="a.xes"))


SUBMITTED = "Permit SUBMITTED by EMPLOYEE"


# -- which traces are requests, and what their people decided --------------------------------------


@pytest.mark.parametrize(
    ("decision", "approved"),
    [("APPROVED", True), ("FINAL_APPROVED", True), ("REJECTED", False)],
)
def test_a_supervisors_decision_makes_a_trace_a_request(decision, approved):
    request = request_of(trace((0, SUBMITTED), (30, f"Permit {decision} by SUPERVISOR")))
    assert request is not None
    assert request.manager == HumanDecision(approved, timedelta(hours=30))
    assert request.security is None


@pytest.mark.parametrize(
    "event",
    [
        "Permit FOR_APPROVAL by SUPERVISOR",
        "Permit SAVED by SUPERVISOR",
        "Permit SUBMITTED by SUPERVISOR",
        "Permit APPROVED by ADMINISTRATION",
        "Permit APPROVED by BUDGET OWNER",
        "Declaration APPROVED by SUPERVISOR",
        "Permit APPROVED by SUPERVISOR in error",
        "",
    ],
)
def test_nothing_else_does(event):
    assert request_of(trace((0, SUBMITTED), (5, event))) is None


def test_each_persons_delay_is_the_time_since_the_permit_event_before_their_decision():
    request = request_of(
        trace(
            (0, SUBMITTED),
            (10, "Start trip"),
            (26, "Permit APPROVED by ADMINISTRATION"),
            (27, "Declaration SUBMITTED by EMPLOYEE"),
            (28, "Permit FINAL_APPROVED by SUPERVISOR"),
        )
    )
    assert request is not None
    assert request.security == HumanDecision(True, timedelta(hours=26))
    assert request.manager == HumanDecision(True, timedelta(hours=2))


def test_a_persons_first_decision_counts_and_the_later_ones_do_not():
    request = request_of(
        trace(
            (0, SUBMITTED),
            (3, "Permit REJECTED by SUPERVISOR"),
            (4, SUBMITTED),
            (5, "Permit APPROVED by SUPERVISOR"),
        )
    )
    assert request is not None
    assert request.manager == HumanDecision(False, timedelta(hours=3))


def test_a_step_on_the_way_to_a_decision_starts_the_clock_anew():
    request = request_of(
        trace(
            (0, SUBMITTED),
            (20, "Permit FOR_APPROVAL by SUPERVISOR"),
            (50, "Permit APPROVED by SUPERVISOR"),
        )
    )
    assert request is not None
    assert request.manager.delay == timedelta(hours=30)


def test_a_decision_that_opens_the_trace_kept_nobody_waiting():
    request = request_of(trace((0, "Start trip"), (7, "Permit APPROVED by SUPERVISOR")))
    assert request is not None
    assert request.manager.delay == timedelta(0)


def test_events_count_in_order_of_time_whatever_their_order_in_the_file():
    request = request_of(trace((30, "Permit APPROVED by SUPERVISOR"), (0, SUBMITTED)))
    assert request is not None
    assert request.manager.delay == timedelta(hours=30)


# -- the format ------------------------------------------------------------------------------------


def test_times_are_compared_across_zones_and_daylight_saving():
    (read_trace,) = read(
        xes(
            xes_trace(
                "t",
                (SUBMITTED, "2017-03-25T12:00:00.000+01:00"),
                ("Permit APPROVED by SUPERVISOR", "2017-03-26T12:00:00+02:00"),
            )
        )
    )
    request = request_of(read_trace)
    assert request is not None
    assert request.manager.delay == timedelta(hours=23)


def test_a_time_without_a_zone_is_utc():
    (read_trace,) = read(xes(xes_trace("t", (SUBMITTED, "2024-01-01T09:00:00"))))
    assert read_trace.events[0].at == MONDAY


def test_gzip_is_told_by_its_content():
    content = xes(xes_trace("t", (SUBMITTED, "2024-01-01T09:00:00Z")))
    assert read(gzip.compress(content)) == read(content)


def test_a_default_namespace_changes_nothing():
    plain = xes(xes_trace("t", (SUBMITTED, "2024-01-01T09:00:00Z")))
    assert read(plain.replace(b"<log>", b'<log xmlns="http://www.xes-standard.org/">')) == read(
        plain
    )


def test_attributes_of_a_trace_are_kept_apart_from_those_of_its_events_and_of_other_attributes():
    (read_trace,) = read(
        xes(
            '<trace><string key="concept:name" value="t">'
            '<string key="concept:name" value="nested"/></string>'
            '<string key="role" value="auditor"/>'
            '<event><string key="concept:name" value="e"><string key="role" value="x"/></string>'
            '<date key="time:timestamp" value="2024-01-01T09:00:00Z"/></event></trace>'
        )
    )
    assert read_trace.id == "t"
    assert read_trace.attributes == {"concept:name": "t", "role": "auditor"}
    assert [event.name for event in read_trace.events] == ["e"]


def test_traces_come_as_soon_as_they_are_whole():
    first = xes_trace("first", (SUBMITTED, "2024-01-01T09:00:00Z"))
    padding = " " * demo_log._CHUNK_BYTES
    traces = stream_traces(io.BytesIO(xes(first, padding, "<trace>")), source="a.xes")
    assert next(traces).id == "first"
    with pytest.raises(LogError, match="well-formed"):
        next(traces)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not well-formed XML: no element found"),
        (b"id,time\n1,2\n", "not well-formed XML"),
        (b"<html></html>", "line 1: its root is <html>"),
        (b"<log><trace></trace></log>", "a trace has no concept:name"),
        (xes(xes_trace("t", (SUBMITTED, "yesterday"))), "'yesterday' is not an ISO 8601 time"),
        (
            b'<log><trace>\n<event><string key="concept:name" value="e"/></event></trace></log>',
            "line 2: an event has no time:timestamp",
        ),
        (
            b'<!DOCTYPE log [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><log>&b;</log>',
            "declares a document type",
        ),
        (gzip.compress(xes(xes_trace("t")), mtime=0)[:-4], "is not whole"),
    ],
)
def test_what_is_not_a_log_is_refused_with_the_reason(content, problem):
    with pytest.raises(LogError, match=problem):
        read(content)


@pytest.mark.parametrize(
    ("bound", "problem"),
    [("LOG_BYTES_MAX", "larger"), ("TRACES_MAX", "traces"), ("EVENTS_PER_TRACE_MAX", "events")],
)
def test_every_bound_is_kept(monkeypatch, bound, problem):
    at = "2024-01-01T09:00:00Z"
    content = xes(*(xes_trace(f"t{n}", ("a", at), ("b", at)) for n in range(2)))
    monkeypatch.setattr(demo_log, bound, 1)
    with pytest.raises(LogError, match=problem):
        read(content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LogError, match=r"gone\.xes can't be read: No such file"):
        read_log(tmp_path / "gone.xes")


# -- whole logs ------------------------------------------------------------------------------------


def test_traces_that_are_not_used_are_counted_by_reason(tmp_path):
    at = "2024-01-01T09:00:00Z"
    request = xes_trace("t", ("Permit APPROVED by SUPERVISOR", at))
    path = tmp_path / "log.xes"
    path.write_bytes(xes(request, request, xes_trace("u", (SUBMITTED, at))))
    log = read_log(path)
    assert (log.traces, len(log.requests)) == (3, 1)
    assert log.unused == {"another trace has its name": 1, "no decision by a supervisor": 1}


def test_the_bundled_sample_is_what_its_maker_makes():
    assert Path(demo_log.__file__).with_name("sample.xes").read_text(encoding="utf-8") == sample()


def test_the_bundled_sample_has_48_requests_and_two_traces_that_are_none():
    log = read_log(None)
    assert (log.traces, len(log.requests)) == (50, 48)
    assert log.unused == {"no decision by a supervisor": 2}
    assert all(
        request.attributes.keys() >= {"requester", "manager", "role"} for request in log.requests
    )


@pytest.mark.skipif(not SHARED_LOG.exists(), reason="the real log is not beside this checkout")
def test_the_real_log_has_1463_requests():
    log = read_log(SHARED_LOG)
    assert (log.traces, len(log.requests)) == (1478, 1463)
    assert log.unused == {"no decision by a supervisor": 15}
    assert sum(request.security is not None for request in log.requests) == 1123
    assert sum(not request.manager.approved for request in log.requests) == 81
    assert all(request.manager.delay >= timedelta(0) for request in log.requests)
