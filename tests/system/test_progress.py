import re

import pytest

from lipjax.system import progress
from lipjax.system.progress import Console, Progress, _clock


class Terminal:
    """Collects what is printed, as a terminal or as a file."""

    def __init__(self, is_terminal):
        self.text, self._is_terminal = "", is_terminal

    def isatty(self):
        return self._is_terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.fixture
def printed(monkeypatch):
    def as_(is_terminal):
        terminal = Terminal(is_terminal)
        monkeypatch.setattr(progress.sys, "stdout", terminal)
        return terminal

    return as_


def test_one_line_that_updates_in_a_terminal(printed):
    terminal = printed(True)
    say = Console()
    say.update("step 1")
    say.update("step 2")
    say("epoch 1")
    say("epoch 2")
    assert terminal.text == "\r\x1b[Kstep 1\r\x1b[Kstep 2\r\x1b[Kepoch 1\nepoch 2\n"


def test_lines_in_a_log_file(printed):
    log = printed(False)
    say = Console()
    say.update("step 1")
    say("epoch 1")
    assert log.text == "step 1\nepoch 1\n"


def test_progress_fetches_only_for_a_line(monkeypatch):
    """Ten steps of half a second, a line every two seconds; the first step, which compiles, is not timed."""
    clock = iter(range(10**6))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock) / 4)
    lines, fetched = [], []
    lines_of = lambda line: lines.append(line)  # noqa: E731
    lines_of.seconds = 2.0
    shown = Progress(lines_of, epochs=4, steps_per_epoch=10, batch_size=64)

    def record():
        fetched.append(None)
        return {"epoch": 1, "loss": 0.5, "accuracy": 0.25}

    for done in range(1, 11):
        shown.step(done, record)
    assert 0 < len(lines) == len(fetched) < 10
    pattern = r"epoch 1/4 step \d+/10  loss 0\.5000  accuracy 25\.00%  \d+ images/s  0:0\d:\d\d left"
    assert all(re.fullmatch(pattern, line) for line in lines)
    shown.epoch({"epoch": 1, "loss": 0.5, "accuracy": 0.25, "seconds": 3.0})
    assert lines[-1] == "epoch 1/4  loss 0.5000  accuracy 0.2500  (3.0 s)"


def test_clock():
    assert [_clock(seconds) for seconds in (0, 59.5, 3661, float("inf"))] == ["0:00:00", "0:01:00", "1:01:01", "?"]
