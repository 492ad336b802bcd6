"""Proven roundings: never below what an arithmetic does, and attained within a factor of two where they can be."""

import jax
import mpmath
import numpy as np
import pytest
from arithmetic import DIRECTIONS, Adversary, Digits50, distances, execute

from lipjax.layers import (
    Activation,
    Affine,
    AlmostOrthogonalConv,
    AveragePool,
    BetaAbs,
    Centring,
    Concatenate,
    ConvexPotential,
    CurvatureHead,
    Flatten,
    FoldedConv,
    GlobalAveragePool,
    GlobalL2Pool,
    Householder,
    Householder2,
    InputScale,
    L2Pool,
    LastLayerNormalization,
    LinearHead,
    MaxMin,
    MaxPool,
    NActivation,
    OrthogonalDense,
    OrthogonalMixing,
    PatchConv,
    Patches,
    PlainConv,
    PlainDense,
    PointPool,
    PolylinePool,
    Position,
    ProjectionPool,
    Residual,
    ResidualConv,
    SdpResidual,
    Sequential,
    Shift,
    ShiftMixing,
    SkewOrthogonalConv,
    SpaceToDepth,
    Split,
    StridedConv,
    Sum,
    TakeChannels,
    Unflatten,
    WindowMax,
    ZeroPad,
    ZerosAround,
)
from lipjax.layers.folded import apply_kernel, polynomial_rounding
from lipjax.layers.plain_activations import SCALARS
from lipjax.layers.rounding import COARSEST
from lipjax.ops import skew, taylor
from lipjax.ops.nonnegative import nonnegative_conv_norm_bound
from lipjax.ops.polynomials import Polynomial

LAYERS = {
    "convolution": (SkewOrthogonalConv(4), (3, 3, 4)),
    "convolution with padded channels": (SkewOrthogonalConv(4), (3, 3, 3)),
    "convolution of many channels": (SkewOrthogonalConv(36), (1, 1, 36)),
    "dense convolution": (SkewOrthogonalConv(4), (2, 2, 3)),
    "1×1 convolution": (SkewOrthogonalConv(6, kernel_size=1), (1, 1, 6)),
    "Taylor": (SkewOrthogonalConv(3, polynomial=taylor(6)), (3, 3, 3)),
    "almost orthogonal": (AlmostOrthogonalConv(4), (3, 3, 3)),
    "convex potential": (ConvexPotential(4), (3, 3, 3)),
    "SDP residual": (SdpResidual(3), (3, 3, 4)),
    "residual convolution": (ResidualConv(3), (3, 4, 4)),
    "residual convolution of many channels": (ResidualConv(3), (2, 3, 36)),
    "residual dense convolution": (ResidualConv(2, use_bias=False), (2, 2, 3)),
    "strided convolution": (StridedConv(5), (5, 4, 2)),
    "strided convolution of few pixels": (StridedConv(4, 3, 2), (3, 4, 3)),
    "patches as a convolution": (StridedConv(4, 2, 2), (4, 4, 3)),
    "orthogonal patches": (PatchConv(6, 2), (4, 3, 3)),
    "orthogonal dense": (OrthogonalDense(6, "cayley"), (40,)),
    "residual dense": (OrthogonalDense(8, residual=3), (8,)),
    "centring": (Centring(), (3, 3, 4)),
    "input scale": (InputScale((0.1, 0.2), (0.3, 0.4)), (3, 3, 2)),
    "Householder": (Householder(), (3, 3, 8)),
    "Householder of order 2": (Householder2(), (3, 3, 8)),
    "max": (MaxPool(), (3, 3, 8)),
    "projection": (ProjectionPool(), (3, 3, 8)),
    "polyline": (PolylinePool(), (3, 3, 8)),
    "polyline from max": (PolylinePool(start="max"), (3, 3, 8)),
    "point": (PointPool(4), (3, 3, 8)),
    "rearrangement": (SpaceToDepth(), (2, 2, 2)),
    "patches": (Patches(3), (4, 5, 2)),
    "zeros around": (ZeroPad(5, 8), (4, 5, 2)),
    "orthogonal mixing": (OrthogonalMixing(6), (2, 2, 3)),
    "orthogonal mixing of many channels": (OrthogonalMixing(4), (1, 2, 70)),
    "orthogonal mixing of features": (OrthogonalMixing(3), (9,)),
    "shift mixing": (ShiftMixing(0.5), (3, 3, 8)),
    "shift": (Shift(0.5), (3, 3, 8)),
    "position": (Position(), (3, 3, 2)),
    "beta abs": (BetaAbs(), (2, 2, 5)),
    "N-activation": (NActivation(), (2, 2, 5)),
    "norms": (GlobalL2Pool(), (3, 3, 2)),
    "norms of windows": (L2Pool(2), (4, 4, 2)),
    "plain convolution": (PlainConv(4, (3, 2), 2, ((1, 0), (2, 1)), "reflect", (1, 2), 2, scaled=True), (5, 5, 4)),
    "plain convolution of many channels": (PlainConv(2, 2, scaled=True, use_bias=False), (2, 3, 36)),
    "plain convolution by taps": (PlainConv(2, 2, padding=1), (1, 2, 130)),
    "depthwise convolution": (PlainConv(6, 3, 1, 1, "circular", groups=3), (3, 3, 3)),
    "plain dense": (PlainDense(3, scaled=True), (70,)),
    "affine": (Affine(), (2, 2, 3)),
    "maxima of windows": (WindowMax(3, 2, 1), (4, 5, 2)),
    "means of windows": (AveragePool(3, 2, 1, count_padding=False), (4, 5, 2)),
    "means of pixels": (GlobalAveragePool(), (3, 3, 2)),
    "sum of branches": (Sum((("a", Affine()), ("b", Sequential(())), ("c", PlainConv(3, 1)))), (2, 2, 3)),
    "channels taken": (TakeChannels((2, 0)), (2, 2, 3)),
    "zeros beside": (ZerosAround(((1, 0), (0, 1)), (1, 0)), (2, 2, 2)),
    "unflattening": (Unflatten((2, 1, 3)), (6,)),
    "flattening, channels first": (Flatten("chw"), (2, 2, 3)),
    **{f"activation {name}": (Activation(name), (2, 2, 5)) for name in SCALARS},
    "residual": (Residual(Sequential((("c", SkewOrthogonalConv(4)), ("m", MaxMin()))), 0.3), (2, 2, 4)),
    "concatenation": (Concatenate((("a", InputScale(0.1, 0.3)), ("b", MaxMin()))), (2, 2, 4)),
    "split": (Split((("a", InputScale(0.1, 0.3)), ("b", MaxMin())), (2, 2)), (2, 2, 4)),
    "a row": (Sequential((("a", InputScale(0.5, 0.25)), ("c", SkewOrthogonalConv(4)), ("p", PointPool()))), (2, 2, 3)),
}


