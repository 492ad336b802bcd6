import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax import ops

pytestmark = pytest.mark.usefixtures("float64")


def test_golden(golden):
    g = golden("pool_lip1")
    x, cotangent = (jnp.asarray(g[name].transpose(0, 2, 3, 1)) for name in ("x", "cot"))
    y, vjp = jax.vjp(ops.projection_pool, x, jnp.asarray(g["theta"]))
    np.testing.assert_allclose(y.transpose(0, 3, 1, 2), g["y"], rtol=1e-12, atol=1e-13)
    gx, gtheta = vjp(cotangent)
    np.testing.assert_allclose(gtheta[6:], 0.0)
    special = np.zeros(x.shape[1:3], bool)
    special[0, :] = special[1, 0] = True
    regular = np.broadcast_to(~special[None, :, :, None], gx.shape) | (np.arange(2)[:, None, None, None] == 1)
    expected = g["gx"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(gx[regular], expected[regular], rtol=1e-12, atol=1e-13)
    norms = np.sqrt(gx[..., :8] ** 2 + gx[..., 8:] ** 2)
    assert (norms <= np.abs(cotangent) * (1 + 1e-12)).all()


def test_distance_to_the_two_rays(rng):
    """Against a direct minimum over both rays, signed negative between them around +x."""
    points, theta = rng.normal(size=(500, 2)), rng.uniform(0, np.pi, 500)
    distances = []
    for (x, y), angle in zip(points, theta, strict=True):
        rays = [np.array([np.cos(s * angle / 2), np.sin(s * angle / 2)]) for s in (1, -1)]
        nearest = min(np.linalg.norm([x, y] - max(ray @ [x, y], 0.0) * ray) for ray in rays)
        distances.append(nearest if abs(np.arctan2(y, x)) > angle / 2 else -nearest)
    pooled = ops.projection_pool(jnp.asarray(points).ravel(order="F")[None], jnp.asarray(theta))
    np.testing.assert_allclose(pooled[0], distances, rtol=1e-12, atol=1e-13)


def test_one_lipschitz_and_finite_gradients(rng):
    theta = jnp.asarray(np.concatenate([rng.uniform(0, np.pi, 30), [0.0, np.pi, -1.0, 4.0]]))
    c = len(theta)
    for scale in (1e-6, 1.0, 1e6):
        x = scale * rng.normal(size=(200, 2 * c))
        y = x + scale * 10.0 ** rng.uniform(-6, 0, (200, 1)) * rng.normal(size=x.shape)
        moved = np.abs(ops.projection_pool(x, theta) - ops.projection_pool(y, theta))
        apart = np.hypot(x[:, :c] - y[:, :c], x[:, c:] - y[:, c:])
        assert (moved <= apart + 8e-16 * scale * 10).all()
    half = np.clip(theta, 0, np.pi) / 2
    on_rays = np.stack([np.concatenate([np.cos(half), s * np.sin(half)]) for s in (1, -1)])
    for points in (np.zeros((1, 2 * c)), on_rays, -on_rays):
        gx, gtheta = jax.grad(lambda x, t: jnp.sum(ops.projection_pool(x, t)), argnums=(0, 1))(
            jnp.asarray(points), theta
        )
        assert np.isfinite(gtheta).all()
        assert (np.hypot(gx[:, :c], gx[:, c:]) <= 1 + 1e-12).all()


def test_bad_input():
    with pytest.raises(ValueError, match="must be even"):
        ops.projection_pool(jnp.zeros((2, 5)), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"theta must have shape \(2,\), got \(4,\)"):
        ops.projection_pool(jnp.zeros((2, 4)), jnp.zeros(4))
