"""The operations of LipNeXt against their formulas, entry by entry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax import ops


def test_a_quarter_of_the_channels_moves_each_way(rng, float64):
    x = rng.normal(size=(2, 3, 5, 10))
    y = np.asarray(ops.shift(x, 8))
    for row, column in np.ndindex(3, 5):
        np.testing.assert_array_equal(y[:, row, column, 0:2], x[:, (row + 1) % 3, column, 0:2])  # up
        np.testing.assert_array_equal(y[:, row, column, 2:4], x[:, row - 1, column, 2:4])  # down
        np.testing.assert_array_equal(y[:, row, column, 4:6], x[:, row, (column + 1) % 5, 4:6])  # left
        np.testing.assert_array_equal(y[:, row, column, 6:8], x[:, row, column - 1, 6:8])  # right
    np.testing.assert_array_equal(y[..., 8:], x[..., 8:])
    np.testing.assert_array_equal(ops.shift(x, 0), x)


@pytest.mark.parametrize("block", [1, 2, 3, 4])
def test_patches_have_the_channel_order_c_row_column(block, rng):
    x = rng.normal(size=(2, 2 * block, 3 * block, 3)).astype(np.float32)
    y = np.asarray(ops.space_to_depth(x, block))
    assert y.shape == (2, 2, 3, 3 * block**2)
    for i, j, c, row, column in np.ndindex(2, 3, 3, block, block):
        channel = (c * block + row) * block + column
        np.testing.assert_array_equal(y[:, i, j, channel], x[:, i * block + row, j * block + column, c])


def test_norms_over_windows_and_over_all_pixels(rng, float64):
    x = rng.normal(size=(2, 4, 6, 3))
    for size in (1, 2):
        windows = x.reshape(2, 4 // size, size, 6 // size, size, 3)
        np.testing.assert_allclose(ops.l2_pool(x, size), np.linalg.norm(windows, axis=(2, 4)), rtol=1e-14)
    np.testing.assert_allclose(ops.l2_pool(x), np.linalg.norm(x.reshape(2, 24, 3), axis=1), rtol=1e-14)


def test_norms_have_unit_gradients_and_none_at_0(rng, float64):
    x = rng.normal(size=(1, 4, 4, 3))
    x[:, :, :, 0] = 0
    gradient = jax.grad(lambda x: jnp.sum(ops.l2_pool(x)))(x)
    np.testing.assert_allclose(np.linalg.norm(gradient.reshape(16, 3), axis=0), [0, 1, 1], rtol=1e-14)
    np.testing.assert_allclose(gradient[..., 1:], x[..., 1:] / np.linalg.norm(x[..., 1:], axis=(1, 2)), rtol=1e-13)


def test_beta_abs_is_max_min_between_rotations_of_the_pairs(rng, float64):
    x = rng.normal(size=(20, 8))
    y = np.asarray(ops.beta_abs(x, 3))
    np.testing.assert_array_equal(y, np.r_["1", np.abs(x[:, :3]), x[:, 3:]])
    turn = np.kron(np.array([[1, 1], [-1, 1]]) / np.sqrt(2), np.eye(4))  # (a, b) → ((a − b)/√2, (a + b)/√2)
    folded = np.asarray(ops.beta_abs(x @ turn, 4))
    back = folded @ turn.T
    np.testing.assert_allclose(back, ops.max_min(x), rtol=1e-13, atol=1e-14)


def test_n_activation_has_slopes_of_one_size_and_no_jumps(rng, float64):
    theta = np.array([[0.5, -1.0], [-2.0, -0.5], [0.25, 1.0], [0.0, 0.0]])
    x = np.linspace(-4, 4, 4001)[:, None] + np.zeros(4)
    y = np.asarray(ops.n_activation(x, theta))
    slopes = np.diff(y, axis=0) / np.diff(x, axis=0)
    assert (np.abs(slopes) <= 1 + 1e-9).all()
    for c, (low, high) in enumerate(np.sort(theta, axis=1)):
        expected = np.where(x[:, c] < low, x[:, c] - 2 * low, np.where(x[:, c] > high, x[:, c] - 2 * high, -x[:, c]))
        np.testing.assert_allclose(y[:, c], expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(y[:, 3], x[:, 3])
    gradient = jax.grad(lambda theta: jnp.sum(ops.n_activation(x, theta)))(theta)
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient[:3]) > 1).all()


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (lambda x: ops.space_to_depth(x, 3), "H and W multiples of 3, got"),
        (lambda x: ops.space_to_depth(x, 0), "block must be an integer >= 1, got 0"),
        (lambda x: ops.space_to_depth(x, True), "block must be an integer >= 1, got True"),
        (lambda x: ops.l2_pool(x, 3), "H and W multiples of 3, got"),
        (lambda x: ops.l2_pool(x, 0), "size must be an integer >= 1, got 0"),
        (lambda x: ops.l2_pool(x[0]), "x must be"),
        (lambda x: ops.shift(x, 6), r"a multiple of 4 from 0 to C, got \(2, 4, 4, 8\) and 6"),
        (lambda x: ops.shift(x, 12), "a multiple of 4 from 0 to C"),
        (lambda x: ops.shift(x[0], 4), "x must be"),
        (lambda x: ops.beta_abs(x, 9), "count must be an integer from 0 to the channels of .*, got 9"),
        (lambda x: ops.n_activation(x, jnp.zeros((7, 2))), r"theta must have shape \(C, 2\)"),
    ],
)
def test_bad_input_is_named(run, text):
    with pytest.raises(ValueError, match=text):
        run(jnp.zeros((2, 4, 4, 8)))
