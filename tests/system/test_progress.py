import re
import sys

import pytest

from lipjax.system import progress
from lipjax.system.progress import Count, Progress


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


def test_images_are_counted_in_a_log_file_with_what_is_done_within_a_batch(monkeypatch):
    """A batch of 100 takes 12 s, in two stages; 50 images were done before."""
    now, lines = [0.0], []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with Count(lines.append, "attacked", 350, 50) as count:
        for _ in range(3):
            count.stage("features")
            now[0] += 11
            count.stage("radius 0.5")
            now[0] += 1
            count.add(100)
    assert lines == [
        "attacked 50 of 350 images, ? left; now radius 0.5",
        "attacked 150 of 350 images, 00:46 left; now radius 0.5",
        "attacked 250 of 350 images, 00:17 left; now radius 0.5",
    ]


def test_images_are_counted_by_a_bar_in_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    lines = []
    with Count(lines.append, "attacked", 300) as count:
        count.stage("radius 0.5")
        count.add(100)
    assert not lines
    shown = capsys.readouterr().err
    assert re.search(r"attacked: .*300 .*radius 0\.5", shown)
