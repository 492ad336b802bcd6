import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.ops import orthogonal_conv, skew, taylor
from lipjax.ops.convolution import dense_operator


def test_operator_is_exactly_skew(rng):
    for k, c, size in [(1, 6, 3), (3, 4, 2), (3, 4, 5), (5, 2, 4)]:
        kernel = np.asarray(skew.skew_kernel(jnp.asarray(rng.normal(size=(k, k, c, c)))))
        operator = dense_operator(kernel, size, size)
        np.testing.assert_array_equal(operator, -operator.T)
        assert np.abs(operator).max() > 0.1


def test_skew_kernel_is_a_projection(rng):
    kernel = skew.skew_kernel(rng.normal(size=(3, 3, 4, 4)))
    np.testing.assert_array_equal(skew.skew_kernel(kernel), kernel)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["soc_3x3", "soc_stride2", "soc_1x1", "soc_channel_reduce", "soc_channel_expand"])
def test_golden_normalisation(golden, name):
    g = golden(name)
    vectors = {key: jnp.asarray(g[key].ravel()) for key in ("u1", "u2", "u3", "u4", "v1", "v2", "v3", "v4")}
    raw = jnp.asarray(g["weight"].transpose(2, 3, 1, 0))
    kernel = skew.skew_kernel(raw)
    norms = [vectors[f"v{j}"] @ m @ vectors[f"u{j}"] for j, m in enumerate(skew.reshaped_kernels(kernel), 1)]
    np.testing.assert_allclose(norms, g["s1234"], rtol=1e-13)
    np.testing.assert_allclose(skew.four_norm(kernel, vectors), g["sigma"], rtol=1e-13)
    np.testing.assert_allclose(
        skew.normalised_skew_kernel(raw, vectors), g["skew_filter"].transpose(2, 3, 1, 0), rtol=0, atol=1e-15
    )


@pytest.mark.usefixtures("float64")
def test_power_steps_reach_the_spectral_norms(rng):
    kernel = skew.skew_kernel(jnp.asarray(rng.normal(size=(3, 3, 4, 4))))
    vectors = skew.random_power_vectors(jax.random.key(0), kernel.shape, jnp.float64)
    vectors = skew.power_steps(kernel, vectors, 2000)
    norms = [np.linalg.norm(matrix, 2) for matrix in skew.reshaped_kernels(kernel)]
    for j, matrix in enumerate(skew.reshaped_kernels(kernel), 1):
        np.testing.assert_allclose(vectors[f"v{j}"] @ matrix @ vectors[f"u{j}"], norms[j - 1], rtol=1e-9)
    np.testing.assert_allclose(skew.four_norm(kernel, vectors), min(norms), rtol=1e-9)


def test_zero_kernel_stays_zero():
    kernel = jnp.zeros((3, 3, 4, 4))
    vectors = skew.power_steps(kernel, skew.random_power_vectors(jax.random.key(0), kernel.shape), 3)
    np.testing.assert_array_equal(skew.normalised_skew_kernel(kernel, vectors), kernel)


@pytest.mark.parametrize("shape", [(2, 2, 4, 4), (3, 1, 4, 4), (3, 3, 4, 2), (3, 4, 4)])
def test_bad_shape(shape):
    with pytest.raises(ValueError, match=r"kernel must have shape \(k, k, C, C\) with k odd"):
        skew.skew_kernel(np.zeros(shape))


def test_kernels_that_are_not_skew(rng):
    kernel = skew.skew_kernel(jnp.asarray(rng.normal(size=(3, 3, 4, 4)), jnp.float32))
    x = jnp.zeros((1, 4, 4, 4))
    orthogonal_conv(x, kernel, taylor(3))
    for bad in (kernel.at[0, 0, 0, 1].add(1e-2), jnp.ones((1, 1, 4, 4)), kernel * jnp.nan):
        with pytest.raises(ValueError, match="kernel must be skew, .* got one that misses it by"):
            orthogonal_conv(x, bad, taylor(3))
    jax.jit(lambda k: orthogonal_conv(x, k, taylor(3)))(jnp.ones((1, 1, 4, 4)))  # traced: not checked
