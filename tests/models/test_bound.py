"""The bound of a backbone that has no head."""

import jax
import numpy as np
import pytest

import lipjax
from lipjax.layers import Flatten, InputScale, MaxMin, Sequential, SkewOrthogonalConv, SpaceToDepth


@pytest.fixture(scope="module")
def backbone():
    layers = (
        ("input", InputScale(mean=0.3, std=0.5)),
        ("conv", SkewOrthogonalConv(4)),
        ("activation", MaxMin()),
        ("rearrangement", SpaceToDepth()),
    )
    layer = Sequential(layers)
    variables = layer.init(jax.random.key(0), np.zeros((1, 8, 8, 4), np.float32))
    return layer, layer.tightened(dict(variables), (8, 8, 4))


def test_it_is_that_of_the_network_with_a_head(backbone):
    layer, variables = backbone
    proof = lipjax.bound(layer, (8, 8, 4), variables=variables)
    assert [name for name, _ in proof.links()] == ["input", "conv", "activation", "rearrangement"]
    assert proof.lipschitz == pytest.approx(2, rel=1e-3)
    whole = Sequential((*layer.layers, ("flatten", Flatten())))
    model = lipjax.Network(whole, lipjax.layers.LastLayerNormalization(3), (8, 8, 4))
    head = model.init(jax.random.key(1), np.zeros((1, 8, 8, 4), np.float32))["params"]["head"]
    with_head = {**variables, "params": {**variables["params"], "head": head}}
    assert lipjax.prove(model, with_head).lipschitz_bound == proof.lipschitz


def test_no_distance_grows_by_more_and_some_by_almost_as_much(backbone, rng):
    layer, variables = backbone
    bound = lipjax.bound(layer, (8, 8, 4), variables=variables).lipschitz
    with jax.enable_x64(True):
        own = jax.tree.map(np.float64, variables)
        x = rng.uniform(size=(1, 8, 8, 4))
        difference = 1e-6 * rng.normal(size=(20, 8, 8, 4))
        ratio = np.linalg.norm(
            (layer.evaluate(own, x + difference) - layer.evaluate(own, x)).reshape(20, -1), axis=1
        ) / np.linalg.norm(difference.reshape(20, -1), axis=1)
    assert ratio.max() <= bound
    assert ratio.max() >= 0.99 * bound


def test_it_is_of_these_variables(backbone):
    """An input scale of another std, and a kernel beyond what was held."""
    layer, variables = backbone
    steeper = Sequential((("input", InputScale(mean=0.3, std=0.25)), *layer.layers[1:]))
    once, twice = (lipjax.bound(which, (8, 8, 4), variables=variables).lipschitz for which in (layer, steeper))
    assert twice == pytest.approx(2 * once, rel=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda layer, own: (lipjax.Network, own), TypeError, "variables are those of a lipjax Layer, got a"),
        (
            lambda layer, own: (layer, jax.tree.map(np.float16, own)),
            ValueError,
            "must be float32 or float64, got float16",
        ),
        (lambda layer, own: (layer, jax.tree.map(lambda leaf: leaf * np.nan, own)), ValueError, "are not finite"),
    ],
)
def test_what_has_no_bound_is_refused(backbone, change, error, message):
    layer, variables = change(*backbone)
    with pytest.raises(error, match=message):
        lipjax.bound(layer, (8, 8, 4), variables=variables)


def test_it_is_about_layers_that_nobody_intercepts(backbone):
    import flax.linen as nn

    with (
        nn.intercept_methods(lambda f, args, kwargs, context: f(*args, **kwargs)),
        pytest.raises(ValueError, match="a Flax method interceptor is at work"),
    ):
        lipjax.bound(backbone[0], (8, 8, 4), variables=backbone[1])


@pytest.mark.parametrize("shape", [(3, 3, 2, 3), (2, 4, 2, 3), (1, 1, 3, 2)])
def test_the_bound_of_a_kernel_is_that_of_its_dense_matrix(shape, rng):
    kernel = rng.normal(size=shape)
    matrix = np.zeros((5, 6, shape[2], 5, 6, shape[3]))
    for i, j, a, b in np.ndindex(5, 6, *shape[:2]):
        y, x = i + a - (shape[0] - 1) // 2, j + b - (shape[1] - 1) // 2
        if 0 <= y < 5 and 0 <= x < 6:
            matrix[y, x, :, i, j, :] = kernel[a, b]
    norm = np.linalg.norm(matrix.reshape(30 * shape[2], -1), 2)
    assert norm <= lipjax.bound(kernel, size=(5, 6)).lipschitz <= 1.001 * norm
    for given in ((5, 6), (5, 6, shape[2])):
        assert lipjax.bound(kernel, given).lipschitz == lipjax.bound(kernel, size=(5, 6)).lipschitz


def test_the_bound_of_a_matrix_is_its_norm(rng):
    matrix = rng.normal(size=(7, 4))
    norm = np.linalg.norm(matrix, 2)
    assert norm <= lipjax.bound(matrix).lipschitz <= 1.001 * norm


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"network": np.zeros((3, 3, 2))}, ValueError, r"must be \(k, l, C_in, C_out\) or .*, got shape \(3, 3, 2\)"),
        ({"network": np.zeros((3, 3, 2, 2))}, ValueError, "give image_shape"),
        ({"network": [{"kind": "flatten"}]}, ValueError, "give image_shape"),
        ({"network": Flatten(), "variables": {"params": {}}}, ValueError, "give image_shape"),
        ({"network": Flatten(), "image_shape": (2, 2, 1)}, ValueError, "a Layer needs its variables"),
        ({"network": np.zeros((2, 2)), "variables": {}}, TypeError, "variables are those of a lipjax Layer"),
        ({"network": np.zeros((2, 2)), "size": 3}, ValueError, "size is that of the images of a kernel"),
        ({"network": np.zeros((3, 3, 1, 1)), "size": 0}, ValueError, "size must be an integer >= 1, or .*, got 0"),
        ({"network": np.zeros((3, 3, 1, 1)), "size": 4, "image_shape": (4, 4)}, ValueError, "without image_shape"),
        ({"network": 7}, TypeError, "network must be a lipjax Layer"),
        ({"network": [1, 2], "image_shape": (2, 2, 1)}, TypeError, "network must be a lipjax Layer"),
        ({"network": lipjax.LipConvnet(5, 4, 16)}, TypeError, r"LipConvnet is none \(of a network with a head"),
    ],
)
def test_what_is_no_network_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        lipjax.bound(**arguments)
