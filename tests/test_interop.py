import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lipjax
from lipjax import interop, ops
from lipjax.certificates.certificate import over_bound
from lipjax.interop import lipconvnet

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(scope="module")
def network():
    from conftest import GOLDEN

    with np.load(GOLDEN / "net.npz") as arrays:
        g = dict(arrays)
    return g, *interop.from_pytorch({name[2:]: value for name, value in g.items() if name.startswith("p.")})


def _shown(module, name):
    return name in ("__call__", "features")


def nhwc(x):
    return x.transpose(0, 2, 3, 1)


def test_architecture_is_read_off(network):
    _, model, variables = network
    assert (model.depth, model.init_channels, model.input_size, model.in_channels) == (5, 4, 32, 3)
    assert (model.num_classes, model.head, model.hidden, model.pooling) == (10, "crc", 32, "projection")
    reference = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert jax.tree.map(lambda leaf: leaf.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, dict(reference))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float64"}


def test_every_layer_features_and_logits(network):
    g, model, variables = network
    apply = jax.jit(lambda v, x: model.apply(v, x, capture_intermediates=_shown))
    logits, captured = apply(variables, jnp.asarray(nhwc(g["x"])))
    np.testing.assert_allclose(logits, g["logits"], rtol=0, atol=1e-9)
    features = captured["intermediates"]["features"][0]
    np.testing.assert_allclose(features, g["features"][:, :, 0, 0], rtol=0, atol=1e-9)
    outputs = captured["intermediates"]
    for step in model.steps():
        theirs = "init_layer" if step.name == "stem" else step.name.replace("_conv", ".")
        y = outputs[step.name]["__call__"][0]
        np.testing.assert_allclose(y, nhwc(g[f"out.{theirs}.ortho"]), rtol=0, atol=1e-9)
        act = outputs[f"{step.name}_pool"]["__call__"][0] if step.pool else ops.max_min(y)
        np.testing.assert_allclose(act, nhwc(g[f"out.{theirs}.act"]), rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def bounds(network):
    _, model, variables = network
    with jax.enable_x64(True):
        return {name: proof.lipschitz for name, proof in lipjax.prove(model, variables).proof.links()}


def test_layer_bounds_are_above_the_true_norms_and_close(network, bounds):
    g, model, _ = network
    assert len(g["layer_true_norm"]) == len(model.steps())
    for step, true in zip(model.steps(), g["layer_true_norm"], strict=True):
        assert true * (1 - 1e-12) <= bounds[step.name] <= 1.001 * true
    bound = np.prod(list(bounds.values()))
    assert bound >= np.prod(g["layer_true_norm"]) / g["p.scale"].min() * (1 - 1e-12)
    assert bound <= 1.001 * float(g["lip_const_exact"])


def test_certificates_are_no_smaller_than_theirs(network, bounds):
    """In input space, over all nine rivals; theirs are signed, ours 0 where the prediction is wrong."""
    g, model, variables = network
    bound = float(np.prod(list(bounds.values())))
    proven = lipjax.prove(model, variables)
    certificate = over_bound(proven.certify_head(proven.features(nhwc(g["x"])), g["labels"]), bound)
    theirs = np.maximum(g["certs"].min(axis=1), 0)
    right = g["logits"].argmax(axis=1) == g["labels"]
    assert right.sum() == 2
    assert (certificate.radius[~right] == 0).all()
    assert (certificate.radius[right] > 0).all()
    # Their bound of Lip(g) is a power iteration, up to 2.3e-6 below the true norm (relative).
    assert (certificate.radius >= theirs * (1 - 3e-6)).all()
    assert (certificate.radius <= certificate.upper).all()


def lln_state(g):
    state = {name[2:]: value for name, value in g.items() if name.startswith("p.") and "logits_layer" not in name}
    state = {name: value for name, value in state.items() if not name.endswith("theta")}
    rng = np.random.default_rng(0)
    return state | {"logits_layer.weight": rng.normal(size=(7, 128)), "logits_layer.bias": rng.normal(size=7)}


def test_lln_and_max_pooling(network):
    model, variables = interop.from_pytorch(lln_state(network[0]))
    assert (model.head, model.pooling, model.num_classes) == ("lln", "max", 7)
    assert jax.eval_shape(model.apply, variables, jnp.zeros((2, 32, 32, 3))).shape == (2, 7)


def test_names_missing_or_unknown(network):
    state = lln_state(network[0])
    with pytest.raises(ValueError, match="names not understood: block1.0.act.theta0"):
        interop.from_pytorch(state | {"block1.0.act.theta0": np.zeros(8)})
    with pytest.raises(ValueError, match="'block2.0.ortho._v3' is missing"):
        interop.from_pytorch({name: value for name, value in state.items() if name != "block2.0.ortho._v3"})
    with pytest.raises(ValueError, match="not a LipConvnet"):
        interop.from_pytorch({"conv1.weight": np.zeros((3, 3))})


@pytest.mark.parametrize("pooling", ["max", "projection"])
@pytest.mark.parametrize("activation", ["householder", "householder2"])
def test_hh1_and_hh2_are_read_beside_either_pooling(rng, pooling, activation):
    """Angles stand under .act, as do those of pooling, each in its own layers; both ways round the same network."""
    model = lipjax.LipConvnet(10, 4, pooling=pooling, activation=activation, polynomial=ops.taylor(6))
    state, expected = {"shift": np.zeros((3, 1, 1)), "scale": np.full((3, 1, 1), 0.25)}, {}
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    for theirs, path in lipconvnet._places(model):
        shape = functools.reduce(lambda tree, key: tree[key], path, shapes).shape
        expected[path] = rng.normal(size=shape)
        array = expected[path].transpose(3, 2, 0, 1) if path[-1] == "kernel" else expected[path]
        state[theirs] = array.reshape(1, -1, 1, 1) if path[-1] == "angle" else array
    read, variables = interop.from_pytorch(state)
    assert (read.depth, read.activation, read.pooling) == (10, activation, pooling)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, dict(shapes))
    for path, array in expected.items():
        np.testing.assert_array_equal(functools.reduce(lambda tree, key: tree[key], path, variables), array)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"features_layer.weight": np.zeros(3)},
            "not understood: features_layer.weight; read are networks",
        ),
        (
            {"logits_layer.weight": None},
            "'logits_layer.weight' is missing; read are networks",
        ),
        ({"init_layer.ortho.weight": None}, "not a LipConvnet of convolutions soc; read are .* hh1 and hh2"),
    ],
)
def test_networks_that_are_not_read_are_told_by_their_authors_names(network, given, told):
    state = {name: value for name, value in (lln_state(network[0]) | given).items() if value is not None}
    with pytest.raises(ValueError, match=told):
        interop.from_pytorch(state)
