import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from lipjax.config import build_model
from lipjax.recipe import Metrics, epoch_order, initial_state, make_optimizer, make_train_step


@pytest.fixture(scope="module")
def setting():
    config = tiny_config()
    model = build_model(config, (8, 8, 1), 10)
    optimizer = make_optimizer(config, steps_per_epoch=2)
    images = jax.random.randint(jax.random.key(5), (64, 8, 8, 1), 0, 17).astype(jnp.uint8)
    return config, model, optimizer, images, jax.random.randint(jax.random.key(6), (64,), 0, 10)


def test_optimizer_is_sgd_with_masked_decay_and_drops():
    """p ← p − lr·buf, buf ← 0.9·buf + g + 5e-4·p on kernels and weights, g alone elsewhere; lr drops by 10 at 1/2, 3/4."""
    config = tiny_config()
    optimizer = make_optimizer(config, steps_per_epoch=2)
    params = {"conv": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "head": {"weight": jnp.ones(2), "bias": jnp.ones(2)}}
    gradient = jax.tree.map(lambda p: jnp.full_like(p, 0.5), params)
    state = optimizer.init(params)
    expected = {path: (1.0, 0.0) for path in ("kernel", "bias")}
    for step in range(8):
        updates, state = optimizer.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        rate = 0.1 if step < 4 else 0.01 if step < 6 else 0.001
        for path, (value, buffer) in expected.items():
            buffer = 0.9 * buffer + 0.5 + (5e-4 * value if path == "kernel" else 0.0)
            expected[path] = (value - rate * buffer, buffer)
        np.testing.assert_allclose(params["conv"]["kernel"], expected["kernel"][0], rtol=1e-5)
        np.testing.assert_allclose(params["head"]["weight"], expected["kernel"][0], rtol=1e-5)
        np.testing.assert_allclose(params["conv"]["bias"], expected["bias"][0], rtol=1e-5)
        np.testing.assert_allclose(params["head"]["bias"], expected["bias"][0], rtol=1e-5)


def test_epoch_order_visits_each_image_at_most_once():
    order = np.asarray(epoch_order(0, 1, 103, 10))
    assert order.shape == (10, 10)
    assert len(np.unique(order)) == 100
    np.testing.assert_array_equal(order, epoch_order(0, 1, 103, 10))
    assert not np.array_equal(order, epoch_order(0, 2, 103, 10))
    assert not np.array_equal(order, epoch_order(1, 1, 103, 10))


def test_step_compiles_once_and_counts(setting):
    config, model, optimizer, images, labels = setting
    step = make_train_step(model, optimizer, config, 16)
    step = jax.jit(chex.assert_max_traces(step.__wrapped__, n=1), donate_argnums=(0, 1))
    state, metrics = initial_state(model, optimizer, 0), Metrics.zero()
    order = epoch_order(0, 1, 64, 16)
    before = state.params["head"]["weight"].copy()
    for position in range(3):
        state, metrics = step(state, metrics, images, labels, order, position)
    assert int(state.step) == 3
    assert int(metrics.examples) == 48
    assert int(metrics.first_bad_step) == -1
    assert 0 < float(metrics.loss) / 48 < 10
    assert np.abs(before - state.params["head"]["weight"]).max() > 1e-4


def test_first_bad_step_is_recorded(setting):
    config, model, optimizer, images, labels = setting
    step = make_train_step(model, optimizer, config, 16)
    state, metrics = initial_state(model, optimizer, 0), Metrics.zero()
    order = epoch_order(0, 1, 64, 16)
    state, metrics = step(state, metrics, images, labels, order, 0)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, state.params)
    for position in range(1, 3):
        state, metrics = step(state._replace(params=broken), metrics, images, labels, order, position)
        broken = jax.tree.map(jnp.copy, state.params)
    assert int(metrics.first_bad_step) == 1


def test_seed_decides_the_start(setting):
    _, model, optimizer, *_ = setting
    first, again, other = (initial_state(model, optimizer, seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first.params["stem"]["kernel"], other.params["stem"]["kernel"])
