"""Training on eight devices (virtual ones of the CPU) is the training on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import tiny_config

from lipjax.checkpoint import Checkpoints
from lipjax.system.interruption import Interrupted
from lipjax.training.loop import train
from lipjax.workdir import load_trained

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    """(workdir of a run begun on one device and finished on eight, what `eight_devices.py` found)."""
    workdir = tmp_path_factory.mktemp("sharding") / "run"

    def say(line):
        if line.startswith("epoch 2/"):
            raise Interrupted

    with pytest.raises(Interrupted):
        train(tiny_config(), workdir, say=say)
    assert Checkpoints(workdir).metadata("last")["step"] == 8
    flags = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    command = [sys.executable, str(ROOT / "tests" / "training" / "eight_devices.py"), str(workdir)]
    output = subprocess.run(command, cwd=ROOT, env=os.environ | flags, capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    return workdir, json.loads(output.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", ["lln, dataset split", "crc, head split", "emma, head split"])
def test_twenty_steps_in_float64(on_eight, case):
    assert on_eight[1]["training"][case] < 1e-9


def test_loss_curve_of_an_epoch_in_float32(on_eight):
    assert on_eight[1]["losses"] < 0.01


def test_convolutions_on_a_grid_leave_images_where_they_are(on_eight):
    assert on_eight[1]["moved"] == []


def test_what_the_devices_cannot_share_is_named(on_eight):
    assert on_eight[1]["refused"] == [
        "config.run.batch_size=60: must be a multiple of the 8 devices",
        "config.model.hidden=12: must be a multiple of the 8 devices with config.run.shard_head=True",
    ]


def test_resumed_on_another_number_of_devices(on_eight, trained):
    """Begun on one device, finished on eight, read on one."""
    sharded, unbroken = load_trained(on_eight[0]), load_trained(trained[0])
    dataset = unbroken.dataset()
    images = dataset.test.images[:64].astype("float32") / dataset.pixel_max
    outputs = [np.asarray(sharded.model.apply(run.variables, images)) for run in (sharded, unbroken)]
    # Eight float32 steps whose sums have another order; a training that differs is off by 0.1 and more.
    np.testing.assert_allclose(*outputs, rtol=0, atol=5e-3)
    assert jax.device_count() == 1
