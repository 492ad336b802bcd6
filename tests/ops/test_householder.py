import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax import ops

pytestmark = pytest.mark.usefixtures("float64")


def nhwc(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(("name", "angles"), [("hh1", ["theta"]), ("hh2", ["theta0", "theta1", "theta2"])])
def test_golden(golden, name, angles):
    g = golden(name)
    function = {"hh1": ops.householder, "hh2": ops.householder2}[name]
    y, vjp = jax.vjp(function, nhwc(g["x"]), *(jnp.asarray(g[angle].ravel()) for angle in angles))
    np.testing.assert_allclose(y, nhwc(g["y"]), rtol=1e-12, atol=1e-13)
    gx, *gangles = vjp(nhwc(g["cot"]))
    for angle, actual in zip(angles, gangles, strict=True):
        np.testing.assert_allclose(actual, g[f"g{angle}"].ravel(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gx, nhwc(g["gx"]), rtol=1e-12, atol=1e-12)


def test_order_one_at_a_right_angle_is_max_min_with_halves_swapped(rng):
    x = rng.normal(size=(50, 8))
    expected = np.roll(ops.max_min(x), 4, axis=-1)
    np.testing.assert_allclose(ops.householder(x, np.full(4, np.pi / 2)), expected, rtol=1e-15, atol=1e-15)


def activations(rng, c):
    """Both orders with random and extreme angles."""
    extreme = np.array([0, np.pi / 2, np.pi, 2 * np.pi, 7.0, -1.0])
    angles = [np.concatenate([rng.uniform(0, 2 * np.pi, c - 6), rng.permutation(extreme)]) for _ in range(3)]
    return [lambda x: ops.householder(x, angles[0]), lambda x: ops.householder2(x, *angles)]


def test_pairs_keep_their_norm_and_their_distances_do_not_grow(rng):
    c = 40
    for activation in activations(rng, c):
        for scale in (1e-6, 1.0, 1e6):
            x = scale * rng.normal(size=(300, 2 * c))
            y = x + scale * 10.0 ** rng.uniform(-8, 1, (300, 1)) * rng.normal(size=x.shape)
            a, b = (np.asarray(activation(z)) for z in (x, y))
            np.testing.assert_allclose(np.hypot(a[:, :c], a[:, c:]), np.hypot(x[:, :c], x[:, c:]), rtol=1e-14)
            moved, apart = (np.hypot(d[:, :c], d[:, c:]) for d in (a - b, x - y))
            rounding = 8 * np.finfo(float).eps * (np.hypot(x[:, :c], x[:, c:]) + np.hypot(y[:, :c], y[:, c:]))
            assert (moved <= apart + rounding).all()
            assert (moved > 0.9 * apart).any()


def test_jacobians_are_orthogonal_even_at_the_origin_and_on_the_rays(rng):
    c = 12
    for activation in activations(rng, c):
        for x in (np.zeros(2 * c), np.ones(2 * c), np.repeat([1.0, 0.0], c), rng.normal(size=2 * c)):
            jacobian = np.asarray(jax.jacobian(lambda z, f=activation: f(z[None])[0])(jnp.asarray(x)))
            np.testing.assert_allclose(jacobian @ jacobian.T, np.eye(2 * c), atol=1e-14)


def test_angles_beyond_two_pi_get_no_gradient(rng):
    x, angles = rng.normal(size=(20, 4)), [np.array([1.0, 7.0]), np.array([-1.0, 1.0]), np.array([1.0, 2.0])]
    gradients = jax.grad(lambda a: jnp.sum(ops.householder2(x, *a) * jnp.arange(4)))([jnp.asarray(a) for a in angles])
    assert gradients[0][1] == gradients[1][0] == 0
    assert (np.abs(np.concatenate([gradients[0][:1], gradients[1][1:]])) > 1e-3).all()


def test_bad_input():
    with pytest.raises(ValueError, match="householder: the number of channels .* must be even"):
        ops.householder(jnp.zeros((2, 5)), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"householder2: theta1 must have shape \(2,\), got \(3,\)"):
        ops.householder2(jnp.zeros((2, 4)), jnp.zeros(2), jnp.zeros(3), jnp.zeros(2))
