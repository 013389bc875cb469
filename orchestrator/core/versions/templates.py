"""A run's new input, made from the one that it has.

    {"amount": "$.sum", "currency": "EUR", "who": {"name": "$.user.name"}}

A text that is `$` means the whole former input, and one that begins with `$.` a part of it, by names and places in
lists. `$$` at the beginning of a text stands for `$`. All else stands for itself.
"""

from __future__ import annotations

from typing import Any

from orchestrator.errors import PerennialError


class TemplateUnfit(PerennialError):
    """The former input lacks what the template asks for."""


def filled(template: Any, former: Any) -> Any:
    """The template, with what it names of the former input. Raises TemplateUnfit, which names the path alone."""
    if isinstance(template, dict):
        return {name: filled(part, former) for name, part in template.items()}
    if isinstance(template, list):
        return [filled(part, former) for part in template]
    return _named(template, former) if isinstance(template, str) else template


def _named(text: str, former: Any) -> Any:
    if text == "$":
        return former
    if text.startswith("$."):
        return _part(former, text)
    return text[1:] if text.startswith("$$") else text


def _part(value: Any, path: str) -> Any:
    for name in path[2:].split("."):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise TemplateUnfit(f"the run's input has no {path}")
    return value
