"""Convolutions of any kernel against their definition, summed tap by tap in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.interop.claim import norm_power_steps
from lipjax.ops.convolution import convolution, dense_operator
from lipjax.ops.general_conv import KRYLOV, conv, norm_along, patches, ritz_step, strided_kernel
from lipjax.ops.ritz import ritz_vector


def by_taps(x, kernel, stride, before):
    """y[i] = Σ_t kernel[t] x[s i + t − p], zeros outside."""
    (count, height, width, _), k = x.shape, len(kernel)
    y = np.zeros((count, -(-height // stride), -(-width // stride), kernel.shape[3]))
    for i, j, a, b in np.ndindex(*y.shape[1:3], k, k):
        row, column = stride * i + a - before, stride * j + b - before
        if 0 <= row < height and 0 <= column < width:
            y[:, i, j] += x[:, row, column] @ kernel[a, b]
    return y


@pytest.mark.parametrize(
    ("k", "stride", "before"),
    [(5, 2, 2), (3, 2, 1), (7, 2, 3), (4, 2, 1), (4, 4, 0), (2, 2, 0), (3, 3, 0), (7, 4, 2), (3, 1, 1), (1, 1, 0)],
)
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 5), (1, 3)])
def test_a_strided_convolution_is_one_of_the_rearranged_image(k, stride, before, size, rng, float64):
    x, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(k, k, 3, 4))
    rearranged = strided_kernel(jnp.asarray(kernel), stride)
    assert len(rearranged) % 2 == 1
    y = conv(patches(jnp.asarray(x), stride), rearranged)
    np.testing.assert_allclose(y, by_taps(x, kernel, stride, before), rtol=0, atol=1e-12)


def test_patches_move_every_pixel_and_add_zeros(rng):
    x = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
    y = np.asarray(patches(jnp.asarray(x), 4))
    assert y.shape == (2, 2, 2, 48)
    np.testing.assert_array_equal(y[:, 1, 0].reshape(2, 4, 4, 3)[:, 0], x[:, 4, :4])
    np.testing.assert_array_equal(np.sort(y[y != 0]), np.sort(x.ravel()))


@pytest.mark.parametrize(
    "shape", [(3, 5, 4, 3, 4), (1, 5, 4, 3, 2), (3, 2, 2, 3, 4), (5, 9, 9, 2, 3), (3, 40, 40, 2, 3)]
)
def test_gradients_are_those_of_autodiff(shape, rng, float64):
    k, height, width, c_in, c_out = shape
    x, kernel = (
        jnp.asarray(rng.normal(size=(3, height, width, c_in))),
        jnp.asarray(rng.normal(size=(k, k, c_in, c_out))),
    )
    found, expected = (
        jax.grad(lambda x, kernel, f=f: jnp.sum(jnp.sin(f(x, kernel))), (0, 1))(x, kernel) for f in (conv, convolution)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_half_precision_keeps_half_the_memory_and_the_dtype(rng):
    x, kernel = (
        jnp.asarray(rng.normal(size=(2, 5, 5, 3)), "float32"),
        jnp.asarray(rng.normal(size=(3, 3, 3, 4)), "float32"),
    )
    half = kernel.astype(jnp.bfloat16)
    y, back = jax.vjp(conv, x, half)
    assert y.dtype == jnp.float32
    assert [g.dtype for g in back(y)] == [jnp.float32, jnp.bfloat16]
    exact = conv(x, kernel)
    assert 1e-5 < np.linalg.norm(y - exact) / np.linalg.norm(exact) < 2e-2


@pytest.mark.parametrize("size", [(4, 4), (2, 5), (1, 1)])
def test_power_steps_find_the_norm_and_its_gradient(size, rng, float64):
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 3)))
    image = rng.normal(size=(*size, 2))
    image = norm_power_steps(kernel, jnp.asarray(image / np.linalg.norm(image)), 2000)

    def norm(kernel):
        return jnp.linalg.norm(dense_operator(kernel, *size), 2)

    np.testing.assert_allclose(norm_along(kernel, image), norm(kernel), rtol=1e-10)
    found, expected = jax.grad(norm_along)(kernel, image), jax.grad(norm)(kernel)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    # at any image, of the form that is linear in the kernel
    start = norm_power_steps(kernel, image + 0.3, 0) / 2
    direction = jnp.asarray(rng.normal(size=kernel.shape))
    slope = jnp.vdot(jax.grad(norm_along)(kernel, start), direction)
    y, moved = (conv(start[None], k).ravel() for k in (kernel, direction))
    np.testing.assert_allclose(slope, jnp.vdot(y, moved) / jnp.linalg.norm(y), rtol=1e-10)


def test_a_ritz_step_takes_what_is_enlarged_most_of_the_krylov_space(rng, float64):
    kernel, image = jnp.asarray(rng.normal(size=(3, 3, 2, 4))), jnp.asarray(rng.normal(size=(5, 2, 2)))
    dense = dense_operator(kernel, 5, 2)  # of rows
    expected = ritz_vector(lambda v: dense @ (v @ dense), image.ravel(), KRYLOV)
    found = ritz_step(kernel, image)
    np.testing.assert_allclose(found.ravel(), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(norm_along(kernel, found), np.linalg.norm(expected @ dense), rtol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_ritz_steps_tell_singular_values_apart_that_power_steps_do_not(seed, float64):
    """The identity with noise has many near the largest: after as many products, more than half the error is left."""
    rng = np.random.default_rng(seed)
    kernel = 0.03 * rng.normal(size=(3, 3, 8, 8))
    kernel[1, 1] += np.eye(8)
    kernel, start = jnp.asarray(kernel), jnp.asarray(rng.normal(size=(6, 6, 8)))
    true = np.linalg.norm(dense_operator(kernel, 6, 6), 2)
    image = start
    for _ in range(4):
        image = ritz_step(kernel, image)
    by_ritz, by_power = norm_along(kernel, image), norm_along(kernel, norm_power_steps(kernel, start, 4 * KRYLOV))
    assert 0.99 * true < by_ritz < true * (1 + 1e-12)
    assert true - by_ritz < 0.5 * (true - by_power)


def test_nothing_is_lost_at_a_kernel_of_zeros():
    kernel, image = jnp.zeros((3, 3, 2, 2)), jnp.ones((3, 3, 2))
    assert np.isfinite(norm_power_steps(kernel, image, 3)).all()
    assert np.isfinite(ritz_step(kernel, image)).all()
    assert np.isfinite(jax.grad(norm_along)(kernel, image)).all()
