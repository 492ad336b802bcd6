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
    proof = lipjax.lipschitz_bound(layer, variables, (8, 8, 4))
    assert [name for name, _ in proof.links()] == ["input", "conv", "activation", "rearrangement"]
    assert proof.lipschitz == pytest.approx(2, rel=1e-3)
    whole = Sequential((*layer.layers, ("flatten", Flatten())))
    model = lipjax.Network(whole, lipjax.layers.LastLayerNormalization(3), (8, 8, 4))
    head = model.init(jax.random.key(1), np.zeros((1, 8, 8, 4), np.float32))["params"]["head"]
    with_head = {**variables, "params": {**variables["params"], "head": head}}
    assert lipjax.prove(model, with_head).lipschitz_bound == proof.lipschitz


def test_no_distance_grows_by_more_and_some_by_almost_as_much(backbone, rng):
    layer, variables = backbone
    bound = lipjax.lipschitz_bound(layer, variables, (8, 8, 4)).lipschitz
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
    once, twice = (lipjax.lipschitz_bound(which, variables, (8, 8, 4)).lipschitz for which in (layer, steeper))
    assert twice == pytest.approx(2 * once, rel=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda layer, own: (lipjax.Network, own), TypeError, "backbone must be a lipjax Layer"),
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
        lipjax.lipschitz_bound(layer, variables, (8, 8, 4))


def test_it_is_about_layers_that_nobody_intercepts(backbone):
    import flax.linen as nn

    with (
        nn.intercept_methods(lambda f, args, kwargs, context: f(*args, **kwargs)),
        pytest.raises(ValueError, match="a Flax method interceptor is at work"),
    ):
        lipjax.lipschitz_bound(*backbone, (8, 8, 4))
