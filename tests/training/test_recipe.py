import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from lipjax.layers import LastLayerNormalization, Sequential, SkewOrthogonalConv
from lipjax.layers.curvature_head import softplus_mlp, top_rivals
from lipjax.models import Network
from lipjax.training.losses import Moment
from lipjax.training.losses.feature_attack import feature_attack
from lipjax.training.optimizers import Optimizer
from lipjax.training.recipe import Metrics, Recipe, epoch_order, initial_state, make_train_step


@pytest.fixture(scope="module")
def setting():
    config = tiny_config()
    model = Recipe.of(config).model((8, 8, 1), 10)
    optimizer = Recipe.of(config).optimizer.transformation(model, 2 * Recipe.of(config).run.epochs)
    images = jax.random.randint(jax.random.key(5), (64, 8, 8, 1), 0, 17).astype(jnp.uint8)
    return config, model, optimizer, images, jax.random.randint(jax.random.key(6), (64,), 0, 10)


def test_optimizer_is_sgd_with_masked_decay_and_drops():
    """p ← p − lr·buf, buf ← 0.9·buf + g + 5e-4·p on kernels and weights, else without decay; lr drops twice."""
    config = tiny_config()
    layers = (("conv", SkewOrthogonalConv(2)),)
    optimizer = Recipe.of(config).optimizer.transformation(
        Network(Sequential(layers), LastLayerNormalization(2)), 2 * Recipe.of(config).run.epochs
    )
    params = {
        "conv": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
        "head": {"weight": jnp.ones(2), "bias": jnp.ones(2)},
    }
    gradient = jax.tree.map(lambda p: jnp.full_like(p, 0.5), params)
    state = optimizer.init(params)
    expected = dict.fromkeys(("kernel", "bias"), (1.0, 0.0))
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
    step = make_train_step(model, optimizer, Recipe.of(config), 16)
    step = jax.jit(chex.assert_max_traces(step.__wrapped__, n=1), donate_argnums=(0, 1))
    state, metrics = initial_state(model, optimizer, 0), Metrics.zero()
    order = epoch_order(0, 1, 64, 16)
    before = state.params["head"]["weight"].copy()
    for _ in range(3):
        state, metrics = step(state, metrics, images, labels, order)
    assert int(state.step) == 3
    assert int(metrics.examples) == 48
    assert int(metrics.first_bad_step) == -1
    assert 0 < float(metrics.loss) / 48 < 10
    assert np.abs(before - state.params["head"]["weight"]).max() > 1e-4


def test_first_bad_step_is_recorded(setting):
    config, model, optimizer, images, labels = setting
    step = make_train_step(model, optimizer, Recipe.of(config), 16)
    state, metrics = initial_state(model, optimizer, 0), Metrics.zero()
    order = epoch_order(0, 1, 64, 16)
    state, metrics = step(state, metrics, images, labels, order)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, state.params)
    for _ in range(2):
        state, metrics = step(state._replace(params=broken), metrics, images, labels, order)
        broken = jax.tree.map(jnp.copy, state.params)
    assert int(metrics.first_bad_step) == 1


def test_seed_decides_the_start(setting):
    _, model, optimizer, *_ = setting
    first, again, other = (initial_state(model, optimizer, seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first.params["stem"]["kernel"], other.params["stem"]["kernel"])


@pytest.fixture(scope="module")
def curvature_setting():
    config = tiny_config()
    config.update_from_flattened_dict(
        {
            "model.head": "crc",
            "loss.name": "crc",
            "model.hidden": 8,
            "model.pooling": "projection",
            "optimizer.clip_norm": 1.0,
            "optimizer.learning_rate": 1.0,
        }
    )
    model = Recipe.of(config).model((8, 8, 1), 10)
    optimizer = Recipe.of(config).optimizer.transformation(model, 2 * Recipe.of(config).run.epochs)
    return config, model, optimizer, initial_state(model, optimizer, 0)


def test_curvature_head_step(setting, curvature_setting):
    """Angles stay in [0, π], the carried vector moves, the loss falls, all is finite."""
    *_, images, labels = setting
    config, model, optimizer, state = curvature_setting
    step = make_train_step(model, optimizer, Recipe.of(config), 16)
    order = epoch_order(0, 1, 64, 16)
    vector = np.array(state.spectral["head"]["power_vector"])
    wide = {
        name: {"theta": leaf["theta"].at[0].set(7.0)} if name.endswith("_pool") else leaf
        for name, leaf in state.params.items()
    }
    state = jax.tree.map(jnp.copy, state._replace(params=wide))
    state, metrics = step(state, Metrics.zero(), images, labels, order)
    for _ in range(10):
        state, last = step(state, Metrics.zero(), images, labels, order)
    assert float(last.loss) < float(metrics.loss)
    angles = np.concatenate([leaf["theta"] for name, leaf in state.params.items() if name.endswith("_pool")])
    assert angles.size == 4 + 8  # two pools: the last block of a curvature head has none
    assert ((angles >= 0) & (angles <= np.float32(np.pi))).all()
    assert angles[0] == pytest.approx(np.pi, abs=0.5)
    assert np.abs(vector - state.spectral["head"]["power_vector"]).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(state.spectral["head"]["power_vector"]), 1, rtol=1e-5)


