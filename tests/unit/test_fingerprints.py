"""A fingerprint is of what a flow means: not of how it is written, nor where, nor by which Python."""

from __future__ import annotations

import linecache
from itertools import count
from typing import Any

import pytest

from orchestrator import Registry
from orchestrator.core.definition import Process

FLOW = """
from orchestrator import Flow, hours, process

@process(version=1, name="p", registry=registry)
async def p(flow: Flow, order: dict) -> str:
    asked = flow.approval("boss", assign=["ann"], timeout=hours(48))
    if not (await asked).approved:
        return "refused"
    return f"{order['item']}: sent"
"""

numbers = count()


def defined(source: str, *, module: str = "shop.flows") -> Process:
    """The process of a module's text, which `inspect` finds as it finds a file's."""
    name = f"<fingerprints {next(numbers)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    registry = Registry()
    exec(compile(source, name, "exec"), {"registry": registry, "__name__": module})
    return registry.process("p")


def changed(old: str, new: str) -> Process:
    assert old in FLOW
    return defined(FLOW.replace(old, new))


SAME: dict[str, tuple[str, str]] = {
    "a docstring": ("str:\n", 'str:\n    """Ask the boss."""\n'),
    "a comment at the end of a line": ("approved:\n", "approved:  # or nobody said a word\n"),
    "a line that is wrapped": (
        'flow.approval("boss", assign=["ann"], timeout=hours(48))',
        'flow.approval(\n        "boss",\n        assign=["ann"],\n        timeout=hours(48),\n    )',
    ),
    "other quotes": ('"refused"', "'refused'"),
    "a text in two pieces": ('"refused"', '"ref" "used"'),
    "parentheses": ("if not (await asked).approved", "if (not ((await asked).approved))"),
    "a blank line": ("    if not", "\n\n    if not"),
    "another name of the function": ("async def p(", "async def ship("),
    "how the decorator is imported": (
        "import Flow, hours, process\n\n@process",
        "import Flow, hours, process as define\nimport orchestrator\n\n@define",
    ),
    "the decorator by its module": (
        "import Flow, hours, process\n\n@process",
        "import Flow, hours\nimport orchestrator as o\n\n@o.process",
    ),
}


@pytest.mark.parametrize(("old", "new"), SAME.values(), ids=SAME)
def test_what_changes_no_meaning_is_the_same_content(old, new):
    assert changed(old, new).fingerprint == defined(FLOW).fingerprint


def test_a_moved_module_is_the_same_content():
    assert (
        defined(FLOW, module="shop.processes.order").fingerprint
        == defined(FLOW, module="flows").fingerprint
    )


def test_a_flow_that_is_indented_and_its_texts_of_several_lines_are_the_same_content():
    body = FLOW.replace('"refused"', '"""re\nfused"""')
    head, flow = body.split("\n\n", 1)
    indented = "".join(
        line if line.startswith("fused") else f"    {line}" for line in flow.splitlines(True)
    )
    assert defined(f"{head}\n\nif True:\n{indented}").fingerprint == defined(body).fingerprint
    other = body.replace("re\nfused", "re\n    fused")
    assert defined(other).fingerprint != defined(body).fingerprint


OTHER = {
    "a constant": ("hours(48)", "hours(47)"),
    "a float for an int": ("hours(48)", "hours(48.0)"),
    "a bool for an int": ("hours(48)", "hours(True)"),
    "a text": ('"refused"', '"rejected"'),
    "a condition": ("if not", "if"),
    "an f-string's text": (": sent", ": on its way"),
    "the type of the input": ("order: dict)", "order: list)"),
    "a decorator of the author's": (
        '@process(version=1, name="p", registry=registry)\n',
        '@process(version=1, name="p", registry=registry)\n@(lambda flow: flow)\n',
    ),
    "a queue": ('name="p"', 'name="p", queue="slow"'),
}


@pytest.mark.parametrize(("old", "new"), OTHER.values(), ids=OTHER)
def test_another_meaning_is_other_content(old, new):
    assert changed(old, new).fingerprint != defined(FLOW).fingerprint


def test_a_fingerprint_is_the_same_whatever_python_made_it():
    """Written down once: another Python, or another release of ours, must come to the same."""
    awkward = FLOW.replace(
        "    return f",
        "    big, text = 10**3, 'ü\\u2028' + f'{order!r:>{4}}' f'{order}' ''\n"
        "    match order:\n"
        "        case {'a': [first, *_], **rest} if big:\n"
        "            del first, rest\n"
        "    print(*[each async for each in flow], text, lambda a, /, *, b=0xFF: (yield), sep='')\n"
        "    return f",
    )
    assert defined(FLOW).fingerprint == (
        "61dc5a9d6a38d0bc9b7335c00e542b123556d44a2870c87e72a8dbcc21f831b9"
    )
    assert defined(awkward).fingerprint == (
        "6c14c8cdd319541ebf861ebc7d944b3f0bd1c5f566fb08fb86ad171c24775ce5"
    )


def test_what_a_release_before_recorded_for_the_same_code_is_known():
    """The fingerprint that the code as it was at 0.1 made of FLOW."""
    assert defined(FLOW).fingerprints[1] == (
        "f1f1a8e68a25d01491f5b42d3da440473dc1065cc4fa2965edaa476675f646c0"
    )


def test_a_flow_without_source_has_a_fingerprint_of_its_names_and_constants():
    def sourceless(hours: int) -> Any:
        space = {"registry": Registry(), "__name__": "shell"}
        exec(compile(FLOW.replace("48", str(hours)), "<nowhere>", "exec"), space)
        return space["registry"].process("p").fingerprint

    assert sourceless(48) == sourceless(48)
    assert sourceless(48) != sourceless(47)
