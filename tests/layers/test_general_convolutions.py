"""Residual, strided and patch convolutions, centring, orthogonal dense layers: their proofs, from both sides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.layers import Centring, OrthogonalDense, PatchConv, Recomputed, ResidualConv, Sequential, StridedConv
from lipjax.ops.convolution import dense_operator

LAYERS = {
    "residual": (ResidualConv(4), (6, 6, 3), 1.01),
    "residual on a rectangle": (ResidualConv(4), (3, 7, 2), 1.01),
    "residual without bias": (ResidualConv(2, 5, use_bias=False), (4, 5, 3), 1.01),
    "residual 1×1": (ResidualConv(2, 1), (4, 5, 3), 1.01),
    "stem": (StridedConv(5), (8, 6, 3), 1.01),
    "stem of odd sides": (StridedConv(4, 3, 2), (5, 7, 2), 1.1),  # the zeros that fill it up count as pixels
    "stem of patches": (StridedConv(4, 2, 2), (4, 5, 2), 1.01),
    "neck": (PatchConv(5, 4), (8, 8, 2), 1.0001),
    "neck of odd sides": (PatchConv(7, 2, "cayley"), (5, 3, 2), 1.0001),
    "wide neck": (PatchConv(20, 2, "exponential"), (4, 4, 2), 1.0001),
    "dense": (OrthogonalDense(6), (9,), 1.0001),
    "wide dense": (OrthogonalDense(9, "cayley"), (6,), 1.0001),
    "exponential dense": (OrthogonalDense(6, "exponential"), (6,), 1.0001),
    "residual dense": (OrthogonalDense(6, residual=4), (6,), 1.0001),
    "pixelwise dense": (OrthogonalDense(6), (2, 3, 4), 1.0001),
    "centring": (Centring(), (3, 4, 2), 1.0001),
}


def moved(layer, shape, seed=0):
    """Variables away from where they start, in float64; what is tracked has caught up."""
    own = layer.init(jax.random.key(seed), jnp.zeros((1, *shape)))
    leaves, tree = jax.tree.flatten(own)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    own = jax.tree.unflatten(
        tree,
        [leaf + 0.3 * jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)],
    )
    return layer.tightened(own, shape)


def jacobian(layer, own, shape):
    found = jax.jacobian(lambda x: layer.evaluate(own, x[None]).ravel())(jnp.zeros(shape))
    return np.asarray(found).reshape(len(found), -1)


@pytest.mark.parametrize("name", LAYERS)
def test_the_bound_is_never_exceeded_and_nearly_attained(name, float64):
    layer, shape, slack = LAYERS[name]
    own = moved(layer, shape)
    proof, norm = layer.proof(own, shape), np.linalg.norm(jacobian(layer, own, shape), 2)
    assert norm <= proof.lipschitz * (1 + 1e-12)
    assert proof.lipschitz <= slack * norm
    at_zero = np.linalg.norm(layer.evaluate(own, jnp.zeros((1, *shape))))
    assert at_zero * (1 - 1e-12) <= proof.offset <= at_zero * (1 + 1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_evaluation_training_and_folding_are_one_map(name, float64):
    """But for centring, which training does by the batch."""
    layer, shape, _ = LAYERS[name]
    own, x = moved(layer, shape), jax.random.normal(jax.random.key(5), (4, *shape))
    y = layer.evaluate(own, x)
    np.testing.assert_allclose(layer.apply(own, x), y, atol=1e-12)
    folded, folded_own = layer.folded(own, shape)
    np.testing.assert_array_equal(folded.evaluate(folded_own, x), y)
    assert folded.proof(folded_own, shape) == layer.proof(own, shape)
    assert folded.proof(folded.tightened(folded_own, shape), shape) == layer.proof(own, shape)  # nothing to tighten
    if name != "centring":
        np.testing.assert_allclose(layer.apply(own, x, True), y, atol=1e-12)


@pytest.mark.parametrize("name", ["neck of odd sides", "wide neck", "wide dense", "exponential dense"])
def test_orthogonal_layers_have_the_gain_one_both_ways(name, float64):
    layer, shape, _ = LAYERS[name]
    gains = np.linalg.svd(moved(layer, shape)["spectral"]["matrix"], compute_uv=False)
    np.testing.assert_allclose(gains, 1, rtol=0, atol=1e-12)


def test_a_residual_convolution_is_the_identity_and_a_scaled_convolution(rng, float64):
    """x + (W conv x) · gain / √depth + b, by the matrix of the convolution."""
    layer, shape = ResidualConv(3), (4, 5, 2)
    own, x = moved(layer, shape), rng.normal(size=(3, *shape))
    params = jax.tree.map(np.asarray, own["params"])
    inner = (x.reshape(3, -1) @ dense_operator(params["kernel"], 4, 5)).reshape(x.shape)
    expected = x + inner * params["gain"] / np.sqrt(3) + params["bias"]
    np.testing.assert_allclose(layer.evaluate(own, jnp.asarray(x)), expected, atol=1e-12)


def test_where_a_residual_convolution_starts():
    own = ResidualConv(4).init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))
    assert np.std(own["params"]["kernel"]) == pytest.approx(1 / (9 * 32), rel=0.05)
    assert (own["params"]["gain"] == 1).all()
    assert not own["params"]["bias"].any()


@pytest.mark.parametrize("name", ["residual", "residual without bias", "stem", "stem of patches"])
def test_the_estimate_follows_the_norm_and_its_gradient(name, float64):
    """Settled it is the norm; a training step brings it nearer; its gradient is that of the largest singular value."""
    layer, shape, _ = LAYERS[name]
    own = moved(layer, shape)
    for _ in range(40):
        own = layer.settled(own)
    norm = np.linalg.norm(jacobian(layer, own, shape), 2)
    np.testing.assert_allclose(layer.estimate(own, shape), norm, rtol=1e-8)

    def estimated(params):
        return layer.estimate({**own, "params": params}, shape)

    gradient, step = jax.grad(estimated)(own["params"]), 1e-6
    direction = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=float)).reshape(leaf.shape), own["params"]
    )
    beside = jax.tree.map(lambda a, b: a + step * b, own["params"], direction)
    slope = (np.linalg.norm(jacobian(layer, {**own, "params": beside}, shape), 2) - norm) / step
    expected = sum(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.vdot(a, b)), gradient, direction)))
    np.testing.assert_allclose(expected, slope, rtol=1e-3)


@pytest.mark.parametrize("wrapped", [False, True])
def test_power_steps_advance_in_training_alone(wrapped):
    shape = (6, 6, 3)
    row = Sequential((("c", ResidualConv(4)),))
    layer, own = Recomputed(row) if wrapped else row, moved(row, shape)
    own, x = {**own, "spectral": {"c": {"image": jax.random.normal(jax.random.key(9), shape)}}}, jnp.ones((2, *shape))
    before = own["spectral"]["c"]["image"]
    after = [layer.apply(own, x, train, mutable=["spectral"])[1]["spectral"]["c"]["image"] for train in (True, False)]
    assert not np.allclose(after[0], before)
    np.testing.assert_array_equal(after[1], before)


def test_centring_subtracts_the_batch_mean_in_training_and_the_stored_one_after(rng):
    layer, x = Centring(), jnp.asarray(rng.normal(size=(5, 3, 2, 4)) + 2, jnp.float32)
    own = layer.init(jax.random.key(0), x)
    own = {**own, "params": {"bias": jnp.arange(4.0)}}
    mean = np.mean(np.asarray(x, np.float64), (0, 1, 2))
    y, updated = layer.apply(own, x, True, mutable=["spectral"])
    np.testing.assert_allclose(y, x - mean + np.arange(4), atol=1e-5)
    np.testing.assert_allclose(updated["spectral"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.evaluate({**own, **updated}, x), x - 0.1 * mean + np.arange(4), atol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(layer.apply(own, x, True) * x))(x)  # through the mean: 2 (x − mean) + b
    np.testing.assert_allclose(gradient, 2 * (x - mean) + np.arange(4) * 1.0, atol=1e-4)


def test_centring_of_bfloat16_sums_in_float32(rng):
    """4096 numbers near 100: a sum in bfloat16 would stop growing at 256 times one of them."""
    x = jnp.asarray(100 + rng.normal(size=(64, 8, 8, 2)), jnp.bfloat16)
    layer = Centring()
    y, updated = layer.apply(layer.init(jax.random.key(0), x), x, True, mutable=["spectral"])
    mean = np.mean(np.asarray(x, np.float64), (0, 1, 2))
    assert y.dtype == jnp.bfloat16
    assert updated["spectral"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(updated["spectral"]["mean"], 0.1 * mean, rtol=1e-3)


def test_evaluation_multiplies_by_the_stored_matrix():
    """It is proven as it is, whatever the parameters say; `settled` makes it anew."""
    layer, shape = OrthogonalDense(4, "cayley"), (4,)
    own = layer.init(jax.random.key(0), jnp.zeros((1, 4)))
    stale = {**own, "spectral": {"matrix": 3 * jnp.eye(4)}}
    assert 3 <= layer.proof(stale, shape).lipschitz <= 3.001
    np.testing.assert_allclose(layer.evaluate(stale, jnp.ones((1, 4))), 3)
    np.testing.assert_allclose(layer.settled(stale)["spectral"]["matrix"], own["spectral"]["matrix"], atol=1e-6)
    _, trained = layer.apply(stale, jnp.ones((1, 4)), True, mutable=["spectral"])
    np.testing.assert_allclose(trained["spectral"]["matrix"], own["spectral"]["matrix"], atol=1e-6)


@pytest.mark.parametrize("name", ["residual", "stem", "neck", "dense"])
def test_bfloat16_is_of_training_alone(name):
    layer, shape, _ = LAYERS[name]
    own, x = moved(layer, shape), jax.random.normal(jax.random.key(5), (4, *shape))
    half = layer.clone(compute_dtype="bfloat16")
    np.testing.assert_array_equal(half.apply(own, x), layer.apply(own, x))
    y, rounded = layer.apply(own, x, True), half.apply(own, x, True)
    assert rounded.dtype == jnp.float32
    assert 1e-4 < np.linalg.norm(rounded - y) / np.linalg.norm(y) < 2e-2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResidualConv(0), "depth=0: must be an integer from 1 to 1000000000"),
        (lambda: ResidualConv(1, 4), "kernel_size=4: must be an odd number"),
        (lambda: StridedConv(4, 2, 3), "kernel_size=2: must be at least stride=3"),
        (lambda: PatchConv(0), "features=0: must be"),
        (lambda: PatchConv(4, kind="qr"), "kind='qr': must be one of"),
        (lambda: OrthogonalDense(4, "cayley", residual=3), "residual=3: must be None with kind='cayley'"),
        (lambda: OrthogonalDense(4, compute_dtype="float16"), "compute_dtype='float16'"),
        (lambda: Centring(0), "momentum=0: must be"),
        (lambda: ResidualConv(1).proof(moved(ResidualConv(1), (2, 2, 2)), (8,)), r"images \(H, W, C\), got \(8,\)"),
        (lambda: OrthogonalDense(4).evaluate({"params": {}}, jnp.ones((1, 4))), "'spectral' collection"),
    ],
)
def test_errors_name_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
