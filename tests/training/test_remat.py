"""Blocks computed again in the backward pass: less memory, the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from lipjax import LipConvnet, fold, ops
from lipjax.ops.fusion import recomputed
from lipjax.training.recipe import Metrics, Recipe, initial_state, make_train_step


def test_recomputed_is_the_function_and_its_gradient(rng, float64):
    def function(weights, x):
        return jnp.sin(x @ weights["a"]) @ weights["b"], weights["b"] * 2

    weights = {"a": rng.normal(size=(4, 5)), "b": rng.normal(size=(5, 3))}
    x = rng.normal(size=(7, 4))
    (results, vjp), (expected, expected_vjp) = (jax.vjp(f, weights, x) for f in (recomputed(function), function))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), results, expected)
    cotangent = jax.tree.map(jnp.cos, results)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)  # noqa: E731
    jax.tree.map(same, vjp(cotangent), expected_vjp(cotangent))


@pytest.mark.parametrize("options", [{}, {"polynomial": ops.taylor(3), "head": "crc", "pooling": "projection"}])
def test_gradients_and_norms_are_those_of_the_plain_network(rng, float64, options):
    model = LipConvnet(10, 2, input_size=4, in_channels=1, hidden=8, **options)
    x = jnp.asarray(rng.uniform(size=(4, 4, 4, 1)))
    variables = jax.tree.map(lambda leaf: leaf.astype(float), model.init(jax.random.key(0), x))

    def results(model):
        def loss(params):
            inputs = {"params": params, "spectral": variables["spectral"]}
            logits, updated = model.apply(inputs, x, train=True, mutable=["spectral"])
            return jnp.sum(jnp.sin(logits)), updated

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    plain, again = results(model), results(model.clone(remat=True))
    assert jax.tree.structure(plain) == jax.tree.structure(again)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), plain, again)


def test_training_with_fixed_norms_initialisation_and_folded_networks_are_the_same(rng):
    model = LipConvnet(5, 2, input_size=4, in_channels=1, polynomial=ops.taylor(3))
    x = jnp.asarray(rng.uniform(size=(4, 4, 4, 1)), jnp.float32)
    variables = model.init(jax.random.key(0), x)
    again = model.clone(remat=True).init(jax.random.key(0), x, train=True)
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    moved = jax.tree.map(lambda v: v + 0.1, variables["spectral"])
    cold = {**variables, "spectral": moved}
    plain, remat = (m.apply(cold, x, train=True) for m in (model, model.clone(remat=True)))
    np.testing.assert_allclose(plain, remat, rtol=1e-5)
    folded = [network.apply(own, x) for network, own in (fold(m, variables) for m in (model, model.clone(remat=True)))]
    np.testing.assert_array_equal(*folded)


@pytest.mark.slow
def test_a_deep_network_needs_less_memory():
    """The compiler does not find the second computation to be the first: with `jax.checkpoint` nothing is saved."""

    def temporary_bytes(remat):
        config = tiny_config()
        config.update_from_flattened_dict(
            {"model.depth": 20, "model.init_channels": 8, "model.degree": 2, "model.remat": remat}
        )
        model = Recipe.of(config).model((8, 8, 1), 10)
        optimizer = Recipe.of(config).optimizer.transformation(model, 2 * Recipe.of(config).run.epochs)
        state = jax.eval_shape(lambda: initial_state(model, optimizer, 0))
        shape = jax.ShapeDtypeStruct
        data = shape((1024, 8, 8, 1), np.uint8), shape((1024,), np.int32), shape((2, 512), np.int32)
        step = make_train_step(model, optimizer, Recipe.of(config), 16)
        compiled = step.lower(state, jax.eval_shape(Metrics.zero), *data).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(remat=True) < 0.7 * temporary_bytes(remat=False)