def in_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.device_get(tree))


def initialised(layer, shape, seed=1):
    return in_float64(layer.init(jax.random.key(seed), np.zeros((1, *shape), np.float32)))


def evaluated(layer, own, x):
    with jax.enable_x64(True):
        return np.asarray(layer.evaluate(own, x))


def allowed(layer, own, x) -> np.ndarray:
    rounding = layer.proof(own, x.shape[1:]).rounding
    return rounding.relative * np.sqrt((x**2).sum(axis=tuple(range(1, x.ndim)))) + rounding.absolute


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [1.0, 1e6])
def test_no_arithmetic_is_off_by_more(name, size, rng):
    layer, shape = LAYERS[name]
    own = initialised(layer, shape)
    if size > 1 and "bias" in own.get("params", {}):
        own["params"]["bias"] = size * rng.normal(size=own["params"]["bias"].shape)
    x = size * rng.normal(size=(2, *shape))
    bound, exact = allowed(layer, own, x), execute(Digits50(), layer.evaluate, own, x)
    assert (distances(evaluated(layer, own, x), exact) <= bound).all()
    in_double = np.asarray(exact, float)
    for direction in DIRECTIONS:
        found = execute(Adversary(direction), layer.evaluate, own, x)
        assert (distances(found, in_double) <= bound * COARSEST).all(), direction


def attained(run, arguments, bound, attempts=40) -> float:
    """The largest part of a bound (N,), for float64, that an adversary reaches; no more than 1."""
    with jax.enable_x64(True):
        exact = np.asarray(run(*arguments))
    adversaries = [*map(Adversary, DIRECTIONS), *(Adversary("random", seed) for seed in range(attempts))]
    adversaries += [Adversary("up", against=("reduce_sum", "square"))]
    found = [execute(adversary, run, *arguments) for adversary in adversaries]
    part = max(float((distances(one, exact) / (bound * COARSEST)).max()) for one in found)
    assert part <= 1
    return part


