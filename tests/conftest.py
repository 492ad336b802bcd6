"""Shared fixtures: golden vectors, float64, a persistent compilation cache, and one tiny trained run."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from lipjax.system import compilation

GOLDEN = Path(__file__).parent / "golden"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
compilation.use_cache()


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Compiled programs are dropped before they have as many mappings of memory as Linux lets a process have.

    Each has about fifteen; with the 65,530th, which no error tells of, the process crashes where it loads the next one.
    """
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture
def golden():
    """Loads golden/NAME.npz as a dict of arrays."""

    def load(name):
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def quiet(line):
    """Takes the lines of a run, and says nothing."""
    del line


def records(workdir):
    """The epochs of metrics.jsonl without their times."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def tiny_config():
    """A digits run of seconds."""
    from lipjax.config import default_config

    config = default_config()
    config.update_from_flattened_dict(
        {
            "data.name": "digits",
            "data.crop_padding": 1,
            "data.flip": False,
            "model.init_channels": 2,
            "run.batch_size": 256,
        }
    )
    config.update_from_flattened_dict(
        {"run.epochs": 4, "model.degree": 3, "run.radii": "0.1,0.25", "data.validation_fraction": 0.2}
    )
    config.update_from_flattened_dict({"model.mean": (0.3,), "model.std": 0.25})
    return config


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """(workdir, final state) of an unbroken tiny run."""
    from lipjax.training.loop import train

    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    return workdir, train(tiny_config(), workdir, say=lambda line: None)


@pytest.fixture(scope="session")
def trained_crc(tmp_path_factory):
    """(workdir, config, final state) of the same with a curvature head."""
    from lipjax.training.loop import train

    config = tiny_config()
    config.update_from_flattened_dict(
        {
            "model.head": "crc",
            "loss.name": "crc",
            "model.hidden": 8,
            "model.pooling": "projection",
            "optimizer.clip_norm": 1.0,
            "loss.attack_radius": 0.2,
        }
    )
    config.update_from_flattened_dict({"data.validation_fraction": 0.0, "run.epochs": 2})
    workdir = tmp_path_factory.mktemp("crc") / "run"
    return workdir, config, train(config, workdir, say=lambda line: None)
