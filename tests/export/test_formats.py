"""Files of other programs: loaded without lipjax they compute what ours does, and carry their certificate."""

import functools
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lipjax.export import __main__ as command
from lipjax.export import export_run, npz, stablehlo
from lipjax.export.deployed import deployed
from lipjax.export.run import FORMATS, _format
from lipjax.models.architectures import build_model
from lipjax.ops.blocked import any_order
from lipjax.workdir import load_trained

# What a user without lipjax writes: a program that reads FILE and IMAGES, and writes its outputs and the metadata.
LOADERS = {
    "stablehlo": """
import zipfile, jax
jax.config.update("jax_enable_x64", images.dtype == "float64")
archive = zipfile.ZipFile(file)
program = jax.export.deserialize(bytearray(archive.read("program.bin")))
outputs, about = program.call(images), json.loads(archive.read("metadata.json"))
""",
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
outputs = session.run(None, {"images": images})
about = json.loads(session.get_modelmeta().custom_metadata_map["lipjax"])
""",
    "torch": """
import torch
extra = {"lipjax.json": ""}
module = torch.export.load(file, extra_files=extra).module()
outputs = [output.numpy() for output in module(torch.from_numpy(images))]
about = json.loads(extra["lipjax.json"])
""",
    "npz": """
import runpy
interpreter = runpy.run_path(INTERPRETER)
layers, about = interpreter["read"](file)
outputs = [interpreter["run"](layers, images)]
""",
}
PROGRAM = """
import json, sys
import numpy as np
file, images = sys.argv[1], np.load(sys.argv[2])
{loader}
assert not any(name.split(".")[0] in ("lipjax", "flax") for name in sys.modules)
np.savez(sys.argv[3], *map(np.asarray, outputs), about=json.dumps(about))
"""
NEEDS = {"stablehlo": "flatbuffers", "onnx": "onnxruntime", "torch": "torch"}


def elsewhere(to, file, images, folder):
    """(outputs, metadata) of a process that knows nothing of lipjax."""
    loader = LOADERS[to].replace("INTERPRETER", repr(str(Path(npz.interpreter.__file__))))
    np.save(folder / "images.npy", images)
    found = folder / "outputs.npz"
    arguments = [sys.executable, "-c", PROGRAM.format(loader=loader), str(file), str(folder / "images.npy"), str(found)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    with np.load(found) as arrays:
        outputs = [arrays[name] for name in arrays.files if name != "about"]
        return outputs, json.loads(str(arrays["about"]))


@pytest.fixture(scope="module")
def run(trained):
    return load_trained(trained[0])


@pytest.fixture(scope="module")
def ours(run):
    """(images, features, logits, radii in feature space, L) of 30 test images by the program that certifies."""
    images = run.dataset(say=lambda line: None).test.images[:30].astype(np.float32) / np.float32(16)
    proven = run.prove()
    with jax.enable_x64(True):
        features, logits = map(np.asarray, proven.outputs(images.astype(np.float64), np.float64))
    bound = proven.lipschitz_bound
    return images, features, logits, proven.certify(images).radius * bound, bound


SLOW = pytest.mark.slow
# Of one network all formats, in float32 one of them; of the other networks one format.
LOADED = [(to, "float64") for to in FORMATS] + [("npz", "float32")]
LOADED += [pytest.param(to, "float32", marks=SLOW) for to in FORMATS if to != "npz"]


@pytest.mark.parametrize(("to", "dtype"), LOADED)
def test_loaded_elsewhere_it_computes_the_same_and_tells_its_certificate(to, dtype, trained, ours, tmp_path):
    if to in NEEDS:
        pytest.importorskip(NEEDS[to])
    images, features, logits, radius, ours_bound = ours
    file, lines = tmp_path / "network", []
    found = export_run(trained[0], to, file, lines.append, dtype=dtype, num_examples=30)
    outputs, about = elsewhere(to, file, images.astype(dtype), tmp_path)
    exact = dict(zip(about["outputs"], outputs, strict=True))
    tolerance = 1e-11 if dtype == "float64" else 1e-5 * max(1, np.abs(logits).max())
    assert np.abs(exact["logits"] - logits).max() <= tolerance
    assert found["logits_differ"] <= tolerance
    assert about["image_shape"] == [8, 8, 1]
    assert about["dtype"] == dtype
    assert len(about["class_names"]) == 10
    assert "Winograd" in about["rounding"]["not_covered"]
    bound, error = about["lipschitz_bound"], about["rounding"]["error_bound"]
    assert 0 < error / bound < (1e-9 if dtype == "float64" else 0.1)
    if dtype == "float64":
        assert found["certified_accuracy_exported"] == found["certified_accuracy"]
    distances = np.array(about["head"]["row_distances"])
    rows = np.arange(len(images))
    place = exact["logits"].argmax(axis=1)
    margins = exact["logits"][rows, place][:, None] - exact["logits"] - about["rounding"]["logit_slack"]
    margins[rows, place] = np.inf
    by_hand = np.maximum(((margins / distances[place]).min(axis=1) - 2 * error) / bound, 0)
    assert bound <= ours_bound * (1 + 1e-5)
    assert (by_hand * bound <= radius + tolerance).all()
    assert (by_hand * bound >= radius - 2 * error - about["rounding"]["logit_slack"] - 3 * tolerance).all()
    if to != "npz":
        assert np.linalg.norm(exact["features"] - features, axis=1).max() <= error
        assert (exact["class"] == place).all()
        assert (exact["radius"] <= by_hand * (1 + 1e-12)).all()
        np.testing.assert_allclose(exact["radius"], by_hand, rtol=1e-5, atol=1e-5)
    assert any("certified accuracy" in line for line in lines)


def test_a_curvature_head_is_certified_by_its_features(trained_crc, tmp_path):
    found = export_run(trained_crc[0], "npz", tmp_path / "crc.npz", lambda line: None, num_examples=40)
    assert found["certified_accuracy_exported"] == found["certified_accuracy"]
    bounds = np.array(found["metadata"]["head"]["curvature_bounds"])
    assert bounds.shape == (10, 10)
    assert (bounds + np.eye(10) > 0).all()


NETWORKS = {
    "liresnet": {"name": "liresnet", "width": 4, "depth": 1, "dense_width": 6, "dense_depth": 1, "neck_stride": 2},
    "bronet": {"name": "bronet", "width": 4, "depth": 1, "dense_width": 6, "dense_depth": 0, "neck_stride": 2},
    "lipnext": {"name": "lipnext", "width": 8, "depth": 1, "patch": 2, "shift": 0.5},
    "convnet": {"name": "convnet", "width": 4, "blocks": 1, "layers": 1, "convolution": "cayley"},
    "aol": {
        "name": "convnet",
        "width": 4,
        "blocks": 1,
        "layers": 1,
        "convolution": "aol",
        "activation": "householder2",
    },
}


@functools.cache
def made(name, sums_in_any_order):
    """The network of that name, untrained, as it is exported."""
    model = build_model(NETWORKS[name], (6, 5, 2), 3)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 6, 5, 2), np.float32))
    data = SimpleNamespace(class_names=("a", "b", "c"))
    run = SimpleNamespace(model=model, variables=model.tightened(variables), data=data, workdir=Path("nowhere"))
    return deployed(run, "float64", sums_in_any_order)


WRITTEN = [
    pytest.param(name, to, marks=[] if to == "onnx" else SLOW, id=f"{name}-{to}") for name in NETWORKS for to in FORMATS
]


@pytest.mark.parametrize(("name", "to"), WRITTEN)
def test_every_architecture_is_written(name, to, rng):
    if to in NEEDS:
        pytest.importorskip(NEEDS[to])
    network = made(name, _format(to).SUMS_IN_ANY_ORDER)
    images = rng.uniform(size=(3, 6, 5, 2))
    features, logits = _format(to).loaded(_format(to).written(network))(images)[:2]
    backbone, head = network.parts
    with jax.enable_x64(True):
        exact = jax.jit(backbone.evaluate)(network.variables, images)
        np.testing.assert_allclose(features, exact, rtol=0, atol=1e-10)
        own = {collection: tree["head"] for collection, tree in network.variables.items() if "head" in tree}
        np.testing.assert_allclose(logits, head.evaluate(own, exact), rtol=0, atol=1e-10)
    assert 0 < network.error_bound < 1e-6


@pytest.mark.parametrize("to", [to for to in FORMATS if to != "npz"])
def test_of_what_is_no_image_the_radius_is_0(to, rng):
    if to in NEEDS:
        pytest.importorskip(NEEDS[to])
    format_ = _format(to)
    run = format_.loaded(format_.written(made("liresnet", format_.SUMS_IN_ANY_ORDER)))
    images = rng.uniform(size=(6, 6, 5, 2))
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0, 1
    assert (run(images)[3] > 0).all()
    images[1, 5, 4, 1], images[2, 0, 0, 0], images[3, 2, 2, 0], images[4, 1, 1, 1] = 1 + 1e-15, -1e-300, np.nan, np.inf
    images[5] *= 255
    assert (run(images)[3] > 0).tolist() == [True, *[False] * 5]


def test_sums_one_after_the_other_are_off_by_what_is_proven_of_any_order_and_of_no_less():
    """1, and 2047 products that are each lost where they are added to it: more than blocks of 32 would lose."""
    from lipjax.layers.convolution import matrix_rounding
    from lipjax.layers.rounding import COARSEST

    small = np.sqrt(0.99 * 2.0**-24)
    x = np.r_[1.0, np.full(2047, small)].astype(np.float32)
    exact, total = float(np.dot(x.astype(np.float64), x.astype(np.float64))), np.float32(0)
    for entry in x:
        total = np.float32(total + entry * entry)
    error = abs(float(total) - exact) / float(np.linalg.norm(x.astype(np.float64)))
    matrix = x.astype(np.float64)[:, None]
    with any_order():
        proven = COARSEST * matrix_rounding(matrix, 1.001, 0.0).relative
    assert COARSEST * matrix_rounding(matrix, 1.001, 0.0).relative < error <= proven < 1.1 * error


def test_the_container_of_stablehlo_is_a_zip(run):
    network = deployed(run, "float64", stablehlo.SUMS_IN_ANY_ORDER)
    with zipfile.ZipFile(io.BytesIO(stablehlo.written(network))) as archive:
        assert archive.namelist() == ["program.bin", "metadata.json"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"to": "caffe"}, r"to='caffe': must be one of \('stablehlo', 'onnx', 'torch', 'npz'\)"),
        ({"dtype": "bfloat16"}, r"dtype='bfloat16': must be one of"),
        ({"num_examples": 0}, r"num_examples=0: must be at least 1"),
        ({"output": "there"}, r"output='.*there': is there already"),
        ({"output": "no/folder.npz"}, r"output='.*folder\.npz': there is no folder"),
        ({"workdir": "empty"}, r"workdir='.*empty' has no config\.json: no training has started there"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(options, told, trained, tmp_path):
    (tmp_path / "there").write_text("kept", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    given = {"to": "npz", "output": "new.npz"} | options
    given["output"] = tmp_path / given["output"]
    given["workdir"] = tmp_path / given["workdir"] if "workdir" in given else trained[0]
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        export_run(say=lambda line: None, **given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "there"]
    assert (tmp_path / "there").read_text(encoding="utf-8") == "kept"


def test_a_missing_package_is_named_with_the_command_that_installs_it(trained, tmp_path, monkeypatch):
    from importlib import util

    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"to='onnx': needs .*onnx.*: pip install onnx onnxruntime"):
        export_run(trained[0], "onnx", tmp_path / "x.onnx", lambda line: None)
    assert not list(tmp_path.iterdir())


def test_logits_that_differ_are_told_and_nothing_is_written(trained, tmp_path, monkeypatch):
    def off(content, loaded=npz.loaded):
        run = loaded(content)
        return lambda images: (run(images)[0], run(images)[1] * (1 + 1e-3))

    monkeypatch.setattr(npz, "loaded", off)
    with pytest.raises(ValueError, match="npz: its logits differ from ours by .*; nothing is written"):
        export_run(trained[0], "npz", tmp_path / "x.npz", lambda line: None, num_examples=5)
    assert not list(tmp_path.iterdir())


def test_a_layer_without_a_proof_of_rounding_is_named(trained, tmp_path, monkeypatch):
    from lipjax.layers import MaxMin

    monkeypatch.setattr(MaxMin, "proof", lambda self, own, shape: None)
    with pytest.raises((ValueError, TypeError), match="MaxMin|its proof must be"):
        export_run(trained[0], "npz", tmp_path / "x.npz", lambda line: None, num_examples=5)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_is_missing(capsys, tmp_path):
    assert command.main(["--to=npz", f"--output={tmp_path / 'x'}"]) == 1
    assert "lipjax-export: workdir is missing: --workdir=DIR" in capsys.readouterr().err
    assert command.main(["--help"]) == 0
    assert "--output" in capsys.readouterr().out
