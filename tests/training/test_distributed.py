"""Two processes on one machine, joined by the collectives of the CPU: one training."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_config

import lipjax
from lipjax.checkpoint import Checkpoints
from lipjax.system import processes
from lipjax.system.processes import ADDRESS, COUNT, INDEX, ConnectError, connect
from lipjax.training.loop import train
from lipjax.workdir import load_trained

ROOT = Path(__file__).parents[2]
TRAIN = """
import sys
from pathlib import Path
from conftest import tiny_config
from lipjax.system import compilation
from lipjax.system.interruption import Interrupted
from lipjax.system.processes import connect
from lipjax.training.loop import train
compilation.use_cache()
connect(60)
config = tiny_config()
config.update_from_flattened_dict({"run.distributed": True, "run.epochs": int(sys.argv[2])})
try:
    train(config, Path(sys.argv[1]))
except Interrupted as interrupted:
    print(interrupted, file=sys.stderr)
    sys.exit(75)
"""
EPOCHS = 40  # more than are trained before the signal


def free_address():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{server.getsockname()[1]}"


def start_two(workdir, devices, epochs):
    """Two processes of so many virtual devices each."""
    shared = {ADDRESS: free_address(), COUNT: "2", "JAX_PLATFORMS": "cpu"}
    shared |= {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    shared |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", TRAIN, str(workdir), str(epochs)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return [subprocess.Popen(command, env=os.environ | shared | {INDEX: str(i)}, **pipes) for i in range(2)]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """(workdir, outputs) of a run of two processes on two devices each, of which the second got a SIGTERM."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    both = start_two(workdir, 2, EPOCHS)
    while not (workdir / "metrics.jsonl").exists() and all(process.poll() is None for process in both):
        time.sleep(0.05)
    both[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [os.EX_TEMPFAIL] * 2, outputs
    return workdir, outputs


def test_both_stop_at_the_same_step_and_only_the_first_speaks(stopped):
    workdir, ((said, reason), (silence, own_reason)) = stopped
    step = Checkpoints(workdir).metadata("last")["step"]
    assert f"a signal to another process after step {step} of {4 * EPOCHS}" in reason
    assert f"SIGTERM after step {step} of {4 * EPOCHS}" in own_reason
    assert "epoch 1/40  loss" in said
    assert "epoch" not in silence
    epochs = [json.loads(line)["epoch"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, step // 4 + 1))


def test_resumed_by_one_process_and_certified(stopped, tmp_path):
    """Two processes of two devices, then one of one: the training of one alone."""
    workdir, _ = stopped
    step = Checkpoints(workdir).metadata("last")["step"]
    config = tiny_config()
    config.update_from_flattened_dict({"run.distributed": False, "run.epochs": EPOCHS})

    class Enough(Exception):
        pass

    def until(line):
        if line.startswith(f"epoch {step // 4 + 2}/"):
            raise Enough

    for folder in (workdir, tmp_path / "alone"):
        with pytest.raises(Enough):
            train(config, folder, say=until)
    networks = [load_trained_last(folder) for folder in (workdir, tmp_path / "alone")]
    dataset, model = networks[0][:2]
    images = dataset.test.images[:64].astype("float32") / dataset.pixel_max
    outputs = [np.asarray(model.apply(variables, images)) for *_, variables in networks]
    # float32 sums have another order on four devices; a training that differs is off by 0.1 and more.
    np.testing.assert_allclose(*outputs, rtol=0, atol=2e-2)
    labels = dataset.test.labels[:64]
    radii = [lipjax.certify(model, variables, images, labels).radius for *_, variables in networks]
    assert radii[0].max() > 0
    np.testing.assert_allclose(*radii, rtol=0, atol=2e-2)


def load_trained_last(workdir):
    """`load_trained` of the newest checkpoint: with held-out images it would take the best."""
    best = workdir / "checkpoints" / "best"
    if best.exists():
        best.rename(workdir / "checkpoints" / "put_aside")
    trained = load_trained(workdir)
    return trained.dataset(), trained.model, trained.variables


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({ADDRESS: "h:1"}, f"{ADDRESS} set without {COUNT}, {INDEX}; set all three or none"),
        ({ADDRESS: "h", COUNT: "2", INDEX: "0"}, "must be host:port of process 0 and two integers"),
        ({ADDRESS: "h:1", COUNT: "two", INDEX: "0"}, "must be host:port of process 0 and two integers"),
        ({ADDRESS: "h:1", COUNT: "2", INDEX: "2"}, f"{INDEX}=2 must be from 0 to {COUNT}"),
        ({}, f"no {ADDRESS} set, no cluster detected"),
    ],
)
def test_bad_addresses_are_told(monkeypatch, given, message):
    for name in (ADDRESS, COUNT, INDEX):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConnectError, match=message) as error:
        connect(1)
    assert str(error.value).startswith("config.run.distributed=True: ")


def test_a_stale_address_is_named_when_time_is_up(monkeypatch):
    address = free_address()
    for name, value in {ADDRESS: address, COUNT: "2", INDEX: "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda **keywords: pytest.fail("must not be reached"))
    with pytest.raises(ConnectError, match=f"nobody answers at {ADDRESS}={address} after 1 s"):
        connect(1)
