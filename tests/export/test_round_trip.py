"""Networks written to a file and read back as plain ones; and plain networks certified and written for others."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import lipjax
from lipjax.export import npz
from lipjax.export.deployed import deployed
from lipjax.models import plain
from lipjax.models.architectures import build_model

NETWORKS = {
    "lipconvnet": ({"name": "lipconvnet", "depth": 5, "init_channels": 4, "blocks": 2}, (12, 12, 3)),
    "liresnet": (
        {"name": "liresnet", "width": 4, "depth": 1, "dense_width": 6, "dense_depth": 1, "neck_stride": 2},
        (6, 5, 2),
    ),
    "convnet": ({"name": "convnet", "width": 4, "blocks": 1, "layers": 1, "convolution": "aol"}, (6, 5, 2)),
    "cayley": ({"name": "convnet", "width": 4, "blocks": 1, "layers": 1, "convolution": "cayley"}, (6, 5, 2)),
    "lipnext": ({"name": "lipnext", "width": 8, "depth": 1, "patch": 2, "shift": 0.5}, (6, 5, 2)),
}


def written(model, variables, classes=3):
    """What is exported of a network, in float64, of sums in any order."""
    data = SimpleNamespace(class_names=tuple("abcdefghij"[:classes]))
    run = SimpleNamespace(model=model, variables=variables, data=data, workdir=Path("nowhere"))
    return deployed(run, "float64", True)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_bound_of_a_network_read_back_is_ours(name, tmp_path, rng):
    options, shape = NETWORKS[name]
    model = build_model(options, shape, 3)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, *shape), np.float32))
    network, path = written(model, model.tightened(variables)), tmp_path / "network.npz"
    path.write_bytes(npz.written(network))
    ours = network.proven.lipschitz_bound
    read, of_file = plain.network(*plain.load(path))
    room = {"liresnet": 0.02, "convnet": 2e-3}.get(name, 2e-6)  # of kernels that are proven in another way
    assert (1 - room) * ours <= read.lipschitz_bound(of_file) <= (1 + room) * ours
    images = rng.uniform(size=(2, *shape))
    with jax.enable_x64(True):
        logits = read.apply(of_file, images)
    np.testing.assert_allclose(logits, npz.loaded(npz.written(network))(images)[1], rtol=0, atol=1e-11)


def vgg(rng):
    """Three convolutions with batch normalisation, poolings, a dense layer, of 8×8 pixels."""
    layers, channels = [], [2, 4, 6, 6]
    for c_in, c_out in itertools.pairwise(channels):
        layers += [
            {"kind": "conv", "kernel": rng.normal(size=(3, 3, c_in, c_out)) / 6, "bias": rng.normal(size=c_out)},
            {"kind": "affine", "scale": rng.uniform(0.5, 1.5, size=c_out), "shift": rng.normal(size=c_out)},
            {"kind": "activation", "name": "relu"},
        ]
        layers[-3]["padding"] = 1
    layers.insert(3, {"kind": "max_pool", "size": 3, "stride": 2, "padding": 1})
    pooled = [{"kind": "average_pool", "size": 2}, {"kind": "flatten", "order": "chw"}]
    return [*layers, *pooled, {"kind": "dense", "kernel": rng.normal(size=(24, 4)), "bias": rng.normal(size=4)}]


def test_a_plain_network_is_certified_and_written_to_onnx(rng):
    pytest.importorskip("onnxruntime")
    from lipjax.export import onnx

    model, variables = plain.network(vgg(rng), (8, 8, 2))
    images = rng.uniform(size=(5, 8, 8, 2))
    certificate = lipjax.certify(model, variables, images)
    network = written(model, variables, 4)
    features, logits, place, radius = onnx.loaded(onnx.written(network))(images)
    with jax.enable_x64(True):
        np.testing.assert_allclose(logits, model.apply(variables, images), rtol=0, atol=1e-11)
    assert (place == certificate.prediction).all()
    np.testing.assert_allclose(radius, certificate.radius, rtol=1e-6)
    assert (radius > 0).all()
    assert network.head_constants["row_distances"].shape == (4, 4)
    assert 0 < network.error_bound < 1e-6 * network.proven.lipschitz_bound
    assert features.shape == (5, 24)
