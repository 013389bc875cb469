"""Working time: hours, weekends and holidays of a place, and how deadlines are counted in them.

opening_hours     "Mo-Fr 09:00-17:00", as OpenStreetMap writes it, read
public_holidays   the holidays of a country and its parts, by the `holidays` library
calendar          `Calendar`: a zone, hours and holidays; when working time begins, ends, and how much of it there is
business_time     `business_hours(16)`, `business_days(2)`, and the same as text
deadlines         when something is due that is asked at a moment, by either clock
"""

from orchestrator.core.calendars.business_time import (
    BusinessTime,
    business_days,
    business_hours,
    read_duration,
)
from orchestrator.core.calendars.calendar import Calendar
from orchestrator.core.calendars.deadlines import Clock, Due, due_after

__all__ = [
    "BusinessTime",
    "Calendar",
    "Clock",
    "Due",
    "business_days",
    "business_hours",
    "due_after",
    "read_duration",
]
