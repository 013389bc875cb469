"""What only the owner of a data directory may read: its directories and its passwords."""

import os
import secrets
from pathlib import Path

PASSWORD_BYTES = 24
FLOWER_USER = "perennial"
FLOWER_PASSWORD_FILE = "flower-password"  # noqa: S105 - the name of a file


def private_directory(path: Path) -> None:
    """Make a directory of ours, or keep it, for our account alone."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)


def kept_password(path: Path) -> str:
    """The password in this file, made at the first call. The file is its owner's alone, from its first moment."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        if found := path.read_text(encoding="ascii").strip():
            return found
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)  # whoever made it died before it wrote
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(password + "\n")
    return password


def flower_login(directory: Path) -> dict[str, str]:
    """For Flower's environment, since every account may list a process' arguments.

    Flower shows what runs are about, and stops workers: it isn't for every account of this machine.
    """
    return {"FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{kept_password(directory / FLOWER_PASSWORD_FILE)}"}
