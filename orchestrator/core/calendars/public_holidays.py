"""The holidays of a country, or of a part of it: what the `holidays` library knows, read when it is first needed."""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import Any

from orchestrator.errors import DefinitionError


class PublicHolidays:
    """Of `place`: a country's code (`NL`), or with its part (`DE-BY`, ISO 3166-2)."""

    def __init__(self, place: str) -> None:
        self.place = place

    def name_of(self, day: date) -> str | None:
        """What is kept on that day, in English where the library has it. None: it is no holiday."""
        name: str | None = _of(self.place).get(day)
        return name


def check_place(place: str) -> None:
    """Whether the library knows it. Raises DefinitionError."""
    _of(place)


@lru_cache(maxsize=64)
def _of(place: str) -> Any:
    import holidays  # a tenth of a second, for those alone who have holidays

    country, _, part = place.partition("-")
    kinds = getattr(holidays, "country_holidays")  # noqa: B009 - it is made at its import
    try:
        languages = kinds(country).supported_languages
        return kinds(
            country, subdiv=part or None, language="en_US" if "en_US" in languages else None
        )
    except NotImplementedError:
        known = holidays.list_supported_countries(include_aliases=False)
        parts = known.get(country)
        remedy = (
            "Write a country's code (ISO 3166), such as 'NL', or with its part, 'DE-BY'."
            if parts is None
            else f"Parts of {country}: {', '.join(parts) or 'none'}."
        )
        raise DefinitionError(f"no holidays are known of {place!r}", remedy=remedy) from None
