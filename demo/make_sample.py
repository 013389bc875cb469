"""Makes `sample.xes`, the bundled log: `python -m demo.make_sample > sample.xes`.

All of it is made up, and the same every time. It holds every way a request can go, no decision
within three hours of an escalation or a timeout, and two traces that are no requests.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, cycle, islice
from xml.sax.saxutils import quoteattr

PEOPLE = (
    "Amara Okafor", "Bram de Wit", "Chiara Conti", "Dmitri Volkov", "Elif Yildiz", "Finn Larsen",
    "Grace Mwangi", "Hiro Tanaka", "Ines Moreau", "Jonas Weber", "Kavya Nair", "Liam Byrne",
)  # fmt: skip
MANAGERS = ("Marta Kowalska", "Noah Svensson", "Olivia Brandt")
ROLES = ("payroll-reader", "crm-editor", "warehouse-admin", "ledger-auditor", "support-agent")

REQUESTS = 48
FIRST_REQUEST = datetime(2024, 3, 4, 8, 30, tzinfo=UTC)

Answer = tuple[str, float] | None
"""A decision and its delay in hours; None: never."""

WAYS: tuple[tuple[Answer, Answer], ...] = (
    (("APPROVED", 2), ("APPROVED", 1)),  # the short way
    (("FINAL_APPROVED", 0.5), ("APPROVED", 9)),
    (("APPROVED", 31), ("APPROVED", 4)),  # escalated to the director, then approved
    (("APPROVED", 12), ("APPROVED", 36)),  # escalated to the security lead, then approved
    (("REJECTED", 3), None),  # the manager says no
    (("REJECTED", 40), None),  # no, after the escalation
    (("APPROVED", 1), ("REJECTED", 6)),  # security says no
    (("APPROVED", 28), ("REJECTED", 29)),  # no, after both escalations
    (("APPROVED", 75), None),  # the manager answers a day too late
    (("APPROVED", 4), None),  # security never answers
    (("APPROVED", 8), ("APPROVED", 96)),  # security answers two days too late
)
"""The manager's answer and security's, far from hours 24 and 48. An odd number of ways, so that
each is gone in both processes, which take the requests in turn."""


def sample() -> str:
    """The whole document."""
    traces = [*islice(_requests(), REQUESTS), *_no_requests()]
    return "\n".join(
        (
            '<?xml version="1.0" encoding="UTF-8"?>',
            "<!-- Made up by orchestrator/demo/make_sample.py: no such person exists. -->",
            '<log xes.version="1.0" xmlns="http://www.xes-standard.org/">',
            *traces,
            "</log>\n",
        )
    )


def _requests() -> Iterator[str]:
    people, managers, roles = cycle(PEOPLE), cycle(MANAGERS), cycle(ROLES)
    for number, (manager, security) in zip(count(1), cycle(WAYS)):
        submitted = FIRST_REQUEST + timedelta(hours=7 * number)
        events = [(submitted, "Permit SUBMITTED by EMPLOYEE")]
        for answer, role in ((manager, "SUPERVISOR"), (security, "ADMINISTRATION")):
            if answer is not None:
                decision, delay_hours = answer
                wobble = timedelta(minutes=number % 7 * 3)
                at = events[-1][0] + timedelta(hours=delay_hours) + wobble
                events.append((at, f"Permit {decision} by {role}"))
        yield _trace(
            f"access request {1000 + number}", next(people), next(managers), next(roles), events
        )


def _no_requests() -> Iterator[str]:
    at = FIRST_REQUEST + timedelta(days=20)
    saved = [(at, "Permit SAVED by EMPLOYEE")]
    yield _trace("access request 1901", PEOPLE[0], MANAGERS[0], ROLES[0], saved)
    forwarded = [(at, "Permit SUBMITTED by EMPLOYEE"), (at, "Permit FOR_APPROVAL by SUPERVISOR")]
    yield _trace("access request 1902", PEOPLE[1], MANAGERS[1], ROLES[1], forwarded)


def _trace(
    name: str, user: str, manager: str, role: str, events: Sequence[tuple[datetime, str]]
) -> str:
    lines = [
        "  <trace>",
        *(
            f'    <string key="{key}" value={quoteattr(value)}/>'
            for key, value in (
                ("concept:name", name),
                ("requester", user),
                ("manager", manager),
                ("role", role),
            )
        ),
    ]
    for at, event in events:
        lines += [
            "    <event>",
            f'      <date key="time:timestamp" value="{at.isoformat()}"/>',
            f'      <string key="concept:name" value={quoteattr(event)}/>',
            "    </event>",
        ]
    return "\n".join([*lines, "  </trace>"])


if __name__ == "__main__":
    sys.stdout.write(sample())
