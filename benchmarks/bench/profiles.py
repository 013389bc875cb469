"""The two profiles of docs/operating.md, by the variable that names one to `app.py`."""

PROFILE = "BENCH_PROFILE"
SAFE, DEDICATED = "safe", "dedicated"
