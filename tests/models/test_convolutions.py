"""LipConvnets of each convolution: a few steps of training, then tightened, proven, certified, and held against their
Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lipjax
from lipjax.layers import CONVOLUTIONS
from lipjax.models.architectures import build_model

NAMES = [name for name in CONVOLUTIONS if name in ("aol", "cpl", "sll", "cayley", "bro")]
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


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_trained_tightened_proven_and_certified(name):
    options = {"name": "lipconvnet", "convolution": name, "init_channels": 2, "mean": (0.5,), "std": 0.5}
    model = build_model(options, SHAPE, 3)
    variables, losses = trained(model)
    assert losses[-1] < losses[0]
    variables = model.tightened(jax.device_get(variables))
    proven = lipjax.prove(model, variables)
    assert not proven.unproven
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
    moved = np.random.default_rng(1).normal(size=(50, 6, *SHAPE))
    moved *= 0.999 * radii[:, None, None, None] / np.sqrt((moved**2).sum(axis=(2, 3, 4), keepdims=True))
    logits = jax.vmap(proven.logits)((images(6) + moved).astype(np.float32))
    assert (np.argmax(logits, axis=-1) == classes).all()
    print(name, norms.max() / proven.lipschitz_bound, proven.lipschitz_bound, proven.rounding)