def test_gradient_passes_the_attack_as_the_identity(curvature_setting):
    """d loss / d g(x) equals the gradient at g(x) + δ with δ constant, and no gradient flows through δ."""
    config, model, _, state = curvature_setting
    features = jax.random.normal(jax.random.key(1), (6, 32))
    labels = jnp.arange(6) % 10

    def loss(features):
        key = jax.random.key(2)
        variables = {"params": state.params, "spectral": state.spectral}
        return Recipe.of(config).loss(model, variables, features, labels, key, Moment(jnp.ones(())))[0]

    head = state.params["head"]
    rivals = top_rivals(softplus_mlp(head, features), labels)
    radius = Recipe.of(config).loss.attack_radius / config.model.std
    noise = jax.random.normal(jax.random.key(2), features.shape)
    delta = feature_attack(lambda y: softplus_mlp(head, y), features, labels, rivals, radius, noise)
    assert float(jnp.linalg.norm(delta, axis=1).max()) > 0.5 * radius

    def expected(features):
        logits = softplus_mlp(head, features + delta)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), labels])

    np.testing.assert_allclose(jax.grad(loss)(features), jax.grad(expected)(features), rtol=1e-4, atol=1e-7)
    assert float(loss(features)) > float(expected(features))  # γ times the curvature comes on top


def test_clipping_and_no_decay_of_the_head(curvature_setting):
    config, _, optimizer, state = curvature_setting
    gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, 3.0), state.params)
    zero = jax.tree.map(jnp.zeros_like, state.params)
    clipped, _ = optimizer.update(gradient, optimizer.init(state.params), zero)
    norm = float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(clipped))))
    np.testing.assert_allclose(norm, config.optimizer.learning_rate, rtol=1e-5)
    decay, _ = optimizer.update(zero, optimizer.init(state.params), state.params)
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(decay["head"]))
    assert float(jnp.abs(decay["stem"]["kernel"]).max()) > 0


def test_every_step_draws_new_crops(setting):
    """With learning rate 0 and one batch the loss changes from step to step by augmentation alone."""
    config, model, _, images, labels = setting
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({"optimizer.learning_rate": 0.0, "data.crop_padding": 3})
    optimizer = Recipe.of(config).optimizer.transformation(model, 2 * Recipe.of(config).run.epochs)
    step = make_train_step(model, optimizer, Recipe.of(config), 16)
    state, order = initial_state(model, optimizer, 0), epoch_order(0, 1, 64, 16)
    losses = []
    for _ in range(3):
        state, metrics = step(state, Metrics.zero(), images, labels, order)
        losses.append(float(metrics.loss))
    assert len({round(loss, 3) for loss in losses}) == 3


def test_memory_of_the_fast_step_does_not_grow_with_the_terms():
    def temporary_bytes(gradient, terms):
        config = tiny_config()
        config.update_from_flattened_dict(
            {"model.polynomial": "taylor", "model.terms": terms, "model.gradient": gradient, "model.init_channels": 8}
        )
        model = Recipe.of(config).model((8, 8, 1), 10)
        optimizer = Recipe.of(config).optimizer.transformation(model, 2 * Recipe.of(config).run.epochs)
        state = jax.eval_shape(lambda: initial_state(model, optimizer, 0))
        images, labels = jnp.zeros((64, 8, 8, 1), jnp.uint8), jnp.zeros(64, jnp.int32)
        step = make_train_step(model, optimizer, Recipe.of(config), 16)
        order = epoch_order(0, 1, 64, 64)
        lowered = step.lower(state, Metrics.zero(), images, labels, order)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    fast = [temporary_bytes("fast", terms) for terms in (4, 10)]
    exact = [temporary_bytes("exact", terms) for terms in (4, 10)]
    assert fast[1] < 1.05 * fast[0]
    assert exact[1] > 1.3 * exact[0]
    assert fast[1] < exact[1]


@pytest.mark.parametrize("name", ["nadam", "adamw", "lion", "muon"])
def test_optimisers_by_name_train_and_decay_what_layers_say(setting, name):
    """One step with a gradient of zero moves what decays, and nothing else."""
    model = setting[1]
    optimizer = Optimizer(name, learning_rate=0.1, weight_decay=0.5, schedule={"name": "constant_schedule"})
    transformation = optimizer.transformation(model, 10)
    params = initial_state(model, transformation, 0).params
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = transformation.update(zero, transformation.init(params), params)
    moved = jax.tree.map(lambda update: bool(jnp.abs(update).max() > 0), updates)
    assert moved == jax.tree.map(bool, model.decayed(params))


def test_lookahead_returns_half_way(setting):
    """Every third step to the middle between where it would be and where it was three steps before."""
    rate = {"learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.0, "schedule": {"name": "constant_schedule"}}
    seen = {}
    for period in (None, 3):
        transformation = Optimizer(lookahead=period, **rate).transformation(setting[1], 10)
        params = jax.tree.map(jnp.zeros_like, initial_state(setting[1], transformation, 0).params)
        state, gradient = transformation.init(params), jax.tree.map(jnp.ones_like, params)
        seen[period] = []
        for _ in range(7):
            updates, state = transformation.update(gradient, state, params)
            params = jax.tree.map(jnp.add, params, updates)
            seen[period].append(float(params["head"]["bias"][0]))
    np.testing.assert_allclose(seen[None], -0.1 * np.arange(1, 8), rtol=1e-5)
    np.testing.assert_allclose(seen[3], [-0.1, -0.2, -0.15, -0.25, -0.35, -0.3, -0.4], rtol=1e-5)


def test_optimisers_that_cannot_be_are_named():
    with pytest.raises(
        ValueError, match=r"name='schedule_free_sgd': averages parameters, which layers here bring back"
    ):
        Optimizer("schedule_free_sgd")
    with pytest.raises(ValueError, match=r"mask=1: unknown key of adamw; allowed: b1"):
        Optimizer("adamw", mask=1)
    with pytest.raises(ValueError, match=r"muon_weight_dimension_numbers=1: unknown key of muon; allowed: "):
        Optimizer("muon", muon_weight_dimension_numbers=1)
    with pytest.raises(ValueError, match=r"lookahead=0: must be an integer >= 1, or None"):
        Optimizer(lookahead=0)
