"""Networks of one's own from a file: trained, resumed, certified and refused like those of the library."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import tiny_config

import lipjax
from lipjax.evaluation.split import certify_run
from lipjax.models.architectures import ARCHITECTURES, build_model, model_options
from lipjax.training.loop import train
from lipjax.workdir import load_trained

ROOT = Path(__file__).parents[2]
NETWORK = """
import lipjax
from lipjax.layers import *
from lipjax.layers import Residual, Sequential

def network(image_shape, num_classes, *, channels=4):
    inner = Sequential((("conv", SkewOrthogonalConv(channels)), ("activation", MaxMin())))
    layers = (
        ("input", InputScale(mean=0.3, std=0.25)),
        ("stem", SkewOrthogonalConv(channels)),
        ("block", Residual(inner, a=0.5)),
        ("rearrangement", SpaceToDepth()),
        ("flatten", Flatten()),
    )
    return lipjax.Network(Sequential(layers), LastLayerNormalization(num_classes), image_shape)

def of_linen(image_shape, num_classes):
    import flax.linen as nn
    return nn.Dense(num_classes)

def of_nine_classes(image_shape, num_classes):
    return network(image_shape, 9)

def of_anything(image_shape, num_classes):
    made = network(image_shape, num_classes)
    return lipjax.Network(*made.parts())

def refusing(image_shape, num_classes, *, width=3):
    raise ValueError(f"width={width!r}: must be even")
"""


def config_of(file, function="network", **changes):
    config = tiny_config()
    config.model = {"name": f"{file}:{function}", **changes}
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(file, workdir, final state) of a trained network of one's own."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_net.py").write_text(NETWORK)
    config = config_of(folder / "my_net.py", channels=6)
    return folder / "my_net.py", folder / "run", train(config, folder / "run", say=lambda line: None)


def test_it_is_trained_certified_and_folded(run):
    _file, workdir, _state = run
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["loss"] < records[0]["loss"]
    recorded = json.loads((workdir / "config.json").read_text())["model"]
    assert recorded["channels"] == 6
    assert len(recorded["sha256"]) == 64
    assert (workdir / "my_net.py").read_text() == NETWORK
    summary = certify_run(workdir, num_examples=100, say=lambda line: None, attack="fast")
    assert 0.2 < summary["certified_accuracy"]["0.1"] <= summary["standard_accuracy"]
    assert summary["lipschitz_bound"] == pytest.approx(4, rel=1e-6)
    assert "block/activation" in [link["layer"] for link in summary["chain_of_proof"]]
    trained = load_trained(workdir)
    dataset, model, variables = trained.dataset(), trained.model, trained.variables
    images = dataset.test.images[:20].astype(np.float32) / dataset.pixel_max
    folded = lipjax.prove(*lipjax.fold(model, variables))
    np.testing.assert_allclose(folded.features(images), lipjax.prove(model, variables).features(images), atol=2e-5)


def test_it_is_resumed_by_the_same_file_only(run, tmp_path):
    _file, workdir, state = run
    shutil.copytree(workdir, tmp_path / "run")
    elsewhere = tmp_path / "my_net.py"
    elsewhere.write_text(NETWORK)
    again = train(config_of(elsewhere, channels=6), tmp_path / "run", say=lambda line: None)
    assert int(again.step) == int(state.step)
    with pytest.raises(ValueError, match=r"another config \(model.channels: 6 there, 4 now\)"):
        train(config_of(elsewhere), tmp_path / "run", say=lambda line: None)
    elsewhere.write_text(NETWORK + "\n# changed\n")
    with pytest.raises(ValueError, match=r"another config \(model.sha256: '\w{64}' there, '\w{64}' now\)"):
        train(config_of(elsewhere, channels=6), tmp_path / "run", say=lambda line: None)


def test_a_changed_file_is_not_executed(run, tmp_path):
    shutil.copytree(run[1], tmp_path / "run")
    (tmp_path / "run" / "my_net.py").write_text("raise RuntimeError('executed')")
    with pytest.raises(ValueError, match=r"the file has changed; its SHA-256 was \w{64}, is \w{64}"):
        load_trained(tmp_path / "run")
    (tmp_path / "run" / "my_net.py").unlink()
    with pytest.raises(ValueError, match=r"cannot read .*my_net\.py \(No such file or directory\)"):
        load_trained(tmp_path / "run")


def test_certify_asks_before_it_executes(run):
    command = [sys.executable, "certify.py", f"--workdir={run[1]}", "--num_examples=20"]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert asked.returncode != 0
    assert "my_net.py, which is executed only with --trust_code" in asked.stderr
    assert "Traceback" not in asked.stderr
    trusted = subprocess.run([*command, "--trust_code"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "certified accuracy at 0.1" in trusted.stdout


def test_one_without_an_image_shape_takes_that_of_the_data(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    model = build_model({"name": f"{tmp_path / 'net.py'}:of_anything"}, (8, 8, 1), 10)
    assert model.image_shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("net.py:of_linen", "must return a lipjax Network, got Dense"),
        ("net.py:of_nine_classes", "has 9 classes, the data 10"),
        ("net.py:nothing", "the file has no such function"),
        ("net.py:refusing", r"^config\.model\.width=3: must be even"),
        ("broken.py:network", r"broken\.py raised NameError: name 'nonsense' is not defined"),
        ("missing.py:network", r"cannot read .*missing\.py \(No such file"),
        ("net.txt:network", "must be one of .*, or FILE.py:FUNCTION"),
    ],
)
def test_what_is_no_network_is_named(tmp_path, name, text):
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "broken.py").write_text("nonsense")
    given = {"name": f"{tmp_path / name}"}
    with pytest.raises(ValueError, match=text):
        build_model(model_options(given), (8, 8, 1), 10)


def test_the_digest_is_of_the_bytes_that_were_executed(tmp_path, monkeypatch):
    """Even where the file changes meanwhile: it is read once."""
    (tmp_path / "net.py").write_text(NETWORK)
    read = Path.read_bytes

    def changed_after(self):
        source = read(self)
        self.write_text("raise RuntimeError")
        return source

    monkeypatch.setattr(Path, "read_bytes", changed_after)
    options = model_options({"name": f"{tmp_path / 'net.py'}:network"})
    assert options["sha256"] == hashlib.sha256(NETWORK.encode()).hexdigest()


def test_an_unknown_option_is_named(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    with pytest.raises(ValueError, match=r"config\.model\.depth=5: unknown key; allowed: channels"):
        build_model({"name": f"{tmp_path / 'net.py'}:network", "depth": 5}, (8, 8, 1), 10)


SMALLEST = {
    "lipconvnet": {"init_channels": 4},
    "liresnet": {"width": 4, "depth": 1, "dense_width": 8, "dense_depth": 1},
    "bronet": {"width": 4, "depth": 1, "dense_width": 8, "dense_depth": 1},
    "lipnext": {"width": 8, "depth": 1, "patch": 2, "shift": 0.5},
    "convnet": {"width": 4, "blocks": 2, "layers": 1},
}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_training_estimates_a_bound_in_either_precision(name):
    """Shapes of layers are found by variables of their own dtype: a convolution refuses images of another one."""
    model = build_model({"name": name, **SMALLEST[name]}, (8, 8, 3), 10)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    estimate = float(model.estimated_bound(variables))
    with jax.enable_x64(True):
        doubled = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        exact = float(model.estimated_bound(doubled))
    assert estimate == pytest.approx(exact, rel=1e-5)  # float32
    assert exact >= 0.1
