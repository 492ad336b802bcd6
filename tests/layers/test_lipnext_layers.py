"""The layers of LipNeXt: each bounded from both sides, and kept where they belong."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.layers import (
    BetaAbs,
    GlobalL2Pool,
    L2Pool,
    NActivation,
    OrthogonalMixing,
    Patches,
    Position,
    Shift,
    ShiftMixing,
    SpaceToDepth,
    ZeroPad,
)
from lipjax.layers.rounding import COARSEST

# (layer, shape of the input, whether it keeps every distance between inputs that are near)
LAYERS = {
    "mixing": (OrthogonalMixing(6), (2, 3, 6), True),
    "mixing to more": (OrthogonalMixing(9), (2, 2, 4), True),
    "mixing to fewer": (OrthogonalMixing(3), (2, 2, 8), False),
    "mixing of features": (OrthogonalMixing(5), (7,), False),
    "shift mixing": (ShiftMixing(0.5), (3, 4, 8), True),
    "shift mixing of all": (ShiftMixing(1.0), (2, 2, 4), True),
    "shift mixing of one pixel": (ShiftMixing(0.5), (1, 1, 8), True),
    "shift": (Shift(0.5), (3, 2, 8), True),
    "position": (Position(), (3, 2, 4), True),
    "position of each channel": (Position(per_channel=True), (3, 2, 4), True),
    "beta abs": (BetaAbs(0.3), (2, 2, 5), True),
    "n": (NActivation(), (2, 2, 5), True),
    "patches": (Patches(2), (4, 6, 3), True),
    "patches that do not divide": (Patches(3), (4, 5, 2), True),
    "zeros around": (ZeroPad(6, 9), (4, 6, 2), True),
    "rearrangement": (SpaceToDepth(3), (3, 6, 2), True),
    "norms": (GlobalL2Pool(), (3, 2, 4), False),
    "norms of windows": (L2Pool(2), (4, 2, 4), False),
}


@pytest.fixture(params=LAYERS)
def case(request, rng, float64):
    """(layer, its variables in float64 with every parameter moved, then brought back, shape, whether isometric)."""
    layer, shape, isometric = LAYERS[request.param]
    own = layer.init(jax.random.key(0), jnp.zeros((1, *shape), jnp.float32))
    moved = jax.tree.map(lambda p: np.asarray(p, float) + 0.3 * rng.normal(size=p.shape), own)
    return layer, layer.tightened(moved, shape) if moved else {}, shape, isometric


def jacobian(layer, own, x):
    matrix = jax.jacobian(lambda x: layer.evaluate(own, x[None]).ravel())(x)
    return np.asarray(matrix).reshape(-1, x.size)


def test_bounds_are_attained_and_never_exceeded(case, rng):
    layer, own, shape, isometric = case
    proof = layer.proof(own, shape)
    values = np.linalg.svd(jacobian(layer, own, rng.normal(size=shape)), compute_uv=False)
    np.testing.assert_allclose(values.max(), 1, rtol=1e-12)
    assert values.max() <= proof.lipschitz * (1 + 1e-14) <= 1 + 1e-10
    if isometric:
        assert abs(values - 1).max() < 1e-12
    x, y = (rng.normal(size=(300, *shape)) for _ in range(2))
    y = x + 10.0 ** rng.uniform(-6, 1, (300, *[1] * len(shape))) * y
    a, b = (np.asarray(layer.evaluate(own, z)).reshape(300, -1) for z in (x, y))
    apart = np.linalg.norm((x - y).reshape(300, -1), axis=1)
    assert (np.linalg.norm(a - b, axis=1) <= apart * proof.lipschitz + 1e-13).all()


def test_offsets_bound_what_becomes_of_0(case):
    layer, own, shape, _ = case
    at_zero = np.linalg.norm(layer.evaluate(own, np.zeros((1, *shape))))
    assert at_zero <= layer.proof(own, shape).offset <= at_zero * (1 + 1e-12)


def test_training_and_evaluation_are_one_map(case, rng):
    layer, own, shape, _ = case
    x = rng.normal(size=(3, *shape))
    np.testing.assert_allclose(layer.apply(own, x, True), layer.evaluate(own, x), rtol=1e-12, atol=1e-13)
    assert layer.output_shape(own, shape) == layer.evaluate(own, x).shape[1:]


def test_bounds_hold_for_matrices_that_are_not_orthonormal(rng, float64):
    """Nothing is believed of the parameters: the proof is of what they are."""
    for layer, shape in ((ShiftMixing(0.5), (3, 3, 8)), (OrthogonalMixing(5), (1, 1, 8))):
        for size in (1e-6, 1e-3, 0.1):
            own = layer.init(jax.random.key(1), jnp.zeros((1, *shape)))
            own = jax.tree.map(lambda p, s=size: np.asarray(p, float) + s * rng.normal(size=p.shape), own)
            norm = np.linalg.norm(jacobian(layer, own, np.zeros(shape)), 2)
            bound = layer.proof(own, shape).lipschitz
            assert norm <= bound <= norm + 12 * size
            assert norm > 1 + size / 10


@pytest.mark.parametrize("size", [1e-4, 1e-2, 0.3])
def test_the_bound_of_a_shift_is_attained_where_rotations_are_too_long(size, float64):
    """RᵀR = 1 + e: what alternates from row to row is turned round and lengthened by 1 + 2e = (1 + 4e (1 + e))^½."""
    layer, shape = ShiftMixing(0.5), (2, 2, 8)
    params = {"rotation": (1 + size) ** 0.5 * np.eye(8, 4), "mixing": np.eye(8), "bias": np.zeros(8)}
    norm = np.linalg.norm(jacobian(layer, {"params": params}, np.zeros(shape)), 2)
    np.testing.assert_allclose(norm, 1 + 2 * size, rtol=1e-12)
    assert norm <= layer.proof({"params": params}, shape).lipschitz <= norm + 1e-3 * size


def test_zeros_are_around_and_the_image_in_the_middle(rng):
    """One line more below and on the right."""
    x = rng.normal(size=(2, 2, 5, 3))
    expected = np.zeros((2, 5, 8, 3))
    expected[:, 1:3, 1:6] = x
    np.testing.assert_array_equal(ZeroPad(5, 8).evaluate({}, x), np.float32(expected))
    np.testing.assert_array_equal(ZeroPad(2, 5).evaluate({}, x), np.float32(x))


def test_a_shift_mixing_is_the_block_of_the_paper(rng, float64):
    """M Rᵀ S R by whole matrices, R completed by columns that are not shifted, in numpy."""
    layer, shape = ShiftMixing(0.5), (3, 4, 8)
    own = layer.init(jax.random.key(1), jnp.zeros((1, *shape)))
    own = layer.tightened(jax.tree.map(lambda p: np.asarray(p, float) + rng.normal(size=p.shape), own), shape)
    params = own["params"]
    rotation = np.asarray(params["rotation"])
    whole = np.c_[rotation, np.linalg.svd(rotation)[0][:, 4:]]
    np.testing.assert_allclose(whole.T @ whole, np.eye(8), atol=1e-14)
    x = rng.normal(size=(2, *shape))
    rotated = x @ whole
    for channel, (step, axis) in enumerate(((-1, 1), (1, 1), (-1, 2), (1, 2))):
        rotated[..., channel] = np.roll(rotated[..., channel], step, axis)
    expected = rotated @ whole.T @ np.asarray(params["mixing"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(layer.evaluate(own, x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", [OrthogonalMixing(9), ShiftMixing(0.5)])
def test_parameters_in_float32_are_brought_back_to_their_rounding(layer, rng):
    shape = (2, 2, 8)
    own = layer.init(jax.random.key(0), jnp.zeros((1, *shape)))
    moved = jax.tree.map(lambda p: p + 1e-2 * jax.random.normal(jax.random.key(1), p.shape), own)
    assert layer.proof(moved, shape).lipschitz > 1.001
    projected, tight = jax.jit(layer.projected)(moved), layer.tightened(moved, shape)
    assert layer.proof(projected, shape).lipschitz <= 1 + 4e-6
    assert layer.proof(tight, shape).lipschitz <= 1 + 1e-6
    assert {leaf.dtype for leaf in jax.tree.leaves(tight)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(projected["params"]["bias"], moved["params"]["bias"])
    again = jax.jit(layer.projected)(projected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), projected, again)


def test_the_rounding_of_a_shift_mixing_is_not_absurdly_large(rng):
    layer, shape = ShiftMixing(0.125), (4, 4, 32)
    own = layer.init(jax.random.key(0), jnp.zeros((1, *shape)))
    x = rng.normal(size=(20, *shape)).astype(np.float32)
    found = np.asarray(layer.evaluate(own, x), np.float64)
    with jax.enable_x64(True):
        exact = np.asarray(layer.evaluate(jax.tree.map(np.float64, own), np.float64(x)))
    size, error = (np.linalg.norm(z.reshape(20, -1), axis=1) for z in (x, found - exact))
    relative, absolute = layer.proof(own, shape).rounding
    bound = COARSEST * (relative * size + absolute)
    assert (error <= bound).all()
    assert (bound < 4000 * error).all()  # sums of 32 products, of whose signs nothing is used


def test_weights_do_not_decay():
    own = ShiftMixing(0.5).init(jax.random.key(0), jnp.zeros((1, 2, 2, 8)))
    assert ShiftMixing(0.5).decay_mask(own["params"]) == {"rotation": False, "mixing": False, "bias": False}


def test_n_activation_starts_as_the_absolute_value(rng):
    x = rng.normal(size=(5, 4))
    layer = NActivation()
    np.testing.assert_allclose(layer.apply(layer.init(jax.random.key(0), x), x), np.abs(x), rtol=1e-6)


def test_bfloat16_is_of_training_alone(rng):
    x = jnp.asarray(rng.normal(size=(2, 2, 2, 8)), jnp.float32)
    for layer, half in (
        (ShiftMixing(0.5), ShiftMixing(0.5, "bfloat16")),
        (OrthogonalMixing(8), OrthogonalMixing(8, "bfloat16")),
    ):
        own = layer.init(jax.random.key(0), x)
        np.testing.assert_array_equal(layer.evaluate(own, x), half.evaluate(own, x))
        plain, rounded = (one.apply(own, x, True) for one in (layer, half))
        assert rounded.dtype == jnp.float32
        assert 1e-4 < np.abs(plain - rounded).max() < 0.1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: OrthogonalMixing(0), "OrthogonalMixing: features=0: must be an integer >= 1"),
        (lambda: OrthogonalMixing(4, "float16"), "OrthogonalMixing: compute_dtype='float16': must be one of"),
        (lambda: ShiftMixing(0.5, "float16"), "ShiftMixing: compute_dtype='float16': must be one of"),
        (lambda: Patches(0), "Patches: size must be an integer >= 1, got 0"),
        (lambda: ZeroPad(4, 0), "ZeroPad: width=0: must be an integer >= 1"),
        (lambda: ZeroPad(4.0, 4), "ZeroPad: height=4.0: must be an integer >= 1"),
        (lambda: BetaAbs(1.5), r"BetaAbs: beta must be a number in \[0, 1\], got 1.5"),
        (lambda: BetaAbs(math.nan), "BetaAbs: beta"),
    ],
)
def test_bad_attributes_are_named_where_a_layer_is_made(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "text"),
    [
        (ShiftMixing(0.3), (2, 2, 8), "ShiftMixing: fraction=0.3: times the 8 channels it must be a multiple of 4"),
        (Shift(0.25), (2, 2, 8), "Shift: fraction=0.25: times the 8 channels .* from 4 to 8"),
        (Shift(2.0), (2, 2, 8), "Shift: fraction=2.0"),
        (Shift("all"), (2, 2, 8), "Shift: fraction='all'"),
        (L2Pool(3), (4, 4, 2), "multiples of 3"),
        (ZeroPad(8, 3), (4, 4, 2), "ZeroPad: height=8, width=3 must be at least the 4×4 pixels of the input"),
        (SpaceToDepth(3), (4, 4, 2), "multiples of 3"),
    ],
)
def test_inputs_that_do_not_fit_are_named(layer, shape, text):
    with pytest.raises(ValueError, match=text):
        layer.init(jax.random.key(0), jnp.zeros((1, *shape)))


def test_matrices_of_another_width_have_no_proof():
    layer = ShiftMixing(0.5)
    own = layer.init(jax.random.key(0), jnp.zeros((1, 2, 2, 8)))
    with pytest.raises(ValueError, match=r"ShiftMixing: \(8, 4\) and \(8, 8\) are no matrices for"):
        layer.proof(own, (2, 2, 16))


def test_a_bias_that_would_be_broadcast_has_no_proof():
    for layer in (OrthogonalMixing(8), ShiftMixing(0.5)):
        own = layer.init(jax.random.key(0), jnp.zeros((1, 2, 2, 8)))
        short = {"params": {**own["params"], "bias": np.ones(1)}}
        with pytest.raises(ValueError, match=r"matrix \(8, 8\) and bias \(1,\) are not of inputs \(2, 2, 8\)"):
            layer.proof(short, (2, 2, 8))
