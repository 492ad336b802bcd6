"""Networks of each convolution: a few steps of training, then tightened, proven, certified, against their Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lipjax
from lipjax.layers import CONVOLUTIONS, BlockReflectorConv, FirstChannels
from lipjax.models.architectures import build_model

NAMES = [name for name in CONVOLUTIONS if name in ("aol", "cpl", "sll", "cayley", "bro")]
LIPCONVNET = {"name": "lipconvnet", "init_channels": 2, "mean": (0.5,), "std": 0.5}
BRONET = {"name": "bronet", "width": 4, "depth": 2, "dense_width": 8, "dense_depth": 1, "neck_stride": 2, "std": 0.5}
CONVNET = {"name": "convnet", "width": 2, "blocks": 2, "layers": 2, "std": 0.5}
MODELS = {f"lipconvnet of {name}": {**LIPCONVNET, "convolution": name} for name in NAMES}
MODELS |= {"bronet": BRONET, "convnet": CONVNET}
SHAPE = (8, 8, 1)


def images(count, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).uniform(size=(count, *SHAPE)).astype(dtype)


def trained(model, steps=3):
    """(variables after a few steps, the losses on the way)."""
    x, labels = images(12), np.arange(12) % 3
    variables = jax.jit(model.init)(jax.random.key(0), x)
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = optimizer.init(variables["params"])

    @jax.jit
    def step(variables, state):
        def loss(params):
            logits, updated = model.apply({**variables, "params": params}, x, True, mutable=["spectral"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        (value, updated), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        change, state = optimizer.update(gradient, state)
        variables = {**variables, **updated, "params": optax.apply_updates(variables["params"], change)}
        return model.projected(variables), state, value

    losses = []
    for _ in range(steps):
        variables, state, value = step(variables, state)
        losses.append(float(value))
    return variables, losses


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_trained_tightened_proven_and_certified(name):
    model = build_model(MODELS[name], SHAPE, 3)
    variables, losses = trained(model)
    assert losses[-1] < losses[0]
    variables = model.tightened(jax.device_get(variables))
    proven = lipjax.prove(model, variables)
    assert not proven.unproven
    if name != "bronet":  # whose stem is free
        assert proven.lipschitz_bound <= 2 * (1 + 1e-6)  # 1 / std, and what raising norms in float32 leaves
    assert 0 < proven.rounding < 1e-6 * proven.lipschitz_bound
    points = np.concatenate([images(6, dtype=np.float64), 20 * images(2, 1, np.float64) - 10])
    with jax.enable_x64(True):
        features = jax.jit(jax.vmap(jax.jacobian(lambda x: proven.outputs(x[None], jnp.float64)[0][0])))
        norms = np.linalg.norm(np.asarray(features(points)).reshape(8, -1, 64), 2, axis=(1, 2))
    assert 0.05 * proven.lipschitz_bound < norms.max() <= proven.lipschitz_bound
    classes, radii = proven.predict(images(6))
    np.testing.assert_array_equal(classes, np.argmax(model.apply(variables, images(6)), axis=1))
    assert (radii > 0).all()


def test_the_convnet_of_the_benchmark_doubles_its_channels_and_halves_its_pixels():
    model = build_model({"name": "convnet", "convolution": "cpl", "width": 16}, (32, 32, 3), 10)
    backbone = model.parts()[0]
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    shapes = {n: s for (n, _), s in zip(backbone.layers, backbone.input_shapes(variables, (32, 32, 3)), strict=True)}
    assert shapes["block1_conv0"] == (32, 32, 3)
    assert [shapes[f"block{j}_conv1"] for j in range(1, 6)] == [(64 >> j, 64 >> j, 8 << j) for j in range(1, 6)]
    assert shapes["flatten"] == (1, 1, 512)
    assert sum(isinstance(layer, CONVOLUTIONS["cpl"]) for _, layer in backbone.layers) == 25


def test_a_bronet_has_reflectors_with_a_partial_identity_in_its_trunk():
    layers = dict(build_model({"name": "bronet", "depth": 3, "width": 8}, (32, 32, 3), 10).parts()[0].layers)
    conv = layers["trunk2"]
    assert (type(conv), conv.features, conv.identity, conv.use_bias) == (BlockReflectorConv, 8, True, False)
    np.testing.assert_allclose(conv.scale, 3**-0.5)


def test_options_are_refused_by_name():
    for options, message in [
        ({"name": "bronet", "rank": 65}, "config.model.rank=65: must be"),
        ({"name": "bronet", "ridge": 0.5}, "config.model.ridge=0.5: must be"),
        ({"name": "convnet", "width": 3}, "config.model.width=3: must be an even number"),
        ({"name": "convnet", "convolution": "none"}, "config.model.convolution='none': must be one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            build_model(options, (32, 32, 3), 10)


def test_the_first_channels_are_kept():
    x = np.arange(12.0).reshape(1, 1, 2, 6)
    np.testing.assert_array_equal(FirstChannels(2).evaluate({}, x), x[..., :2])
    assert FirstChannels(2).proof({}, (1, 2, 6)).lipschitz == 1
    with pytest.raises(ValueError, match="count must be at most the 6 channels, got 7"):
        FirstChannels(7).evaluate({}, x)