def worst(layer, own, x, attempts=40) -> float:
    return attained(layer.evaluate, (own, x), allowed(layer, own, x), attempts)


def arrow(channels, norm=1.9) -> np.ndarray:
    """The kernel of A = e wᵀ − w eᵀ, ‖w‖ = norm, nearly all of it in the first entry, whose product is added first."""
    w = np.r_[0.0, 1.0, np.full(channels - 2, 1e-6)]
    kernel = np.zeros((1, 1, channels, channels))
    kernel[0, 0, :, 0], kernel[0, 0, 0, :] = w, -w
    return norm * kernel / np.linalg.norm(w)


@pytest.mark.parametrize(("channels", "part"), [(32, 0.8), (2048, 0.8)])
def test_sums_are_attained_in_a_block_and_over_blocks(channels, part):
    """32 products a block are all that counts in the one, those and 64 blocks in the other: neither may be less."""
    kernel, x, polynomial = arrow(channels), np.zeros((1, 1, 1, channels)), Polynomial((1.0,))
    x[..., 1] = 1.0
    absolute = nonnegative_conv_norm_bound(kernel, 1)
    rounding = polynomial_rounding(polynomial, 1.9, absolute, kernel.shape, 0.0, x.shape[1:], 0.0)

    def run(kernel, x):
        return apply_kernel(x, kernel, polynomial, "blocked")

    assert attained(run, (kernel, x), np.array([rounding.relative]), attempts=0) > part


def test_of_general_layers_it_is_attained():
    """Sums of one block, nearly all of them in the product that is added first, and a shift."""
    x = np.zeros((1, 1, 1, 32))
    x[..., 1] = 1.0
    params = {"kernel": arrow(32), "gain": np.ones(32)}
    assert worst(ResidualConv(1, 1, use_bias=False), {"params": params}, x) > 0.4
    own = {"params": {"kernel": arrow(32), "bias": np.zeros(32)}}
    assert worst(StridedConv(32, 1, 1), own, x) > 0.7
    dense = {"params": {"bias": np.zeros(32)}, "spectral": {"matrix": arrow(32)[0, 0]}}
    assert worst(OrthogonalDense(32), dense, x[0, 0]) > 0.7
    own = {"params": {"kernel": arrow(32), "bias": np.zeros(32)}}
    assert worst(PlainConv(32, 1), own, x) > 0.7
    assert worst(PlainDense(32), {"params": {"kernel": arrow(32)[0, 0], "bias": np.zeros(32)}}, x[0, 0]) > 0.7
    scaled = {"kernel": np.eye(4), "bias": np.full(4, 0.7), "scale": np.ones(4), "shift": np.full(4, 0.7)}
    assert worst(PlainDense(4, scaled=True), {"params": scaled}, np.zeros((1, 4))) > 0.4
    assert worst(Affine(), {"params": {"scale": np.full(4, 0.7), "shift": np.zeros(4)}}, np.ones((1, 4))) > 0.4
    shift = {"params": {"bias": np.full(4, 0.3)}, "spectral": {"mean": np.full(4, -0.4)}}
    assert worst(Centring(), shift, np.zeros((1, 2, 2, 4))) > 0.3


def test_a_nest_carries_every_error():
    """Ten applications, each off by as much in the same direction: p((1 + δ) A) differs by δ A p'(A)."""
    kernel, x, polynomial = arrow(32), np.zeros((1, 1, 1, 32)), Polynomial((1.0,) * 10)
    x[..., 1] = 1.0
    absolute = nonnegative_conv_norm_bound(kernel, 1)
    rounding = polynomial_rounding(polynomial, 1.9, absolute, kernel.shape, 0.0, x.shape[1:], 0.0)

    def run(kernel, x):
        return apply_kernel(x, kernel, polynomial, "blocked")

    assert attained(run, (kernel, x), np.array([rounding.relative]), attempts=0) > 0.4


