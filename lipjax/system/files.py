"""Files that are there whole or not at all, and where those may be kept that can be made again."""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file beside its place, then move it there: a reader, or a kill, sees the old file or the new one.

    Raises:
      OSError: with the name of the file; nothing is left beside it.
    """
    temporary = path.with_name(path.name + ".tmp")
    with naming(path):
        try:
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError of the block, such as of a full disk, the name of the file; those of writing have none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}", str(path)) from error


def cache_folder() -> Path | None:
    """$XDG_CACHE_HOME/lipjax, or ~/.cache/lipjax; None, and a line that says so, where it cannot be written to."""
    return _writeable(os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME"))


@functools.cache
def _writeable(cache: str | None, home: str | None) -> Path | None:
    """Told once, as long as neither variable changes."""
    try:
        folder = (Path(cache) if cache else Path(home or "~").expanduser() / ".cache") / "lipjax"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        reason = f"no permission to write to {folder}"
    except (OSError, RuntimeError) as error:  # RuntimeError: no HOME, and no such user
        reason = str(error)
    logging.getLogger("lipjax").warning("lipjax caches nothing: %s; XDG_CACHE_HOME=DIR names a folder", reason)
    return None
