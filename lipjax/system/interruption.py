"""SIGTERM and SIGINT as a request to stop where nothing is lost, acknowledged at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A command was asked to stop by a signal; all that was done is on disk, and the same command goes on.

    No `Exception`: whoever catches these, to say what went wrong, would take it for a fault of a file.
    """


class Interruption:
    """While it is entered, SIGTERM and SIGINT raise `Interrupted`, or, within `patient`, only set `requested`.

    A second SIGINT interrupts at once.  Each signal is acknowledged by a line on standard error as it comes, even while
    a compilation keeps Python from noticing it.  Outside the main thread, where Python allows no handlers, it does
    nothing.

    Attributes:
      requested: the name of the signal, None if there was none.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested: str | None = None
        self._waits = False

    def __enter__(self) -> "Interruption":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._request) for number in self.SIGNALS}
            self._ears, self._mouth = os.pipe()
            os.set_blocking(self._mouth, False)
            self._wakes = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._acknowledge, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._wakes)
            os.close(self._mouth)
            self._thread.join()
            os.close(self._ears)

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Within it a signal waits for whoever asks `requested`."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        if not self._waits:
            raise Interrupted(f"{self.requested}; the same command goes on")

    def _acknowledge(self) -> None:
        """Python's own handlers run between two of its instructions; the interpreter writes to this pipe before."""
        words = {int(number): f"\n{number.name}: stopping; Ctrl-C stops without waiting\n" for number in self.SIGNALS}
        while numbers := os.read(self._ears, 1):
            if numbers[0] in words:
                with contextlib.suppress(OSError):
                    os.write(2, words[numbers[0]].encode())