def test_what_a_four_norm_loses_is_attained():
    """Power vectors for which every vᵀMu nearly cancels: the norm, and so the whole kernel, is off by many units."""
    layer = SkewOrthogonalConv(4, kernel_size=1, polynomial=Polynomial((1.0,)))
    kernel = np.zeros((4, 4))
    kernel[0, 1], kernel[2, 3] = 1.0, -0.99
    vectors = {f"u{j}": np.array([0.0, 1.0, 0.0, 1.0]) for j in range(1, 5)}
    vectors |= {f"v{j}": np.array([1.0, 0.0, 1.0, 0.0]) for j in range(1, 5)}
    raw = (kernel - kernel.T)[None, None]
    with jax.enable_x64(True):
        for j, matrix in enumerate(skew.reshaped_kernels(raw), 1):  # of one sign, whichever way the matrix is turned
            sign = np.sign(float(vectors[f"v{j}"] @ np.asarray(matrix) @ vectors[f"u{j}"]))
            vectors[f"v{j}"] = sign * vectors[f"v{j}"]
    own = {"params": {"kernel": raw, "bias": np.zeros(4)}, "spectral": {"vectors": vectors}}
    x = np.zeros((1, 1, 1, 4))
    x[..., 1] = 1.0
    assert worst(layer, own, x) > 0.5


def dominated(k_in, k_out, small) -> np.ndarray:
    """A 1×1 kernel that is nearly all in one entry, the first: what is added first goes through every rounding."""
    kernel = np.full((1, 1, k_in, k_out), small)
    kernel[..., 0, 0] = 1.0
    return kernel


def first(channels) -> np.ndarray:
    return np.eye(1, channels).reshape(1, 1, 1, channels)


def test_scales_and_sums_of_an_almost_orthogonal_convolution_are_attained():
    """Many outputs: the scale, known from their sums of squares; many inputs: the sums of the convolution."""
    own = {"params": {"kernel": dominated(1, 64, 1e-4), "bias": np.zeros(64)}}
    assert worst(AlmostOrthogonalConv(64, 1), own, first(1), attempts=0) > 0.6
    own = {"params": {"kernel": dominated(32, 1, 1e-6), "bias": np.zeros(1)}}
    assert worst(AlmostOrthogonalConv(1, 1), own, first(32), attempts=0) > 0.7


def test_steps_down_a_potential_are_attained():
    """Both products of one block; the scale of an SDP residual, from a sum over many channels, twice."""
    params = {"kernel": dominated(32, 32, 1e-6), "bias": np.zeros(32)}
    assert worst(ConvexPotential(32, 1), {"params": params, "spectral": {"norm": np.ones(())}}, first(32), 0) > 0.8
    own = {"params": {"kernel": dominated(256, 1, 1e-5), "bias": np.zeros(1), "log_q": np.zeros(1)}}
    assert worst(SdpResidual(256, 1, 1), own, first(256), attempts=0) > 0.4


def test_offsets_of_steps_down_a_potential_are_attained():
    """What b alone becomes: where x is 0, and one inner unit is active."""
    params = {"kernel": dominated(1, 32, 1e-6).swapaxes(2, 3), "bias": np.ones(1)}
    own = {"params": params, "spectral": {"norm": np.ones(())}}
    assert worst(ConvexPotential(32, 1, 1), own, 0 * first(32), attempts=0) > 0.3


def test_a_matrix_of_patches_or_of_a_folded_convolution_is_attained():
    matrix = dominated(32, 1, 1e-6)[0, 0]
    own = {"params": {"bias": np.zeros(1)}, "spectral": {"matrix": matrix}}
    assert worst(PatchConv(1, 1), own, first(32), attempts=0) > 0.7
    folded = {"params": {"bias": np.zeros(1), "matrix": matrix}}
    assert worst(FoldedConv(1, 1, 1, Polynomial((1.0,))), folded, first(32), attempts=0) > 0.7
    kernel = {"params": {"bias": np.zeros(32), "kernel": arrow(32)}}
    x = np.zeros((1, 5, 1, 32))
    x[:, 0, :, 1] = 1.0
    assert worst(FoldedConv(32, (5, 1), 1, Polynomial((1.0,))), kernel, x, attempts=0) > 0.6


def test_sectors_and_polylines_are_attained_within_a_factor_of_some():
    """Of many small errors, never all of one sign."""
    angles = (6.0, 3.0, 6.2)
    own = {"params": {f"angle{i}": np.array([angle]) for i, angle in enumerate(angles)}}
    rays = (angles[0] / 2, sum(angles[:2]) / 2, sum(angles) / 2, (angles[0] + angles[2]) / 2)
    assert worst(Householder2(), own, np.concatenate([around(ray, 40) for ray in rays]), attempts=20) > 0.1
    vertices = np.random.default_rng(0).normal(size=(1, 4, 2))
    assert worst(PolylinePool(), {"params": {"vertices": vertices}}, 10 * circle(60), attempts=2) > 0.06


