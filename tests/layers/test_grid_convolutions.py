"""Block reflectors and Cayley convolutions: formulas by other means, gains of 1, bounds, rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.layers import BlockReflectorConv, CayleyConv
from lipjax.layers.rounding import COARSEST
from lipjax.ops.frequency import grid_conv, symbols, transforms

KINDS = {"bro": BlockReflectorConv, "cayley": CayleyConv}
SHAPES = {
    "same": (4, (5, 5, 4), 3),
    "more": (4, (4, 4, 3), 3),
    "fewer": (3, (4, 6, 4), 3),
    "small": (4, (2, 2, 4), 3),
    "one pixel": (4, (1, 1, 4), 3),
    "1×1": (6, (3, 2, 6), 1),
}


def made(kind, case, seed=0, **options):
    """(layer, its float32 variables, shape)."""
    features, shape, kernel_size = SHAPES[case]
    layer = KINDS[kind](features, kernel_size=kernel_size, **options)
    return layer, jax.tree.map(np.asarray, dict(layer.init(jax.random.key(seed), np.zeros((1, *shape))))), shape


def in_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def images(shape, count=4, seed=1):
    return np.random.default_rng(seed).normal(size=(count, *shape))


def matrix_of(layer, own, shape):
    """Of the layer without its bias, (unknowns in, unknowns out)."""
    unknowns = int(np.prod(shape))
    own = in_float64({"params": {**own["params"], "bias": 0 * own["params"]["bias"]}})
    with jax.enable_x64(True):
        return np.asarray(layer.evaluate(own, np.eye(unknowns).reshape(unknowns, *shape))).reshape(unknowns, -1)


def circulant(kernel, height, width):
    """The matrix of y[p] = Σ_d K[d] z[p + d − r] on the torus, z (C_out channels) → y (C_in channels), by loops."""
    k, _, c_in, c_out = kernel.shape
    matrix = np.zeros((height, width, c_in, height, width, c_out))
    for y, x, a, b in np.ndindex(height, width, k, k):
        matrix[y, x, :, (y + a - k // 2) % height, (x + b - k // 2) % width] += kernel[a, b]
    return matrix.reshape(height * width * c_in, -1)


def reference(kind, layer, own, x):
    """By the FFT for block reflectors, whose ridge is one of frequencies; by one inverse matrix for Cayley."""
    kernel, bias = (np.asarray(own["params"][name], np.float64) for name in ("kernel", "bias"))
    k, channels, (_, height, width, c_in) = len(kernel), kernel.shape[2], x.shape
    x = np.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - c_in)))
    if kind == "cayley":
        if k == 1:
            w = kernel[0, 0].T
            q = np.linalg.solve(np.eye(channels) + w - w.T, np.eye(channels) - w + w.T)
            return np.einsum("oi,nhwi->nhwo", q, x)[..., : layer.features] + bias
        w = circulant(kernel.swapaxes(2, 3), height, width)
        q = np.linalg.solve(np.eye(len(w)) + w - w.T, np.eye(len(w)) - w + w.T)
        return (x.reshape(len(x), -1) @ q.T).reshape(x.shape)[..., : layer.features] + bias
    kernel = kernel * layer.scale
    if layer.identity:
        kernel[k // 2, k // 2] += np.eye(*kernel.shape[2:])
    g, h = height + k - 1, width + k - 1
    placed = np.zeros((g, h, *kernel.shape[2:]))
    for a, b in np.ndindex(k, k):
        placed[(a - k // 2) % g, (b - k // 2) % h] += kernel[a, b]
    v = np.fft.ifft2(placed, axes=(0, 1)) * g * h
    gram = v.conj().swapaxes(2, 3) @ v
    rank = gram.shape[-1]
    ridge = layer.ridge * np.trace(gram, axis1=2, axis2=3).real / rank
    inverse = np.linalg.inv(gram + ridge[..., None, None] * np.eye(rank))
    q = np.eye(channels) - 2 * v @ inverse @ v.conj().swapaxes(2, 3)
    spectrum = np.fft.fft2(x, (g, h), axes=(1, 2))
    y = np.fft.ifft2(np.einsum("ghoi,nghi->ngho", q, spectrum), axes=(1, 2)).real
    return y[:, :height, :width, : layer.features] + bias


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_the_formula(kind, case):
    layer, own, shape = made(kind, case)
    x = images(shape)
    with jax.enable_x64(True):
        for found in (layer.evaluate(in_float64(own), x), layer.apply(in_float64(own), x)):
            np.testing.assert_allclose(found, reference(kind, layer, own, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", [{"identity": True, "scale": 0.3}, {"rank": 3}, {"rank": 4, "ridge": 1e-3}])
def test_options_of_block_reflectors_are_those_of_the_formula(options):
    layer, own, shape = made("bro", "more", **options)
    assert own["params"]["kernel"].shape[3] == options.get("rank", 2)
    x = images(shape)
    with jax.enable_x64(True):
        found = layer.evaluate(in_float64(own), x)
    np.testing.assert_allclose(found, reference("bro", layer, own, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", ["same", "small", "1×1"])
@pytest.mark.parametrize(("kind", "options"), [("bro", {}), ("bro", {"ridge": 1e-2, "rank": 3}), ("cayley", {})])
def test_gradients_are_those_of_finite_differences(kind, options, case):
    layer, own, shape = made(kind, case, **options)
    own, x, weight = in_float64(own), images(shape), images((*shape[:2], layer.features), seed=2)

    def loss(params, x):
        return (layer.apply({"params": params}, x) * weight).sum()

    rng = np.random.default_rng(3)
    step = jax.tree.map(lambda a: rng.normal(size=a.shape), (own["params"], x))
    with jax.enable_x64(True):
        gradient = jax.grad(loss, argnums=(0, 1))(own["params"], jnp.asarray(x))
        slope = sum((g * s).sum() for g, s in zip(jax.tree.leaves(gradient), jax.tree.leaves(step), strict=True))
        moved = [jax.tree.map(lambda a, s, h=h: a + h * s, (own["params"], x), step) for h in (1e-6, -1e-6)]
        expected = (loss(*moved[0]) - loss(*moved[1])) / 2e-6
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


@pytest.mark.parametrize("case", ["same", "small", "one pixel", "1×1"])
def test_cayley_convolutions_keep_every_norm(case):
    gains = np.linalg.svd(matrix_of(*made("cayley", case)), compute_uv=False)
    np.testing.assert_allclose(gains, 1, rtol=0, atol=1e-12)


def test_block_reflectors_keep_every_norm_on_the_grid_but_for_the_ridge(rng):
    """Images as large as the grid are not cut, nor are those of 1 × 1 kernels."""
    layer, own, _ = made("bro", "same", ridge=1e-7)
    kernel = np.asarray(own["params"]["kernel"], np.float64)
    with jax.enable_x64(True):
        matrices = layer._matrices(jnp.asarray(kernel), (6, 6))
        rows = np.asarray(grid_conv(jnp.eye(144).reshape(144, 6, 6, 4), matrices, (6, 6))).reshape(144, 144)
    np.testing.assert_allclose(rows, rows.T, atol=1e-14)
    eigenvalues = np.linalg.eigvalsh(rows)
    np.testing.assert_allclose(np.abs(eigenvalues), 1, rtol=0, atol=1e-5)
    assert eigenvalues.max() <= 1 + 1e-14
    assert eigenvalues.min() >= -1 + 1e-9
    np.testing.assert_allclose((eigenvalues < 0).mean(), 0.5)  # rank C / 2
    gains = np.linalg.svd(matrix_of(*made("bro", "1×1", ridge=1e-7)), compute_uv=False)
    np.testing.assert_allclose(gains, 1, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_gain_exceeds_the_bound_and_one_comes_close(kind, case):
    layer, own, shape = made(kind, case)
    norm, proof = np.linalg.norm(matrix_of(layer, own, shape), 2), layer.proof(own, shape)
    assert norm <= proof.lipschitz * (1 + 1e-14)
    assert proof.lipschitz <= min(1.01 * norm, 1)
    with jax.enable_x64(True):
        at_zero = np.linalg.norm(layer.evaluate(in_float64(own), np.zeros((1, *shape))))
    assert at_zero <= proof.offset <= at_zero * (1 + 1e-9)


@pytest.mark.parametrize("spread", [1.0, 1e-4])
@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_off_by_no_more_than_its_rounding(kind, case, spread):
    """Also where V is nearly of rank 1: then float32 has none, or it holds."""
    layer, own, shape = made(kind, case)
    kernel = own["params"]["kernel"]
    own["params"]["kernel"] = np.float32(spread * kernel + (1 - spread) * kernel.mean(axis=3, keepdims=True))
    x = images(shape, 20).astype(np.float32)
    found = np.asarray(layer.evaluate(own, x), np.float64)
    with jax.enable_x64(True):
        exact = np.asarray(layer.evaluate(in_float64(own), np.float64(x)))
    of_float64 = layer.proof(in_float64(own), shape).rounding
    assert of_float64 is not None
    rounding = layer.proof(own, shape).rounding
    if spread == 1.0 or kind == "cayley":
        assert rounding == of_float64
    if rounding is not None:
        error, size = (np.linalg.norm(z.reshape(20, -1).astype(float), axis=1) for z in (found - exact, x))
        allowed = COARSEST * (rounding.relative * size + rounding.absolute)
        assert (error <= allowed).all()
    assert of_float64.relative < 1e-11 / spread**2


def test_two_ways_of_making_q_in_float64_differ_by_less_than_both_may_be_off():
    for kind in KINDS:
        layer, own, shape = made(kind, "same")
        x, own = images(shape), in_float64(own)
        with jax.enable_x64(True):
            found = np.asarray(layer.evaluate(own, x))
        relative, absolute = layer.proof(own, shape).rounding
        error = np.linalg.norm((found - reference(kind, layer, own, x)).reshape(len(x), -1), axis=1)
        assert (error <= 2 * (relative * np.linalg.norm(x.reshape(len(x), -1), axis=1) + absolute)).all()


@pytest.mark.parametrize(("size", "grid"), [((5, 5), (7, 7)), ((4, 4), (4, 4)), ((3, 6), (5, 8)), ((1, 1), (3, 3))])
def test_transforms_are_isometries_and_those_of_the_fft(size, grid, rng):
    down, across = transforms(size, grid)
    for matrix in (down, across):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-14)
    kernel = rng.normal(size=(3, 3, 2, 2))
    with jax.enable_x64(True):
        traced = np.asarray(symbols(jnp.asarray(kernel), grid))
        x = jnp.asarray(rng.normal(size=(2, *size, 2)))
        found = np.asarray(grid_conv(x, jnp.asarray(traced), grid))
    np.testing.assert_allclose(traced, symbols(kernel, grid), atol=1e-14)
    placed = np.pad(x, ((0, 0), (0, grid[0] - size[0]), (0, grid[1] - size[1]), (0, 0)))
    dense = circulant(kernel.swapaxes(2, 3), *grid)
    expected = (placed.reshape(2, -1) @ dense.T).reshape(2, *grid, 2)[:, : size[0], : size[1]]
    np.testing.assert_allclose(found, expected, atol=1e-13)


def test_bad_attributes_are_refused_by_name():
    for kind in KINDS.values():
        with pytest.raises(ValueError, match="kernel_size must be an odd number >= 1, got 2"):
            kind(4, kernel_size=2)
    for name, value in {"ridge": 0.0, "scale": float("nan"), "rank": 0}.items():
        with pytest.raises(ValueError, match=f"BlockReflectorConv: {name} must be"):
            BlockReflectorConv(4, **{name: value})
    with pytest.raises(ValueError, match="rank must be at most the 4 channels, got 5"):
        BlockReflectorConv(4, rank=5).init(jax.random.key(0), np.zeros((1, 2, 2, 4)))


@pytest.mark.parametrize("rank", [1, 2])
def test_columns_that_depend_on_one_another_leave_float32_finite(rank, rng):
    kernel = rng.normal(size=(3, 3, 64, rank)) @ rng.normal(size=(rank, 32))
    own = {"params": {"kernel": np.float32(kernel), "bias": np.zeros(64, np.float32)}}
    layer, x = BlockReflectorConv(64), rng.normal(size=(2, 4, 4, 64)).astype(np.float32)
    gradient = jax.grad(lambda own: (layer.apply(own, x, True) ** 2).sum())(own)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    y = np.asarray(layer.evaluate(own, x))
    assert (np.linalg.norm(y.reshape(2, -1), axis=1) <= np.linalg.norm(x.reshape(2, -1), axis=1) * (1 + 1e-5)).all()


def test_a_kernel_of_zeros_is_the_identity():
    layer, own, shape = made("bro", "same")
    own = {"params": {name: 0 * leaf for name, leaf in own["params"].items()}}
    x = images(shape).astype(np.float32)
    np.testing.assert_allclose(layer.evaluate(own, x), x, atol=1e-5)
    assert layer.proof(own, shape).lipschitz == 1
    assert layer.proof(own, shape).rounding is None
