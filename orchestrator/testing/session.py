"""What the processes of one test session have together. It imports nothing, since pytest does so in every session."""

from __future__ import annotations

from pathlib import Path

shared: Path | None = None
"""A directory of this session's: for its server, if it is an embedded one, and its templates. None: this process is
alone. Whoever has made it calls `databases.end_shared` once the others have ended."""
