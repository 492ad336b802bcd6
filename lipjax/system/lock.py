"""One process at a time in a folder."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

BEAT = 20.0  # seconds between two signs of life
STALE = 600.0  # without one for so long, a process of another machine counts as ended


class LockedError(OSError):
    """Another process is at work in the folder."""


class FolderLock:
    """While it is entered, no other process that asks for it is at work in the folder.

    FOLDER/NAME says whose it is and is touched every BEAT seconds.  The kernel frees it when its process ends, however
    that happens; where the file system does not tell another machine so, it is free after STALE seconds.  What a
    process left behind that did not end by itself is taken over, and told.

    Args:
      doing: what the process does, for others: "training".
      say: takes a line.

    Raises:
      LockedError: on entry, and by `check`, with whose it is, where, and for how long.
    """

    def __init__(self, folder: Path, name: str, doing: str, say: Callable[[str], None]):
        self._path, self._doing, self._say = folder / name, doing, say
        self._own = {"host": socket.gethostname(), "process": os.getpid(), "token": uuid.uuid4().hex}
        self._ended = threading.Event()

    def __enter__(self) -> "FolderLock":
        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._path.exists() and os.path.samestat(os.fstat(self._file), self._path.stat()):
                    self._take()
                    return self
            except BlockingIOError:
                os.close(self._file)
                raise self._taken(self._there()) from None
            except BaseException:
                os.close(self._file)
                raise
            os.close(self._file)  # its owner ended, and removed it, between two of the lines above

    def _take(self) -> None:
        left, age = self._there(), time.time() - os.fstat(self._file).st_mtime
        if left and left["host"] != self._own["host"] and age < STALE:
            raise self._taken(left)
        if left:
            self._say(f"taking over {self._path.parent}: {_whose(left)} ended without a word")
        os.truncate(self._file, 0)
        os.pwrite(self._file, json.dumps({**self._own, "doing": self._doing, "since": time.time()}).encode(), 0)
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._there().get("token") == self._own["token"]:
            self._path.unlink(missing_ok=True)
        os.close(self._file)

    def check(self) -> None:
        """Raise LockedError if another process has taken it over, or its file was removed; before each writing."""
        there = self._there()
        if there.get("token") != self._own["token"]:
            raise self._taken(there)

    def _live(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):  # a share that is away for a while: the next one may be seen
                os.utime(self._file)

    def _there(self) -> Mapping[str, Any]:
        try:
            there = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        is_whole = (
            isinstance(there, dict) and {*self._own, "since"} <= {*there} and isinstance(there["since"], int | float)
        )
        return there if is_whole else {}

    def _taken(self, there: Mapping[str, Any]) -> LockedError:
        if not there:
            return LockedError(f"{self._path} was removed while {self._doing} went on: another process may be at work")
        doing, since = there.get("doing", self._doing), _duration(time.time() - there["since"])
        return LockedError(
            f"{self._path.parent}: {_whose(there)} has been {doing} there for {since}; wait for it, or end it"
        )


def _whose(there: Mapping[str, Any]) -> str:
    return f"process {there['process']} on {there['host']}"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"
