"""Files that are there whole or not at all."""

import os
from pathlib import Path


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file beside its place, then move it there: a reader, or a kill, sees the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
