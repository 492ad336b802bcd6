import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax import ops

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(("name", "op"), [("maxmin", ops.max_min), ("maxpool", ops.max_pool)])
def test_golden(golden, name, op):
    g = {key: jnp.asarray(value.transpose(0, 2, 3, 1)) for key, value in golden(name).items()}
    y, vjp = jax.vjp(op, g["x"])
    np.testing.assert_array_equal(y, g["y"])
    np.testing.assert_allclose(vjp(g["cot"])[0], g["gx"], rtol=1e-12)


def test_space_to_depth_order():
    """Channel 4c + 2·row + column of the output is channel c at (row, column) of each 2×2 cell."""
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    y = ops.space_to_depth(x)
    assert y.shape == (2, 2, 3, 12)
    for c, row, column in np.ndindex(3, 2, 2):
        np.testing.assert_array_equal(y[..., 4 * c + 2 * row + column], x[:, row::2, column::2, c])


@pytest.mark.parametrize("op", [ops.max_min, ops.max_pool, ops.space_to_depth])
def test_one_lipschitz(rng, op):
    for scale in (1e-3, 1.0, 1e3):
        x, y = (scale * jnp.asarray(rng.normal(size=(50, 2, 2, 6))) for _ in range(2))
        y = jnp.where(rng.random((50, 1, 1, 1)) < 0.5, x + 1e-3 * (y - x), y)
        distances = jnp.linalg.norm((op(x) - op(y)).reshape(50, -1), axis=1)
        assert (distances <= jnp.linalg.norm((x - y).reshape(50, -1), axis=1) * (1 + 1e-14)).all()


def test_norm_preserving(rng):
    x = jnp.asarray(rng.normal(size=(5, 4, 4, 6)))
    for op in (ops.max_min, ops.space_to_depth):
        np.testing.assert_allclose(jnp.linalg.norm(op(x)), jnp.linalg.norm(x), rtol=1e-14)


@pytest.mark.parametrize(
    ("op", "shape", "text"),
    [
        (ops.max_min, (2, 4, 4, 3), "must be even"),
        (ops.max_pool, (2, 4, 4, 3), "must be even"),
        (ops.space_to_depth, (2, 3, 4, 4), "H and W even"),
        (ops.space_to_depth, (4, 4, 4), "H and W even"),
    ],
)
def test_bad_shapes(op, shape, text):
    with pytest.raises(ValueError, match=text):
        op(jnp.zeros(shape))
