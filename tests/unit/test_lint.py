"""`perennial lint`: each mistake is found with its line, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.core.lint.module import lint
from orchestrator.core.lint.rules import ADVICE, Rule

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

MODULE = """
import asyncio, random, threading, time
import datetime as dt
from datetime import datetime
from uuid import uuid4
import httpx
from orchestrator import ActivityFailed, Flow, process, stage, step

seen = []
LIMIT = 3


@stage
def charge(amount: int) -> int:
    seen.append(time.time())
    return amount


@process(version=1)
async def order(flow: Flow, amount: int) -> object:
    names = {"a", "b"}
    {line}
"""

FOUND = {
    "await asyncio.sleep(3)": Rule.SLEEP,
    "time.sleep(3)": Rule.SLEEP,
    "await asyncio.wait_for(flow.signal('go'), 3)": Rule.FOREIGN_AWAIT,
    "await httpx.AsyncClient().get('https://x')": Rule.OUTSIDE,
    "return open('x').read()": Rule.OUTSIDE,
    "return datetime.now()": Rule.CLOCK,
    "return dt.date.today()": Rule.CLOCK,
    "started = time.monotonic()": Rule.CLOCK,
    "return str(uuid4())": Rule.CHANCE,
    "return random.choice([1, 2])": Rule.CHANCE,
    "threading.Thread(target=print).start()": Rule.THREAD,
    "seen.append(amount)": Rule.SHARED_STATE,
    "seen[0] = amount": Rule.SHARED_STATE,
    "global LIMIT": Rule.SHARED_STATE,
    "flow.stage(charge, amount)": Rule.NOT_AWAITED,
    "later = flow.sleep(3)": Rule.NOT_AWAITED,
    "return charge(amount)": Rule.CALLED_DIRECTLY,
    "return step(abs, amount)": Rule.CALLED_DIRECTLY,
    "return [name for name in names]": Rule.SET_ORDER,
    "await flow.map(charge, set(names))": Rule.SET_ORDER,
    "await flow.sleep(3, key=f'nap-{id(amount)}')": Rule.UNSTABLE_KEY,
    "return datetime.now()  # perennial: allow": Rule.NO_REASON,
}
FINE = (
    "return flow.now, flow.random(), flow.uuid(), LIMIT, len(seen)",
    "later = flow.sleep(3); await later",
    "await flow.gather(flow.sleep(1), flow.stage(charge, 1))",
    "await flow.step(time.time); await flow.step(open, 'x')",
    "return sorted(names), 'a' in names, datetime(2024, 1, 1), dt.timedelta(days=1)",
    "seen = []; seen.append(amount)",
    "return random.Random(7).choice([1, 2])",
    "return datetime.now()  # perennial: allow it is for a log line only",
)


@pytest.mark.parametrize(("line", "rule"), FOUND.items(), ids=list(FOUND))
def test_each_mistake_is_found_on_its_line(line, rule):
    source = MODULE.replace("{line}", line)
    findings = lint(source, "order.py").findings
    assert {(each.line, each.rule) for each in findings} == {
        (source[: source.index(line)].count("\n") + 1, rule)
    }
    assert all(each.why and each.instead and each.function == "order" for each in findings)


@pytest.mark.parametrize("line", FINE)
def test_what_is_pure_is_left_alone(line):
    module = lint(MODULE.replace("{line}", line), "order.py")
    assert module.findings == ()
    assert module.allowed == line.count("allow")


@pytest.mark.parametrize(
    ("caught", "then", "is_found"),
    [
        ("except Exception", "pass", True),
        ("except BaseException as error", "log(error)", True),
        ("except", "return None", True),
        ("except (ValueError, Exception)", "pass", True),
        ("except Exception", "raise", False),
        ("except ActivityFailed", "pass", False),
    ],
)
def test_an_except_that_swallows_more_than_is_meant_for_it(caught, then, is_found):
    body = f"try:\n        await flow.stage(charge, 1)\n    {caught}:\n        {then}"
    findings = lint(MODULE.replace("{line}", body), "order.py").findings
    assert [each.rule for each in findings] == [Rule.SWALLOWED] * is_found
    parsed = body.replace("await flow.stage(charge, 1)", "int(amount)")
    assert not lint(MODULE.replace("{line}", parsed), "order.py").findings, (
        "no await, no cancellation"
    )


def test_what_a_flow_calls_is_flow_code_too_and_what_it_hands_on_is_not():
    source = (
        MODULE.replace("{line}", "await flow.step(read); await later(flow); return name()")
        + """

def read() -> float:
    return time.time()

async def later(flow: Flow) -> None:
    await flow.gather(branch(flow))

async def branch(flow: "Flow") -> None:
    time.sleep(1)

def name() -> str:
    return deeper()

def deeper() -> str:
    return str(uuid4())
"""
    )
    module = lint(source, "order.py")
    assert {(each.function, each.rule) for each in module.findings} == {
        ("branch", Rule.SLEEP),
        ("deeper", Rule.CHANCE),
    }
    assert module.functions == 5


def test_every_rule_has_a_reason_and_a_remedy_and_a_case_above():
    assert ADVICE.keys() == set(Rule) == {*FOUND.values(), Rule.SWALLOWED}


def test_nothing_is_found_in_the_examples_and_on_the_pages():
    sources = {
        **{path: path.read_text(encoding="utf-8") for path in (ROOT / "tasks").rglob("*.py")},
        **{
            page: "\n\n".join(BLOCK.findall(page.read_text(encoding="utf-8")))
            for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
        },
    }
    modules = [lint(source, str(path)) for path, source in sources.items()]
    assert [finding for module in modules for finding in module.findings] == []
    assert sum(module.functions for module in modules) > 30
