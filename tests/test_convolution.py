import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.ops.convolution import convolution, dense_operator, linear_operator

pytestmark = pytest.mark.usefixtures("float64")
SHAPES = [(1, 5, 5), (1, 1, 1), (3, 1, 1), (3, 2, 2), (3, 1, 2), (3, 4, 4), (3, 3, 5), (5, 3, 3), (5, 6, 4)]


@pytest.mark.parametrize(("k", "height", "width"), SHAPES)
def test_operator_is_the_convolution(rng, k, height, width):
    x = jnp.asarray(rng.normal(size=(2, height, width, 3)))
    kernel = jnp.asarray(rng.normal(size=(k, k, 3, 3)))
    expected = convolution(x, kernel)
    np.testing.assert_allclose(linear_operator(kernel, height, width)(x), expected, rtol=1e-12, atol=1e-13)
    dense = dense_operator(np.asarray(kernel), height, width)
    np.testing.assert_allclose(x.reshape(2, -1) @ dense, expected.reshape(2, -1), rtol=1e-12, atol=1e-13)
    gradient = jax.grad(lambda k: jnp.sum(linear_operator(k, height, width)(x) ** 3))(kernel)
    wanted = jax.grad(lambda k: jnp.sum(convolution(x, k) ** 3))(kernel)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-10, atol=1e-10)


def test_convolution_by_hand():
    """Output pixel (h, w) reads input pixel (h + a − 1, w + b − 1) by tap (a, b), zeros outside."""
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 2].set(1.0)
    np.testing.assert_array_equal(convolution(x, kernel)[0, :, :, 0], [[0, 0, 0], [1, 2, 0], [4, 5, 0]])


@pytest.mark.parametrize(("k", "size", "primitive"), [(1, 8, False), (3, 2, False), (3, 4, True), (5, 3, False)])
def test_small_images_do_not_reach_the_slow_convolution(k, size, primitive):
    x, kernel = jnp.zeros((2, size, size, 4)), jnp.zeros((k, k, 4, 4))
    jaxpr = str(jax.make_jaxpr(lambda x, kernel: linear_operator(kernel, size, size)(x))(x, kernel))
    assert ("conv_general_dilated" in jaxpr) == primitive
