"""What Postgres itself refuses to keep, whatever ours have checked: its database lacks a character, say."""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import DataError

from orchestrator.errors import PayloadError


def refused(what: str, refusal: DataError) -> PayloadError:
    """The failure of an activity whose outcome can't be kept, in characters that every database takes."""
    return PayloadError(f"{what} can't be kept by Postgres: {_plain(str(refusal.orig))}")


def in_plain_characters(error: dict[str, Any]) -> dict[str, Any]:
    """The same error, for a database that lacks some of its characters."""
    return {name: _in_ascii(value) for name, value in error.items()}


def _in_ascii(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("ascii", errors="backslashreplace").decode()
    if isinstance(value, list):
        return [_in_ascii(each) for each in value]
    if isinstance(value, dict):
        return {_in_ascii(name): _in_ascii(each) for name, each in value.items()}
    return value


def _plain(text: str) -> str:
    first_line = (text.splitlines() or [""])[0]
    return first_line.encode("ascii", errors="backslashreplace").decode()
