"""One process at a time: refused while another is at work, taken over when that one has ended."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lipjax.system import lock
from lipjax.system.lock import FolderLock, LockedError

HOLD = """
import sys, time
from pathlib import Path
from lipjax.system.lock import FolderLock
with FolderLock(Path(sys.argv[1]), "x.lock", "training", print):
    print("there", flush=True)
    time.sleep(60)
"""


def refuse(line):
    pytest.fail(line)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "there\n"
    yield process
    process.kill()
    process.wait()


def enter(folder, say=refuse):
    return FolderLock(folder, "x.lock", "training", say)


def test_refused_while_another_is_at_work_even_a_stopped_one(tmp_path, other):
    match = rf"process {other.pid} on .* has been training there for \d+ s; wait for it, or end it"
    for number in (0, signal.SIGSTOP):
        os.kill(other.pid, number)
        with pytest.raises(LockedError, match=match), enter(tmp_path):
            pass
        assert (tmp_path / "x.lock").exists()


def test_taken_over_from_one_that_was_killed_and_told(tmp_path, other):
    other.kill()
    other.wait()
    lines = []
    with enter(tmp_path, lines.append) as held:
        held.check()
        with pytest.raises(LockedError, match=f"process {os.getpid()} on"), enter(tmp_path):
            pass
    assert len(lines) == 1
    assert f"process {other.pid} on" in lines[0]
    assert "ended without a word" in lines[0]
    assert not (tmp_path / "x.lock").exists()
    with enter(tmp_path):  # and nothing is told of one that ended by itself
        pass


def test_one_of_another_machine_counts_by_its_signs_of_life(tmp_path, monkeypatch):
    """As where the file system keeps no locks between machines."""
    path = tmp_path / "x.lock"
    path.write_text(json.dumps({"host": "elsewhere", "process": 7, "token": "a", "since": time.time() - 7200}))
    with (
        pytest.raises(LockedError, match=r"process 7 on elsewhere has been training there for 2\.0 h"),
        enter(tmp_path),
    ):
        pass
    os.utime(path, (0, time.time() - lock.STALE - 1))
    lines = []
    with enter(tmp_path, lines.append):
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert "process 7 on elsewhere ended" in lines[0]


def test_whoever_lost_it_finds_out_before_writing(tmp_path):
    with enter(tmp_path) as held:
        (tmp_path / "x.lock").unlink()
        with pytest.raises(LockedError, match="was removed while training went on"):
            held.check()
        with enter(tmp_path), pytest.raises(LockedError, match=f"process {os.getpid()} on"):
            held.check()


@pytest.mark.parametrize("content", ["3", '"x"', '{"a": 1}', "[]", "null", '{"host": "elsewhere", "since": 1}', "{"])
def test_a_file_that_is_no_lock_is_replaced(tmp_path, content):
    (tmp_path / "x.lock").write_text(content)
    with enter(tmp_path) as held:
        held.check()
        (tmp_path / "x.lock").write_text(content)
        with pytest.raises(LockedError, match="was removed while training went on"):
            held.check()


def test_a_sign_of_life_that_fails_is_not_the_last(tmp_path, monkeypatch):
    calls = []

    def utime(file):
        calls.append(file)
        raise OSError("stale file handle")

    monkeypatch.setattr(lock, "BEAT", 0.01)
    monkeypatch.setattr(lock.os, "utime", utime)
    with enter(tmp_path):
        deadline = time.monotonic() + 30
        while len(calls) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_it_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with enter(tmp_path):
        os.utime(tmp_path / "x.lock", (0, 0))
        deadline = time.monotonic() + 30
        while (tmp_path / "x.lock").stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
