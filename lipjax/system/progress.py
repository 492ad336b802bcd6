"""How training and certification go on: a bar of tqdm in a terminal, lines in a log file."""

import time
from collections.abc import Callable
from typing import Any

import tqdm

LOG_SECONDS = 10.0
TERMINAL_SECONDS = 2.0  # each update waits for the device once


class Progress:
    """Now and then loss, accuracy, images/s and time left; after each epoch a line with its record.

    Args:
      say: takes a line.
      epochs, steps_per_epoch, batch_size: of the run.
      done: steps that were done before.
    """

    def __init__(self, say: Callable[[str], None], epochs: int, steps_per_epoch: int, batch_size: int, done: int = 0):
        self._say, self._epochs, self._steps_per_epoch, self._batch_size = say, epochs, steps_per_epoch, batch_size
        total = epochs * steps_per_epoch
        self._bar = tqdm.tqdm(total=total, initial=done, unit="step", disable=None, leave=False, dynamic_ncols=True)
        self._seconds = LOG_SECONDS if self._bar.disable else TERMINAL_SECONDS
        self._total, self._timed_from = total, -1
        self._started = self._last = 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def step(self, done: int, record_of: Callable[[], dict[str, Any]]) -> None:
        """After a step; `record_of` fetches loss and accuracy from the device, and is called only to be shown."""
        now = time.perf_counter()
        if self._timed_from < 0:  # the first step compiles: it is not timed
            self._timed_from, self._started, self._last = done, now, now
        if now - self._last < self._seconds:
            return
        record, self._last = record_of(), now
        shown = f"loss {record['loss']:.4f}  accuracy {record['accuracy']:.2%}"
        rate = (done - self._timed_from) / (now - self._started)
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{shown}  {rate * self._batch_size:.0f} images/s", refresh=False)
            self._bar.n = done
            self._bar.refresh()
            return
        epoch, position = (done - 1) // self._steps_per_epoch + 1, (done - 1) % self._steps_per_epoch
        left = tqdm.tqdm.format_interval((self._total - done) / rate) if rate else "?"
        self._say(
            f"epoch {epoch}/{self._epochs} step {position + 1}/{self._steps_per_epoch}  {shown}  "
            f"{rate * self._batch_size:.0f} images/s  {left} left"
        )

    def epoch(self, record: dict[str, Any]) -> None:
        """After an epoch."""
        shown = "  ".join(f"{k} {v:.4f}" for k, v in record.items() if k not in ("epoch", "seconds"))
        self._say(f"epoch {record['epoch']}/{self._epochs}  {shown}  ({record['seconds']:.1f} s)")


class Count:
    """Images done, of so many: a bar in a terminal, elsewhere a line every LOG_SECONDS.

    Args:
      say: takes a line.
      what: is done to images: "certified".
      total, done: images of all, and those that were done before.
    """

    def __init__(self, say: Callable[[str], None], what: str, total: int, done: int = 0):
        self._say, self._what, self._first = say, what, done
        self._bar = tqdm.tqdm(
            total=total, initial=done, desc=what, unit=" images", disable=None, leave=False, dynamic_ncols=True
        )
        self._total, self._done = total, done
        self._started = self._last = time.perf_counter()

    def __enter__(self) -> "Count":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def stage(self, text: str) -> None:
        """Something that takes a while has begun, within a batch."""
        if not self._bar.disable:
            self._bar.set_postfix_str(text)
        elif time.perf_counter() - self._last >= LOG_SECONDS:
            self._line(f"; now {text}")

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        self._bar.update(count)
        if self._bar.disable and self._done < self._total and time.perf_counter() - self._last >= LOG_SECONDS:
            self._line("")

    def _line(self, now: str) -> None:
        self._last = time.perf_counter()
        done = self._done - self._first
        left = (
            tqdm.tqdm.format_interval((self._total - self._done) * (self._last - self._started) / done) if done else "?"
        )
        self._say(f"{self._what} {self._done} of {self._total} images, {left} left{now}")
