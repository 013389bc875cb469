"""`perennial deploy --amend`: what new content would make of the runs that are open is shown, confirmed, and done."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.cli.failures import NotConfirmed
from orchestrator.cli.output import Printer, text
from orchestrator.errors import StalePreview

if TYPE_CHECKING:
    from orchestrator.client.client import Client
    from orchestrator.core.definition import Process
    from orchestrator.engine.deploy import Deployed
    from orchestrator.engine.operations.amend import Amended, AmendedGroup, Amendment
    from orchestrator.engine.operations.staying import Staying

OTHERS = ("stay", "park")

WORKERS_NAMED = 3
"""So many workers are named; --json names more."""

SHAPE = (
    '{"amendments": [{"process", "version", "code_revision", "is_current", "fingerprint", "edit", "others", "words", '
    '"diff", "runs", "groups": [{"found", "reason", "becomes", "remedy", "runs", "samples"}], "digest", '
    '"staying": [{"code_revision", "runs", "served_by", "workers"}]}], '
    '"digest", "deployed", "amended": null until confirmed, then [{"process", "version", "code_revision", "moved", '
    '"stayed", "parked", "busy"}]}'
)


def amend(
    client: Client,
    printer: Printer,
    processes: Sequence[Process],
    *,
    others: str,
    confirmed: str | None,
    by: str,
    reason: str,
) -> None:
    """Show what would become of the runs of each process that needs it; once it is confirmed, do it.

    `confirmed`: the digest of what was shown before. None: ask.
    """
    from orchestrator.engine.operations.amend import digest_of

    due = [each for each in processes if client.processes.needs_amendment(each)]
    with printer.err.status("trying the new code") as status:
        shown = [
            client.processes.preview_amendment(
                each,
                others=others,
                progress=lambda count: status.update(f"{count} run(s) tried"),
            )
            for each in due
        ]
    pairs = [(each, seen) for each, seen in zip(due, shown, strict=True) if not seen.does_nothing]
    digest = digest_of([seen for _, seen in pairs]) if pairs else ""
    if pairs and confirmed is None and not _asks(printer, [seen for _, seen in pairs], digest):
        return
    if pairs and confirmed is not None and confirmed != digest:
        raise StalePreview(
            f"stale preview: what would happen now has the digest {digest}, not {confirmed}. Nothing was done. Look"
            " again, without --yes",
            digest=digest,
        )
    to_deploy = [each for each in processes if each not in [process for process, _ in pairs]]
    deployed = client.processes.deploy(*to_deploy, by=by)
    with printer.err.status("moving runs") as status:
        amended = [
            client.processes.amend(
                process,
                shown=seen,
                by=by,
                reason=reason,
                progress=lambda count: status.update(f"{count} run(s) done"),
            )
            for process, seen in pairs
        ]
    document = _document([seen for _, seen in pairs], digest, deployed, amended)
    printer.emit(document, lambda: _done_page(printer, deployed, amended))


def _asks(printer: Printer, shown: Sequence[Amendment], digest: str) -> bool:
    """Whether it is confirmed. Where nobody can be asked, what was shown says how."""
    if printer.as_json:
        printer.document(_document(shown, digest, [], None))
        return False
    printer.out.print(_shown_page(shown), crop=False)
    if not sys.stdin.isatty():
        raise NotConfirmed(f"nothing was done. To do this, add --yes {digest}")
    if typer.confirm("Do this?", err=True):
        return True
    printer.note(f"Nothing was done. Later: --yes {digest}", "dim")
    return False


def _document(
    shown: Sequence[Amendment],
    digest: str,
    deployed: Sequence[Deployed],
    amended: Sequence[Amended] | None,
) -> dict[str, Any]:
    return {
        "amendments": [
            asdict(each)
            | {"groups": [asdict(group) | {"remedy": group.remedy} for group in each.groups]}
            for each in shown
        ],
        "digest": digest,
        "deployed": list(deployed),
        "amended": None if amended is None else list(amended),
    }


def _shown_page(shown: Sequence[Amendment]) -> RenderableType:
    return Group(*(line for each in shown for line in (*_shown(each), Text())))


def _shown(shown: Amendment) -> list[RenderableType]:
    now = f"{shown.process} v{shown.version}"
    head = (
        f"{now} has this content as its revision {shown.code_revision}; some runs are on an earlier one"
        if shown.is_current
        else f"{now}: revision {shown.code_revision + 1} of its code"
    )
    lines: list[RenderableType] = [text(head, "bold")]
    if not shown.is_current:
        lines.append(text(f"class of the edit: {shown.edit}", "dim"))
    lines += [text(f"  {word}") for word in shown.words]
    lines += [_diff_line(line) for line in shown.diff.splitlines()]
    lines.append(Text())
    for group in shown.groups:
        lines += [*_group(group), Text()]
    lines += [_who_stays(each, shown.others) for each in shown.staying]
    lines.append(_sum(shown))
    return lines


def _diff_line(line: str) -> Text:
    style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "dim")
    return text(f"  {line}", style)


def _group(group: AmendedGroup) -> list[RenderableType]:
    more = group.runs - len(group.samples)
    goes = {
        "moves": "go on with it",
        "stays": "stay on the revision that they have",
        "parks": "become incidents",
    }[group.becomes]
    head = text(group.found, "green" if group.found.goes_on else "bold red")
    lines: list[RenderableType] = [
        head + text(f"  {_runs(group.runs)}: {goes}", "bold"),
        text(f"  {', '.join(group.samples)}{f' and {more} more' if more else ''}", "dim"),
    ]
    lines += [text(f"  {line}") for line in group.reason.splitlines()]
    if group.remedy:
        lines.append(text(f"  → {group.remedy}", "yellow"))
    return lines


def _who_stays(staying: Staying, others: str) -> Text:
    """Of runs that stay: whether a living worker has their code, and what becomes of them if none has."""
    stay = f"{_runs(staying.runs)} on revision {staying.code_revision}"
    if staying.served_by:
        more = staying.served_by - len(staying.workers[:WORKERS_NAMED])
        named = ", ".join(staying.workers[:WORKERS_NAMED]) + (f" and {more} more" if more else "")
        keep = "it" if staying.served_by == 1 else "one of them"
        return text(
            f"{stay}: {named} {'has' if staying.served_by == 1 else 'have'} that code and can move them. Keep {keep} "
            "until `perennial processes` shows no open run there",
            "yellow",
        )
    park = "" if others == "park" else ", or make incidents of them: --others park"
    return text(
        f"{stay}: no living worker has that code. They stand still, in sight, until one comes that has it: start one, "
        f"or migrate them{park}",
        "bold red",
    )


def _sum(shown: Amendment) -> Text:
    counts = {
        becomes: sum(group.runs for group in shown.groups if group.becomes == becomes)
        for becomes in ("moves", "stays", "parks")
    }
    parts = [f"{_runs(counts['moves'])} would move"]
    if counts["stays"]:
        parts.append(f"{counts['stays']} stay")
    if counts["parks"]:
        parts.append(f"{counts['parks']} become incidents")
    style = "bold red" if counts["stays"] or counts["parks"] else "green"
    return text(f"{', '.join(parts)}; new runs start with it. digest {shown.digest}", style)


def _done_page(
    printer: Printer, deployed: Sequence[Deployed], amended: Sequence[Amended]
) -> RenderableType:
    from orchestrator.cli.listings import deployed_table

    lines: list[RenderableType] = []
    if deployed:
        lines.append(deployed_table(deployed, width=printer.width))
    for each in amended:
        parts = [f"{_runs(each.moved)} moved"]
        parts += [f"{each.stayed} stayed"] if each.stayed else []
        parts += [f"{each.parked} parked as incidents"] if each.parked else []
        lines.append(
            text(f"{each.process} v{each.version} is at revision {each.code_revision}: ", "bold")
            + text(", ".join(parts))
        )
        if each.busy:
            lines.append(
                text(
                    f"  {_runs(each.busy)} changed under every try: call this again to move them",
                    "yellow",
                )
            )
    return Group(*lines)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
