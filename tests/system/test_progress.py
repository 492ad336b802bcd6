import re
import sys

import pytest

from lipjax.system import progress
from lipjax.system.progress import Progress


@pytest.fixture
def steps(monkeypatch):
    """Forty steps of half a second; gives the calls of `record_of`."""

    def run(shown):
        clock, fetched = iter(range(10**6)), []
        monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock) / 2)

        def record():
            fetched.append(None)
            return {"epoch": 1, "loss": 0.5, "accuracy": 0.25}

        with shown:
            for done in range(1, 41):
                shown.step(done, record)
            shown.epoch({"epoch": 4, "loss": 0.5, "accuracy": 0.25, "seconds": 3.0})
        return fetched

    return run


def test_in_a_log_file_a_line_every_ten_seconds(steps):
    lines = []
    fetched = steps(Progress(lines.append, epochs=4, steps_per_epoch=10, batch_size=64))
    assert lines.pop() == "epoch 4/4  loss 0.5000  accuracy 0.2500  (3.0 s)"
    assert len(lines) == len(fetched) == 1
    # The first step, which compiles, is not timed: two steps a second.
    assert lines == ["epoch 3/4 step 1/10  loss 0.5000  accuracy 25.00%  128 images/s  00:09 left"]


def test_in_a_terminal_a_bar_every_two_seconds(steps, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    lines = []
    fetched = steps(Progress(lines.append, epochs=4, steps_per_epoch=10, batch_size=64))
    assert len(lines) == 1
    assert len(fetched) == 9
    assert re.search(r"\d+/40 .*loss 0\.5000  accuracy 25\.00%  128 images/s", capsys.readouterr().err)