def test_norms_translations_and_mirrors_are_attained():
    far = np.r_[1.0, np.full(63, 1e-4)].reshape(1, 8, 8, 1)
    assert worst(GlobalL2Pool(), {}, far) > 0.5
    assert worst(L2Pool(8), {}, far) > 0.5
    own = {"params": {"term": np.full((2, 2, 1), 0.7)}}
    assert worst(Position(), own, np.full((1, 2, 2, 1), 0.1)) > 0.9
    mirrored = {"params": {"theta": np.array([[0.3, 0.9]])}}
    assert worst(NActivation(), mirrored, np.full((1, 2, 2, 1), -0.01)) > 0.9


@pytest.mark.parametrize(("channels", "part"), [(32, 0.8), (1024, 0.5)])
def test_a_product_with_a_matrix_is_attained(channels, part):
    """A matrix with one row that is nearly all of it in the first entry, whose product is added first."""
    matrix = np.full((channels, 1), 1e-6)
    matrix[0] = 1.0
    own = {"params": {"matrix": matrix, "bias": np.zeros(1)}}
    x = np.zeros((1, 1, 1, channels))
    x[..., 0] = 1.0
    assert worst(OrthogonalMixing(1), own, x) > part


def test_a_shift_of_rotated_channels_is_attained():
    """Two pixels that are opposite in one channel: the shift turns its sign, and the difference doubles it."""
    rotation, mixing = np.zeros((32, 4)), np.zeros((32, 32))
    rotation[:, 0], mixing[:, 0] = 1e-6, 1e-6
    rotation[0, 0] = mixing[0, 0] = 1.0
    rotation[29:, 1:] = np.eye(3)
    own = {"params": {"rotation": rotation, "mixing": mixing, "bias": np.zeros(32)}}
    x = np.zeros((1, 2, 1, 32))
    x[0, :, 0, 0] = 1.0, -1.0
    assert worst(ShiftMixing(0.125), own, x) > 0.8


def test_offsets_are_attained():
    bias = {"params": {"kernel": np.zeros((1, 1, 4, 4)), "bias": np.full(4, 0.3)}}
    assert worst(FoldedConv(4, 6, 1, Polynomial((1.0,))), bias, np.zeros((1, 6, 6, 4))) > 0.9
    assert worst(InputScale(0.7, 0.3), {}, np.zeros((1, 1, 1, 1))) > 0.75
    assert worst(InputScale(0.0, 0.3), {}, np.ones((1, 1, 1, 1))) > 0.7
    assert worst(PointPool(4), {"params": {"point": np.full((1, 4), 0.3)}}, np.zeros((1, 2, 2, 4))) > 0.6


def circle(count=400):
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1).reshape(count, 1, 1, 2)


def around(angle, count=60):
    """Points a few units of roundoff away from a ray."""
    angles = angle + np.linspace(-20, 20, count) * 2.0**-24
    return np.stack([np.cos(angles), np.sin(angles)], 1).reshape(count, 1, 1, 2)


@pytest.mark.parametrize("angle", [0.3, 1.1, 2.5, np.pi])
def test_distances_to_a_cone_are_attained(angle):
    assert worst(ProjectionPool(), {"params": {"theta": np.array([angle])}}, circle()) > 0.5


@pytest.mark.parametrize("angle", [0.3, 1.1, 2.5])
def test_reflections_on_the_wrong_side_are_attained(angle):
    x = np.concatenate([circle(), around(angle / 2)])
    assert worst(Householder(), {"params": {"angle": np.array([angle])}}, x) > 0.5


