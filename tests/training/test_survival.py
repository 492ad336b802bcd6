"""Runs that are taken away: signals, kill −9, full disks; and checkpoints within an epoch."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import quiet, records, tiny_config

from lipjax.checkpoint import Checkpoints, sha256
from lipjax.system.interruption import Interrupted, Interruption
from lipjax.training import loop as training
from lipjax.training import resume
from lipjax.training.loop import train
from lipjax.workdir import load_trained

ROOT = Path(__file__).parents[2]


def signalled(monkeypatch, steps, number):
    """Sends the signal to this process while it is in the step after so many."""
    make, taken = training.compiled_step, []

    def with_signal(*arguments):
        step = make(*arguments)

        def stepping(*state):
            taken.append(None)
            if len(taken) == steps + 1:
                os.kill(os.getpid(), number)
            return step(*state)

        return stepping

    monkeypatch.setattr(training, "compiled_step", with_signal)


@pytest.mark.parametrize(("steps", "number"), [(5, signal.SIGTERM), (7, signal.SIGINT)])
def test_a_signal_finishes_the_step_and_the_run_resumes_bit_equal(trained, tmp_path, monkeypatch, steps, number):
    """Step 6 lies within epoch 2 (of four steps), step 8 is its last."""
    before = signal.getsignal(number)
    with (
        monkeypatch.context() as patch,
        pytest.raises(Interrupted, match=f"{number.name} after step {steps + 1} of 16"),
    ):
        signalled(patch, steps, number)
        train(tiny_config(), tmp_path, say=quiet)
    assert signal.getsignal(number) is before
    assert Checkpoints(tmp_path).metadata("last")["step"] == steps + 1
    lines = []
    resumed = train(tiny_config(), tmp_path, say=lines.append)
    assert f"resuming {tmp_path} after epoch {(steps + 1) // 4}" in "\n".join(lines)
    workdir, unbroken = trained
    jax.tree.map(np.testing.assert_array_equal, resumed, unbroken)
    assert records(tmp_path) == records(workdir)


def test_a_second_interrupt_stops_at_once():
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption, interruption.patient():
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_checkpoints_by_steps_and_by_seconds(trained, tmp_path):
    saved = {}
    for key, value in {"run.checkpoint_steps": 3, "run.checkpoint_seconds": 1e-9}.items():
        config = tiny_config()
        config.update_from_flattened_dict({key: value, "run.keep_checkpoints": 100})
        state = train(config, tmp_path / key, say=quiet)
        jax.tree.map(np.testing.assert_array_equal, state, trained[1])
        saved[key] = sorted(int(path.name) for path in (tmp_path / key / "checkpoints" / "last").iterdir())
    assert saved == {"run.checkpoint_steps": [3, 4, 6, 8, 9, 12, 15, 16], "run.checkpoint_seconds": list(range(1, 17))}


def test_exit_code_of_a_signal(tmp_path):
    """train.py on the digits, stopped from outside: code 75, and a checkpoint that certify.py can read."""
    workdir = tmp_path / "run"
    run = [sys.executable, "train.py", "--config=configs/digits.py", f"--workdir={workdir}"]
    run += ["--config.model.init_channels=2", "--config.model.hidden=8", "--config.run.epochs=100000"]
    process = subprocess.Popen(run, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not Checkpoints(workdir).has("last"):
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == os.EX_TEMPFAIL
    assert "train.py: SIGTERM after step" in process.stderr.read()
    assert load_trained(workdir).variables["params"]


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path, rng, kills):
    """kill −9 at random moments, with a checkpoint every other step: the final bytes are those of an unbroken run."""
    config = [
        "--config.model.init_channels=2",
        "--config.model.hidden=8",
        "--config.run.epochs=4",
        "--config.run.checkpoint_steps=2",
    ]

    def run(workdir):
        return [sys.executable, "train.py", "--config=configs/digits.py", f"--workdir={workdir}", *config]

    subprocess.run(run(tmp_path / "unbroken"), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    killed, wall = tmp_path / "killed", 0
    for _ in range(kills):
        process = subprocess.Popen(run(killed), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        folder, before = killed / "checkpoints" / "last", steps_on_disk(killed)
        wanted = before + 2 * rng.integers(0, 6)
        while process.poll() is None and (not folder.exists() or steps_on_disk(killed) < wanted):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
        assert steps_on_disk(killed) >= before
        wall += process.returncode == -signal.SIGKILL
    assert wall > 0
    subprocess.run(run(killed), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    states = [Checkpoints(tmp_path / name).metadata("last")["state_sha256"] for name in ("unbroken", "killed")]
    assert states[0] == states[1]
    assert records(killed) == records(tmp_path / "unbroken")


def steps_on_disk(workdir):
    """The newest checkpoint whose writing has ended."""
    folder = workdir / "checkpoints" / "last"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max([0, *(int(name) for name in names if name.isdigit())])


def test_no_room_for_checkpoints_is_told_before_training(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(resume.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"checkpoints need 0\.00 GB"):
        train(tiny_config(), tmp_path, say=quiet)
    assert not (tmp_path / "checkpoints").exists() or not Checkpoints(tmp_path).has("last")


def test_a_full_disk_keeps_the_last_checkpoint(trained, tmp_path, monkeypatch):
    save = Checkpoints._save

    def full(self, kind, kept, state, metadata):
        if metadata["step"] > 8:
            raise OSError(28, "No space left on device")
        save(self, kind, kept, state, metadata)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Checkpoints, "_save", full)
        train(tiny_config(), tmp_path, say=quiet)
    assert Checkpoints(tmp_path).metadata("last")["step"] == 8
    state = train(tiny_config(), tmp_path, say=quiet)
    assert sha256(state) == sha256(trained[1])
