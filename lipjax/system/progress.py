"""Lines about a running training."""

import math
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

LOG_SECONDS = 10.0
TERMINAL_SECONDS = 2.0  # each update waits for the device once


class Console:
    """Prints lines.  In a terminal `update` shows a line that the next one replaces; in a log file it is a line."""

    def __init__(self) -> None:
        self._is_open = False

    @property
    def seconds(self) -> float:
        """Between updates."""
        return TERMINAL_SECONDS if sys.stdout.isatty() else LOG_SECONDS

    def __call__(self, line: str) -> None:
        print(("\r\x1b[K" if self._is_open else "") + line, flush=True)
        self._is_open = False

    def update(self, line: str) -> None:
        if not sys.stdout.isatty():
            self(line)
            return
        columns = shutil.get_terminal_size().columns
        print("\r\x1b[K" + line[: columns - 1], end="", flush=True)
        self._is_open = True


class Progress:
    """Now and then a line with loss, accuracy, images/s and time left; after each epoch its record.

    Args:
      say: takes a line; a `Console`, or any function.
      epochs, steps_per_epoch, batch_size: of the run.
    """

    def __init__(self, say: Callable[[str], None], epochs: int, steps_per_epoch: int, batch_size: int):
        self._say, self._epochs, self._steps_per_epoch, self._batch_size = say, epochs, steps_per_epoch, batch_size
        self._update = getattr(say, "update", say)
        self._seconds = getattr(say, "seconds", LOG_SECONDS)
        self._timed_from: int | None = None
        self._started = self._last = time.perf_counter()

    def step(self, done: int, record_of: Callable[[], dict[str, Any]]) -> None:
        """After a step; `record_of` fetches loss and accuracy from the device, and is called only for a line."""
        if self._timed_from is None:  # the first dispatch compiles: it is not timed
            self._timed_from, self._started = done, time.perf_counter()
            self._last = self._started
        if time.perf_counter() - self._last < self._seconds:
            return
        record = record_of()
        self._last = time.perf_counter()
        rate = (done - self._timed_from) / (self._last - self._started)
        left = (self._epochs * self._steps_per_epoch - done) / rate if rate else math.inf
        epoch, position = (done - 1) // self._steps_per_epoch + 1, (done - 1) % self._steps_per_epoch
        self._update(
            f"epoch {epoch}/{self._epochs} step {position + 1}/{self._steps_per_epoch}  "
            f"loss {record['loss']:.4f}  accuracy {record['accuracy']:.2%}  "
            f"{rate * self._batch_size:.0f} images/s  {_clock(left)} left"
        )

    def epoch(self, record: dict[str, Any]) -> None:
        """After an epoch."""
        shown = "  ".join(f"{k} {v:.4f}" for k, v in record.items() if k not in ("epoch", "seconds"))
        self._say(f"epoch {record['epoch']}/{self._epochs}  {shown}  ({record['seconds']:.1f} s)")


def _clock(seconds: float) -> str:
    if seconds == math.inf:
        return "?"
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
