"""`ops.fusion.stored`: the identity in every respect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.ops.fusion import stored


@pytest.mark.parametrize("first", [1.5, 0.0, np.inf, -np.inf, np.nan])
def test_values_are_untouched_whatever_the_first_entry(first):
    x = np.array([[first, -2.0, np.nan], [0.0, np.inf, 3.0]], np.float32)
    np.testing.assert_array_equal(jax.jit(stored)(x), x)


def test_derivatives_are_those_of_the_identity():
    x, v = jnp.asarray([0.0, 1.0, -2.0]), jnp.asarray([3.0, -4.0, 5.0])
    np.testing.assert_array_equal(jax.jvp(stored, (x,), (v,))[1], v)
    np.testing.assert_array_equal(jax.jit(lambda x, v: jax.vjp(stored, x)[1](v)[0])(x, v), v)
    np.testing.assert_array_equal(jax.vmap(stored)(jnp.stack([x, v])), jnp.stack([x, v]))


def test_empty_and_integer_arrays():
    assert jax.jit(stored)(jnp.zeros((0, 4))).shape == (0, 4)
    np.testing.assert_array_equal(stored(jnp.arange(3)), jnp.arange(3))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends need no border")
def test_the_compiler_keeps_the_border():
    compiled = jax.jit(lambda x: jnp.sin(stored(jnp.cos(x)))).lower(jnp.ones(8)).compile().as_text()
    assert "conditional(" in compiled
    backward = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(stored(x * 2)) * 3))).lower(jnp.ones(8)).compile().as_text()
    assert backward.count(" conditional(") >= 2
