"""Work on a split batch by batch: where to go on, and how long it will take."""

import time
from collections.abc import Callable, Iterator

from lipjax.evaluation.rows import PartialRows

PROGRESS_SECONDS = 10.0


def remaining(
    partial: PartialRows, total: int, batch_size: int, say: Callable[[str], None], done: str
) -> Iterator[int]:
    """Starts of the batches whose rows are missing, with a line of progress now and then."""
    first = len(partial.rows)
    if first:
        say(f"{done} already: {first} images; going on")
    progress = _Progress(say, first, total)
    for start in range(first, total, batch_size):
        yield start
        progress(len(partial.rows))


class _Progress:
    """A line every ten seconds: images done, images/s and time left."""

    def __init__(self, say: Callable[[str], None], first: int, total: int):
        self._say, self._first, self._total = say, first, total
        self._started = self._last = time.perf_counter()

    def __call__(self, done: int) -> None:
        now = time.perf_counter()
        if now - self._last < PROGRESS_SECONDS:
            return
        self._last = now
        rate = (done - self._first) / (now - self._started)
        left = (self._total - done) / rate
        self._say(f"{done}/{self._total} images  {rate:.0f} images/s  {left:.0f} s left")
