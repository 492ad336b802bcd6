"""Almost orthogonal convolutions, convex potentials and SDP residuals: formulas, bounds from both sides, rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.layers import AlmostOrthogonalConv, ConvexPotential, SdpResidual
from lipjax.layers.proven_norm import proven_norm
from lipjax.layers.rounding import COARSEST
from lipjax.ops import conv_norm_bound
from lipjax.ops.convolution import dense_operator
from lipjax.ops.diagonal_bounds import LEAST, diagonal_bound

KINDS = {"aol": AlmostOrthogonalConv, "cpl": ConvexPotential, "sll": SdpResidual}
# (features, shape of the input, kernel size): as many channels, more, fewer, dense, 1×1
SHAPES = {
    "same": (4, (4, 4, 4), 3),
    "more": (4, (3, 3, 3), 3),
    "fewer": (3, (4, 4, 4), 3),
    "dense": (4, (2, 2, 3), 3),
    "rectangles": (3, (5, 3, 2), 5),
    "1×1": (6, (2, 2, 6), 1),
}


def made(kind, case, seed=0, spread=0.3):
    """(layer, its float32 variables away from their start, shape)."""
    features, shape, kernel_size = SHAPES[case]
    layer, rng = KINDS[kind](features, kernel_size=kernel_size), np.random.default_rng(seed)
    own = jax.tree.map(np.asarray, dict(layer.init(jax.random.key(seed), np.zeros((1, *shape), np.float32))))
    own["params"] = {n: np.float32(a + spread * rng.normal(size=a.shape)) for n, a in own["params"].items()}
    return layer, layer.tightened(own, shape), shape


def in_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.device_get(tree))


def images(shape, count=5, seed=1):
    return np.random.default_rng(seed).normal(size=(count, *shape))


def jacobians(layer, own, x):
    with jax.enable_x64(True):
        of_one = jax.jacobian(lambda z: layer.evaluate(in_float64(own), z[None]).ravel())
        return np.asarray(jax.vmap(of_one)(x)).reshape(len(x), -1, x[0].size)


def naive_scale(kernel, q):
    """Σ_{δ, j} |Σ_{a, o} P[a, i, o] P[a + δ, j, o]| q_j / q_i, by loops."""
    k, _, c_in, _ = kernel.shape
    total = np.zeros(c_in)
    for dy in range(1 - k, k):
        for dx in range(1 - k, k):
            inner = np.zeros((c_in, c_in))
            for a in range(k):
                for b in range(k):
                    if 0 <= a + dy < k and 0 <= b + dx < k:
                        inner += kernel[a, b] @ kernel[a + dy, b + dx].T
            total += np.abs(inner) @ q / q
    return total + LEAST


def reference(kind, params, norm, x, features):
    """The layer by its formula with the dense matrix of the convolution, differentiable."""
    kernel, bias = params["kernel"], params["bias"]
    count, height, width, c_in = x.shape
    if kind == "aol":
        scale = 1 / np.sqrt(naive_scale(np.asarray(kernel), np.ones(c_in)))
        dense = dense_operator(np.asarray(kernel) * scale[:, None], height, width)
        return (x.reshape(count, -1) @ dense).reshape(count, height, width, -1) + bias
    channels, inner = kernel.shape[2:]
    x = np.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - c_in)))
    dense = dense_operator(np.asarray(kernel), height, width)
    z = np.maximum((x.reshape(count, -1) @ dense).reshape(count, height, width, inner) + bias, 0)
    if kind == "cpl":
        z = z * 2 / norm**2
    else:
        z = z * 2 / naive_scale(np.asarray(kernel).swapaxes(2, 3), np.exp(params["log_q"]))
    return (x - (z.reshape(count, -1) @ dense.T).reshape(x.shape))[..., :features]


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_the_formula(kind, case):
    layer, own, shape = made(kind, case)
    own, x = in_float64(own), images(shape)
    expected = reference(kind, own["params"], own.get("spectral", {}).get("norm"), x, layer.features)
    with jax.enable_x64(True):
        for found in (layer.evaluate(own, x), layer.apply(own, x)):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", ["same", "fewer", "dense", "1×1"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind, case):
    layer, own, shape = made(kind, case)
    own, x, weight = in_float64(own), images(shape, 3), images((*shape[:2], layer.features), 3, 2)

    def loss(params, x):
        return (layer.apply({**own, "params": params}, x) * weight).sum()

    rng = np.random.default_rng(3)
    step = jax.tree.map(lambda a: rng.normal(size=a.shape), (own["params"], x))
    with jax.enable_x64(True):
        gradient = jax.grad(loss, argnums=(0, 1))(own["params"], jnp.asarray(x))
        slope = sum((g * s).sum() for g, s in zip(jax.tree.leaves(gradient), jax.tree.leaves(step), strict=True))
        moved = [jax.tree.map(lambda a, s, h=h: a + h * s, (own["params"], x), step) for h in (1e-6, -1e-6)]
        expected = (loss(*moved[0]) - loss(*moved[1])) / 2e-6
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_jacobian_exceeds_the_bound_and_one_comes_close(kind, case):
    layer, own, shape = made(kind, case)
    proof = layer.proof(own, shape)
    x = images(shape)
    if kind != "aol":  # where nothing is active, the identity
        x[0] = -1e6 * np.abs(x[0])
        own["params"]["kernel"] = np.abs(own["params"]["kernel"])
        own = layer.tightened(own, shape)
        proof = layer.proof(own, shape)
    norm = np.linalg.norm(jacobians(layer, own, x), 2, axis=(1, 2)).max()
    assert norm <= proof.lipschitz * (1 + 1e-14)
    assert proof.lipschitz <= 1.01 * norm
    assert proof.lipschitz <= 1
    with jax.enable_x64(True):
        at_zero = np.linalg.norm(layer.evaluate(in_float64(own), np.zeros((1, *shape))))
    assert 0 < at_zero <= proof.offset


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_no_pair_of_points_is_parted(kind, seed):
    layer, own, shape = made(kind, "same", seed)
    near = images(shape, 200, seed)
    x, y = near, near + images(shape, 200, seed + 10) * np.geomspace(1e-3, 1, 200)[:, None, None, None]
    with jax.enable_x64(True):
        fx, fy = (np.asarray(layer.evaluate(in_float64(own), z)) for z in (x, y))
    grown = np.linalg.norm((fx - fy).reshape(200, -1), axis=1) / np.linalg.norm((x - y).reshape(200, -1), axis=1)
    assert grown.max() <= layer.proof(own, shape).lipschitz * (1 + 1e-12)


def active(layer, own):
    """The variables with a bias that makes every inner unit active near 0."""
    return {**own, "params": {**own["params"], "bias": np.full_like(own["params"]["bias"], 1e3)}}


@pytest.mark.parametrize("kind", ["cpl", "sll"])
def test_where_all_is_active_a_direction_is_reflected(kind):
    """I − 2 VᵀV has an eigenvalue near −1 where ‖V‖ = 1: a factor 2.01 in its place would exceed the bound."""
    shape = (1, 1, 4)
    layer = KINDS[kind](4, kernel_size=1)
    own = jax.tree.map(np.asarray, dict(layer.init(jax.random.key(0), np.zeros((1, *shape), np.float32))))
    kernel = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    if kind == "cpl":
        kernel = kernel * [1, 0.5, 0.2, 0.1]
    own["params"]["kernel"] = np.float32(kernel)[None, None]
    own = layer.tightened(active(layer, own), shape)
    found = np.linalg.eigvals(jacobians(layer, own, np.zeros((1, *shape)))[0]).real.min()
    assert -1 <= found <= -1 + 5e-3


def test_a_norm_that_is_too_small_makes_the_bound_larger_and_is_attained():
    layer, own, shape = made("cpl", "same")
    own = active(layer, own)
    for factor in (0.9, 0.5):
        low = {**own, "spectral": {**own["spectral"], "norm": own["spectral"]["norm"] * factor}}
        bound = layer.proof(low, shape).lipschitz
        norm = np.linalg.norm(jacobians(layer, low, np.zeros((1, *shape)))[0], 2)
        assert norm <= bound <= 1.01 * norm
        assert bound > 1.2


def test_tightened_raises_a_norm_to_the_proven_one_and_lowers_none():
    layer, own, shape = made("cpl", "same")
    dense = dense_operator(np.asarray(own["params"]["kernel"], np.float64), 4, 4)
    norm = np.linalg.norm(dense, 2)
    assert norm <= float(own["spectral"]["norm"]) <= 1.01 * norm
    assert layer.proof(own, shape).lipschitz == 1.0


def test_norms_are_remembered_by_kernel_shape_and_size(rng):
    """The same numbers have another norm as another kernel, or on other images."""
    numbers = rng.normal(size=144)
    for shape in [(3, 3, 4, 4), (3, 3, 2, 8), (3, 3, 8, 2), (1, 1, 12, 12)]:
        for size in [(2, 2), (2, 5), (5, 2), (4, 4)]:
            kernel = numbers.reshape(shape)
            for _ in range(2):
                found, bound = proven_norm(kernel, size), conv_norm_bound(kernel, size)
                if kernel.shape[:2] == (1, 1):  # proven closer to the norm of the matrix
                    assert (
                        np.linalg.norm(kernel[0, 0], 2)
                        <= found
                        <= min(bound, (1 + 2e-6) * np.linalg.norm(kernel[0, 0], 2))
                    )
                else:
                    assert found == bound


def test_training_follows_the_norm():
    layer, own, shape = made("cpl", "same")
    norm, raw = own["spectral"]["norm"], own["params"]["kernel"]
    own = {**own, "params": {**own["params"], "kernel": 3 * raw}}
    for _ in range(20):
        _, updated = layer.apply(own, np.float32(images(shape)), True, mutable=["spectral"])
        own = {**own, **updated}
    np.testing.assert_allclose(own["spectral"]["norm"], 3 * norm, rtol=0.02)


@pytest.mark.parametrize("q", [None, "random"])
def test_the_diagonal_bounds_the_gram_matrix_and_no_smaller_one_need(q, rng):
    kernel = rng.normal(size=(3, 3, 3, 4))
    weights = np.ones(3) if q is None else np.exp(rng.normal(size=3))
    with jax.enable_x64(True):
        t = np.asarray(diagonal_bound(jnp.asarray(kernel), None if q is None else jnp.asarray(weights)))
    np.testing.assert_allclose(t, naive_scale(kernel, weights), rtol=1e-12)
    dense = dense_operator(kernel, 6, 6)
    assert np.linalg.eigvalsh(np.diag(np.tile(t, 36)) - dense @ dense.T).min() >= 0
    ones = np.ones((1, 1, 1, 1))
    with jax.enable_x64(True):
        np.testing.assert_allclose(diagonal_bound(jnp.asarray(ones)), 1, rtol=2e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_channel_of_zeros_has_finite_outputs_and_gradients(kind):
    layer, own, shape = made(kind, "same")
    kernel = np.array(own["params"]["kernel"])
    kernel[:, :, 0], kernel[:, :, :, 1] = 0, 0
    for changed in (kernel, 0 * kernel):
        params = {**own["params"], "kernel": changed}
        found = jax.grad(lambda p: (layer.apply({**own, "params": p}, np.float32(images(shape))) ** 2).sum())(params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
        assert layer.proof(layer.tightened({**own, "params": params}, shape), shape).lipschitz <= 1


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_off_by_no_more_than_its_rounding(kind, case):
    layer, own, shape = made(kind, case)
    x = images(shape, 20).astype(np.float32)
    found = np.asarray(layer.evaluate(own, x), np.float64)
    with jax.enable_x64(True):
        exact = np.asarray(layer.evaluate(in_float64(own), np.float64(x)))
    relative, absolute = layer.proof(own, shape).rounding
    error, size = (np.linalg.norm(z.reshape(20, -1).astype(float), axis=1) for z in (found - exact, x))
    allowed = COARSEST * (relative * size + absolute)
    assert (error <= allowed).all()
    assert (error > 0).any()
    assert (allowed <= 5000 * error.max()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_bad_attributes_are_refused_by_name(kind):
    with pytest.raises(ValueError, match="kernel_size must be an odd number >= 1, got 2"):
        KINDS[kind](4, kernel_size=2)
    if kind != "aol":
        with pytest.raises(ValueError, match="inner must be None or an integer >= 1, got 0"):
            KINDS[kind](4, inner=0)


def test_variables_without_tracked_norms_are_refused():
    layer, own, shape = made("cpl", "same")
    for call in (lambda o: layer.proof(o, shape), lambda o: layer.evaluate(o, np.zeros((1, *shape), np.float32))):
        with pytest.raises(ValueError, match="ConvexPotential has no 'spectral' collection"):
            call({"params": own["params"]})
