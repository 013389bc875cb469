"""No password of a server in a process list, nor in the traceback of a bug."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLES = {
    "--database-url": "PERENNIAL_DATABASE_URL",
    "--broker-url": "PERENNIAL_BROKER_URL",
}


def hide_arguments() -> None:
    """Begin anew with the URLs in the environment: every account may list the arguments of a process.

    `perennial up` runs for days. Returns if no argument holds a password.
    """
    kept, moved = _without_urls(sys.argv[1:])
    if not moved:
        return
    ours = len(sys.argv) - 1
    before = sys.orig_argv[1 : len(sys.orig_argv) - ours]
    os.execve(sys.executable, [sys.executable, *before, *kept], {**os.environ, **moved})  # noqa: S606 - ourselves


def _without_urls(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    from orchestrator.addresses import masked

    kept, moved = [], {}
    rest = iter(arguments)
    for argument in rest:
        name, is_joined, url = argument.partition("=")
        variable = _VARIABLES.get(name)
        if variable is None:
            kept.append(argument)
            continue
        url = url if is_joined else next(rest, "")
        if masked(url) == url:
            kept += [argument] if is_joined else [argument, url]
        else:
            moved[variable] = url
    return kept, moved


@contextmanager
def without_secrets() -> Iterator[None]:
    """Within, the traceback of an error that nobody explains is shown without passwords; it exits with 1."""
    try:
        yield
    except Exception:  # noqa: BLE001 - whatever it is, it is shown
        from orchestrator.addresses import scrubbed

        urls = [os.environ.get(variable) for variable in _VARIABLES.values()]
        sys.stderr.write(scrubbed(traceback.format_exc(), urls))
        raise SystemExit(1) from None
