"""The two profiles of docs/operating.md, by the variable that names one to `app.py`; and the safe one again,
with each stage by a message of its own (docs/adr/0012).
"""

PROFILE = "BENCH_PROFILE"
SAFE, DEDICATED, BY_MESSAGES = "safe", "dedicated", "by messages"


def environment_of(profile: str) -> dict[str, str]:
    """What the workers of that profile are started with."""
    if profile == BY_MESSAGES:
        return {PROFILE: SAFE, "PERENNIAL_EAGER_SECONDS": "0"}
    return {PROFILE: profile}