def in_sectors(z, angles):
    """`Householder2` by its definition: polar angles, in 50 digits."""
    x, y, pi = mpmath.mpf(float(z[0])), mpmath.mpf(float(z[1])), mpmath.pi
    t0, t1, t2 = (min(max(mpmath.mpf(float(angle)), 0), 2 * pi) for angle in angles)
    phi = (mpmath.atan2(y, x) - t0 / 2) % (2 * pi)
    if phi < t1 / 2:
        return x, y
    if phi < (t1 + t2) / 2:
        return x * mpmath.cos(t0 + t1) + y * mpmath.sin(t0 + t1), x * mpmath.sin(t0 + t1) - y * mpmath.cos(t0 + t1)
    if phi < pi + t2 / 2:
        return x * mpmath.cos(t2) + y * mpmath.sin(t2), y * mpmath.cos(t2) - x * mpmath.sin(t2)
    return x * mpmath.cos(t0) + y * mpmath.sin(t0), x * mpmath.sin(t0) - y * mpmath.cos(t0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sectors_as_narrow_or_wide_as_can_be(dtype, rng):
    """On and beside every ray and its opposite, where two rays coincide, or are opposite but for rounding."""
    special = [0, 1e-17, 1e-8, np.pi / 2, np.pi, np.float32(np.pi), 2 * np.pi, np.float32(2 * np.pi)]
    eps = np.finfo(dtype).eps
    for _ in range(60):
        angles = [dtype(rng.choice(special)) if rng.random() < 0.7 else dtype(rng.uniform(0, 7)) for _ in range(3)]
        t0, t1, t2 = np.clip(np.float64(angles), 0, 2 * np.pi)
        rays = np.array([t0, t0 + t1, t0 + t1 + t2, t0 + t2]) / 2
        around = (rays[:, None, None] + np.array([0, np.pi])[:, None] + np.array([-3, -1, 0, 1, 3]) * eps).ravel()
        points = np.stack([np.cos(around), np.sin(around)], 1).astype(dtype)
        own = {"params": {f"angle{i}": np.array([angle]) for i, angle in enumerate(angles)}}
        with jax.enable_x64(dtype == np.float64):
            found = np.asarray(Householder2().evaluate(own, points.reshape(-1, 1, 1, 2)), np.float64).reshape(-1, 2)
        bound = Householder2().proof(own, (1, 1, 2)).rounding.relative * (1 if dtype == np.float64 else COARSEST)
        for y, z in zip(found, points, strict=True):
            exact = in_sectors(z, angles)
            assert mpmath.hypot(y[0] - exact[0], y[1] - exact[1]) <= 1.01 * bound, (angles, z)


def test_sums_and_what_follows_are_attained():
    pair = np.array([[[[1.0, 0.2]]]])
    assert worst(GlobalAveragePool(), {}, np.ones((1, 5, 5, 1))) > 0.4
    assert worst(AveragePool(3), {}, np.ones((1, 3, 3, 1))) > 0.4
    assert worst(Sum(tuple((str(i), MaxMin()) for i in range(4))), {}, pair) > 0.4
    assert worst(Residual(MaxMin(), 0.3), {}, pair) > 0.5
    row = Sequential((("a", PointPool(64)), ("b", InputScale(0.0, 0.1))))
    far = np.r_[1.0, np.full(63, 1e-4)].reshape(1, 1, 1, 64)
    assert worst(row, {"params": {"a": {"point": np.zeros((1, 64))}}}, far) > 0.5
    both = Concatenate((("a", InputScale(0.0, 0.3)), ("b", InputScale(0.0, 0.3))))
    assert worst(both, {}, pair) > 0.7
    split, first = Split((("a", InputScale(0.0, 0.3)), ("b", MaxMin())), (1, 2)), np.array([[[[1.0, 0.0, 0.0]]]])
    assert worst(split, {}, first) > 0.7


def difference(head):
    return lambda own, y: head.evaluate(own, y)[:, :1] - head.evaluate(own, y)[:, 1:]


def test_logits_of_the_linear_head_are_attained():
    row = np.r_[1.0, np.full(63, 1e-4)]
    own = {"params": {"weight": np.stack([row, -row]), "bias": np.array([0.1, -0.1])}}
    head, y = LastLayerNormalization(2), np.zeros((1, 64))
    y[0, 0] = 1.0
    assert attained(difference(head), (own, y), head.rounding(own, np.ones(1))) > 0.5


def test_logits_of_the_head_without_normalisation_are_attained():
    row = np.r_[3.0, np.full(63, 1e-4)]
    own = {"params": {"weight": np.stack([row, -row]), "bias": np.array([0.1, -0.1])}}
    head, y = LinearHead(2), np.zeros((1, 64))
    y[0, 0] = 1.0
    assert attained(difference(head), (own, y), head.rounding(own, np.ones(1))) > 0.5


def test_logits_of_the_curvature_head_are_attained():
    w1, w2 = np.full((300, 300), 1e-9), np.full((2, 300), 1e-9)
    w1[0, 0] = 1.0
    w2[:, 0] = 1.0, -1.0
    own = {"params": {"w1": w1, "b1": np.zeros(300), "w2": w2, "b2": np.zeros(2)}}
    head, y = CurvatureHead(2, 300), np.zeros((1, 300))
    y[0, 0] = 100.0
    assert attained(difference(head), (own, y), head.rounding(own, np.full(1, 100.0))) > 0.5
