"""SIGTERM and SIGINT as a request to stop at the next step, not in the middle of one."""

import signal
import threading
from types import FrameType


class Interrupted(RuntimeError):
    """Training was asked to stop by a signal; all that was done is in the last checkpoint."""


class Interruption:
    """While it is entered, SIGTERM and the first SIGINT only set `requested`, to the name of the signal.

    A second SIGINT interrupts at once.  Outside the main thread, where Python allows no handlers, it does nothing.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested: str | None = None

    def __enter__(self) -> "Interruption":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._request) for number in self.SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
