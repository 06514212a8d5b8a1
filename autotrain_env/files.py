"""Files that appear whole or not at all."""

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all; what was there stays until then.

    Args:
        path: The file.
        content: All of it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Returns whether a file is what `replace_file` leaves where its process is killed."""
    return path.name.startswith(".") and path.suffix == ".part"
