"""Layers of ordinary networks: their bounds against the norms of dense Jacobians, from both sides."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lipjax.layers import (
    Activation,
    Affine,
    AveragePool,
    Flatten,
    GlobalAveragePool,
    PlainConv,
    PlainDense,
    Sequential,
    Sum,
    WindowMax,
)
from lipjax.layers.plain_activations import SCALARS
from lipjax.layers.rounding import COARSEST
from lipjax.ops import banded_bounds, plain_bounds, plain_conv
from lipjax.ops.plain_conv import Geometry, Operator

MODES = tuple(plain_conv.PADDING_MODES)
PADDINGS = (((0, 0), (0, 0)), ((1, 1), (1, 1)), ((2, 1), (0, 3)))
GEOMETRIES = [
    Geometry((stride, stride), padding, mode, (dilation, dilation), groups)
    for stride, padding, mode, dilation, groups in itertools.product((1, 2, 3), PADDINGS, MODES, (1, 2), (1, 2))
]


def random_own(layer, shape, rng):
    """Variables away from where they start, in float64."""
    own = layer.init(jax.random.key(0), jnp.zeros((1, *shape)))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), dict(own))


def jacobian(layer, own, shape):
    found = jax.jacobian(lambda x: layer.evaluate(own, x[None]).ravel())(jnp.zeros(shape))
    return np.asarray(found).reshape(len(found), -1)


def padded_by_hand(x, geometry):
    """The image with its padding, pixel by pixel."""
    (top, _), (left, _) = geometry.padding
    height, width, channels = x.shape
    sides = [n + sum(around) for n, around in zip((height, width), geometry.padding, strict=True)]
    found = np.zeros((*sides, channels))

    def source(i, n):
        if geometry.mode == "circular":
            return i % n
        if geometry.mode == "reflect":
            i = abs(i)
            return i if i < n else 2 * (n - 1) - i
        return i if 0 <= i < n else None

    for i, j in np.ndindex(*sides):
        at = source(i - top, height), source(j - left, width)
        if None not in at:
            found[i, j] = x[at]
    return found


def conv_by_hand(x, kernel, geometry):
    """Every product of the formula, one by one."""
    x, (k, kk, c_in, c_out) = padded_by_hand(x, geometry), kernel.shape
    (s, t), (d, e), groups = geometry.stride, geometry.dilation, geometry.groups
    height, width = (x.shape[0] - d * (k - 1) - 1) // s + 1, (x.shape[1] - e * (kk - 1) - 1) // t + 1
    found = np.zeros((height, width, c_out))
    for i, j, o in np.ndindex(*found.shape):
        first = o // (c_out // groups) * c_in
        for a, b, c in np.ndindex(k, kk, c_in):
            found[i, j, o] += kernel[a, b, c, o] * x[s * i + d * a, t * j + e * b, first + c]
    return found


def images(grouped):
    """(groups, H, W, C/groups) → (H, W, C)."""
    return grouped.transpose(1, 2, 0, 3).reshape(*grouped.shape[1:3], -1)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_convolution_is_its_formula_and_its_norm_is_proven(geometry, rng):
    kernel, x = rng.normal(size=(3, 2, 4 // geometry.groups, 6)), rng.normal(size=(5, 6, 4))
    operator = Operator(kernel, geometry, (5, 6))
    grouped = x.reshape(5, 6, geometry.groups, -1).transpose(2, 0, 1, 3)
    found = operator.forth(grouped)
    np.testing.assert_allclose(images(found), conv_by_hand(x, kernel, geometry), atol=1e-12)
    for group in range(geometry.groups):
        np.testing.assert_allclose(grouped[group].ravel() @ operator.matrix(group), found[group].ravel(), atol=1e-12)
    norm = max(np.linalg.norm(operator.matrix(group), 2) for group in range(geometry.groups))
    bound, _ = plain_bounds.plain_norm_bound(kernel, geometry, (5, 6))
    assert norm <= bound <= 1.001 * norm


@pytest.mark.parametrize("geometry", GEOMETRIES[::7], ids=str)
def test_what_is_run_is_what_is_proven(geometry, float64, rng):
    shape = (5, 6, 4)
    given = geometry.stride, geometry.padding, geometry.mode, geometry.dilation, geometry.groups
    layer = PlainConv(6, (3, 2), *given)
    own, x = random_own(layer, shape, rng), rng.normal(size=shape)
    kernel, bias = (np.asarray(own["params"][name]) for name in ("kernel", "bias"))
    operator = Operator(kernel, geometry, shape[:2])
    linear = images(operator.forth(x.reshape(5, 6, geometry.groups, -1).transpose(2, 0, 1, 3)))
    np.testing.assert_allclose(np.asarray(layer.evaluate(own, x[None]))[0], linear + bias, atol=1e-12)
    proof, pixels = layer.proof(own, shape), np.prod(operator.outputs)
    assert proof.lipschitz == plain_bounds.plain_norm_bound(kernel, geometry, shape[:2])[0]
    at_zero = np.linalg.norm(bias) * np.sqrt(pixels)
    assert at_zero * (1 - 1e-12) <= proof.offset <= at_zero * (1 + 1e-9)


@pytest.mark.parametrize("channels", [(2, 4), (4, 2)])  # of each symbol a matrix, or a vector where there are groups
@pytest.mark.parametrize("geometry", GEOMETRIES[::3], ids=str)
def test_symbols_bound_what_is_too_large_for_its_matrix(geometry, channels, rng, monkeypatch):
    for work in ("_MATRIX_WORK", "_ROWS_WORK", "_BORDER_WORK"):
        monkeypatch.setattr(plain_bounds, work, 0)
    kernel, size = rng.normal(size=(3, 2, channels[0] // geometry.groups, channels[1])), (6, 9)
    bound, why = plain_bounds.plain_norm_bound(kernel, geometry, size)
    operator = Operator(kernel, geometry, size)
    norm = max(np.linalg.norm(operator.matrix(group), 2) for group in range(geometry.groups))
    assert norm <= bound <= 3 * norm, why


@pytest.mark.parametrize("padding", [(0, 1), (1, 0), (0, 2), (2, 0), (1, 1)])
def test_symbols_bound_images_of_few_pixels_around_which_taps_would_reach(padding, rng, monkeypatch):
    for work in ("_MATRIX_WORK", "_ROWS_WORK"):
        monkeypatch.setattr(plain_bounds, work, 0)
    geometry = Geometry(padding=(padding, (0, 0)))
    for size, _ in itertools.product((2, 3), range(12)):
        kernel = rng.normal(size=(min(3, size + sum(padding)), 1, 2, 2))
        norm = np.linalg.norm(Operator(kernel, geometry, (size, 1)).matrix(0), 2)
        assert norm <= plain_bounds.plain_norm_bound(kernel, geometry, (size, 1))[0]


@pytest.mark.parametrize("geometry", GEOMETRIES[1::4], ids=str)
def test_by_block_rows_it_is_tight_for_every_border(geometry, rng, monkeypatch):
    monkeypatch.setattr(plain_bounds, "_MATRIX_WORK", 0)
    for size, c_in, c_out in (((9, 5), 2, 4), ((4, 8), 4, 2)):
        kernel = rng.normal(size=(3, 2, c_in // geometry.groups, c_out))
        bound, why = plain_bounds.plain_norm_bound(kernel, geometry, size)
        operator = Operator(kernel, geometry, size)
        norm = max(np.linalg.norm(operator.matrix(group), 2) for group in range(geometry.groups))
        assert norm <= bound <= 1.003 * norm or "symbols" in why, why
        assert "block rows" in why or geometry.mode == "circular"


def test_block_rows_just_below_the_norm_do_not_factorise(rng):
    for geometry in GEOMETRIES[::10]:
        kernel, size = rng.normal(size=(3, 2, 2 // geometry.groups, 2)), (7, 5)
        one = dataclasses.replace(geometry, groups=1)
        part = kernel[..., : 2 // geometry.groups]
        norm = np.linalg.norm(Operator(part, one, size).matrix(0), 2)
        rows = banded_bounds.best_rows(part.shape, one, size)
        for below in (1e-6, 1e-9):
            bound = banded_bounds.banded_norm_bound(part, rows, norm * (1 - below) / (1 + 1e-3))
            assert norm <= bound <= 1.001 * norm
            assert bound > norm * (1 + 1e-5)  # the first attempt failed


@pytest.mark.parametrize(
    ("geometry", "size", "slack"),
    [
        (Geometry((1, 1), ((1, 1), (1, 1)), "circular"), (8, 6), 1.002),
        (Geometry((1, 1), ((2, 0), (0, 2)), "circular"), (8, 6), 1.002),
        (Geometry((2, 2), ((1, 0), (1, 0)), "circular"), (8, 6), 1.002),
        (Geometry((1, 1), ((1, 1), (1, 1)), "circular", groups=2), (8, 6), 1.002),
        (Geometry((1, 1), ((2, 2), (2, 2)), "circular", (2, 2)), (8, 6), 1.002),
        (Geometry((3, 3), ((0, 0), (0, 0)), "zeros"), (9, 9), 1.002),  # patches
        (Geometry((1, 1), ((1, 1), (1, 1)), "zeros"), (20, 20), 1.02),
        (Geometry((2, 2), ((1, 1), (1, 1)), "zeros"), (20, 20), 1.05),
        (Geometry((1, 1), ((0, 0), (0, 0)), "zeros"), (20, 20), 1.02),
        (Geometry((1, 1), ((1, 1), (1, 1)), "zeros", groups=2), (20, 20), 1.02),
    ],
    ids=str,
)
def test_by_symbols_it_is_tight_on_cyclic_grids_and_large_images(geometry, size, slack, rng, monkeypatch):
    for work in ("_MATRIX_WORK", "_ROWS_WORK", "_BORDER_WORK"):
        monkeypatch.setattr(plain_bounds, work, 0)
    kernel = rng.normal(size=(3, 3, 2 // geometry.groups, 2))
    bound, _ = plain_bounds.plain_norm_bound(kernel, geometry, size)
    operator = Operator(kernel, geometry, size)
    norm = max(np.linalg.norm(operator.matrix(group), 2) for group in range(geometry.groups))
    assert norm <= bound <= slack * norm


def test_kernels_of_any_size_and_of_zeros_have_a_bound(rng):
    kernel, geometry = rng.normal(size=(3, 3, 2, 2)), Geometry(padding=((1, 1), (1, 1)))
    once, _ = plain_bounds.plain_norm_bound(kernel, geometry, (5, 5))
    for scale in (2.0**-600, 2.0**600):
        assert plain_bounds.plain_norm_bound(kernel * scale, geometry, (5, 5))[0] == pytest.approx(once * scale)
    assert plain_bounds.plain_norm_bound(kernel * 0, geometry, (5, 5))[0] == 0
    assert plain_bounds.plain_norm_bound(np.full((3, 3, 2, 2), 1e308), geometry, (5, 5))[0] == np.inf


def test_the_operator_and_its_transpose_are_adjoint(rng):
    for geometry in GEOMETRIES:
        operator = Operator(rng.normal(size=(3, 2, 4 // geometry.groups, 6)), geometry, (5, 6))
        x = rng.normal(size=(geometry.groups, 5, 6, 4 // geometry.groups))
        y = operator.forth(x)
        z = rng.normal(size=y.shape)
        assert (y * z).sum() == pytest.approx((x * operator.back(z)).sum(), rel=1e-11)


LINEAR = {
    "scaled convolution": (PlainConv(6, 3, 2, 1, scaled=True), (6, 5, 4)),
    "scaled convolution without bias": (PlainConv(6, 3, 1, 1, use_bias=False, scaled=True), (6, 5, 4)),
    "convolution of many channels": (PlainConv(3, 3, padding=1), (2, 2, 40)),
    "convolution by taps": (PlainConv(3, (3, 2), 2, 1, "reflect", (1, 2)), (3, 3, 130)),
    "convolution by taps in a loop": (PlainConv(2, 2), (2, 2, 300)),
    "1×1 convolution": (PlainConv(5, 1, 2, scaled=True), (4, 3, 6)),
    "dense": (PlainDense(6), (40,)),
    "wide dense": (PlainDense(50, use_bias=False), (40,)),
    "scaled dense": (PlainDense(6, scaled=True), (40,)),
    "affine": (Affine(), (3, 3, 4)),
    "affine of features": (Affine(), (7,)),
    "average pooling": (AveragePool(2), (5, 4, 3)),
    "overlapping average pooling": (AveragePool(3, 2, 1), (6, 5, 2)),
    "average pooling of the image alone": (AveragePool(3, 1, 1, count_padding=False), (6, 5, 2)),
    "global average pooling": (GlobalAveragePool(), (3, 4, 2)),
    "flattening": (Flatten("chw"), (3, 4, 2)),
    "residual convolution": (
        Sum((("0", Sequential(())), ("1", Sequential((("0", PlainConv(4, 3, padding=1)),))))),
        (5, 5, 4),
    ),
    "projected residual": (Sum((("0", PlainConv(6, 1, 2)), ("1", PlainConv(6, 3, 2, 1, scaled=True)))), (6, 6, 3)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_the_bound_is_never_exceeded_and_nearly_attained(name, float64, rng):
    layer, shape = LINEAR[name]
    own = random_own(layer, shape, rng)
    proof, norm = layer.proof(own, shape), np.linalg.norm(jacobian(layer, own, shape), 2)
    assert norm * (1 - 1e-13) <= proof.lipschitz <= 1.001 * norm
    at_zero = np.linalg.norm(layer.evaluate(own, jnp.zeros((1, *shape))))
    assert at_zero * (1 - 1e-12) <= proof.offset <= (at_zero * (1 + 1e-9) if "residual" not in name else 1e9)
    assert 0.98 * norm <= layer.estimate(own, shape) <= proof.lipschitz * (1 + 1e-9) or "residual" in name


@pytest.mark.parametrize("name", LINEAR)
def test_float32_is_off_by_no_more_than_its_rounding_and_that_is_not_absurd(name, rng):
    layer, shape = LINEAR[name]
    own = jax.tree.map(np.float32, random_own(layer, shape, rng))
    x = rng.normal(size=(20, *shape)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        found = np.asarray(layer.evaluate(own, x), np.float64)
        with jax.enable_x64(True):
            exact = np.asarray(layer.evaluate(jax.tree.map(np.float64, own), np.float64(x)))
    relative, absolute = layer.proof(own, shape).rounding
    size, error = (np.sqrt((z**2).reshape(len(z), -1).sum(axis=1)) for z in (np.float64(x), found - exact))
    allowed = COARSEST * (relative * size + absolute)
    assert (error <= allowed).all()
    assert allowed.max() <= 1e-3 * size.max() * max(layer.proof(own, shape).lipschitz, 1)


def test_a_convolution_has_the_gradients_of_its_formula(float64, rng):
    layer, shape = PlainConv(4, 3, 2, 1, "reflect", groups=2), (5, 5, 4)
    own, x = random_own(layer, shape, rng), rng.normal(size=(2, *shape))

    def reference(own, x):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        y = lax.conv_general_dilated(
            padded,
            own["params"]["kernel"],
            (2, 2),
            "VALID",
            feature_group_count=2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + own["params"]["bias"]

    target = rng.normal(size=(2, 3, 3, 4))
    found, wanted = (
        jax.grad(lambda own, x, f=f: (f(own, x) * target).sum(), (0, 1))(own, x) for f in (layer.evaluate, reference)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), found, wanted)


def test_the_estimate_has_the_gradient_of_the_norm(float64, rng):
    layer, shape = PlainConv(3, 3, padding=1), (4, 4, 2)
    own = random_own(layer, shape, rng)
    direction = rng.normal(size=own["params"]["kernel"].shape)

    def norm(t):
        moved = {"params": {**own["params"], "kernel": own["params"]["kernel"] + t * direction}}
        return np.linalg.norm(jacobian(layer, moved, shape), 2)

    gradient = jax.grad(lambda kernel: layer.estimate({"params": {"kernel": kernel}}, shape))(own["params"]["kernel"])
    assert (gradient * direction).sum() == pytest.approx((norm(1e-5) - norm(-1e-5)) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_slopes_of_activations_are_bounded_and_attained(name, scale, float64):
    parameter = scale if SCALARS[name].parameter else None
    layer = Activation(name, parameter)
    proof = layer.proof({}, (1,))
    x = np.linspace(-12, 12, 480_001)
    if proof.offset == 0.0:  # where f(0) = 0 has all digits: selu is steepest just below
        x = np.sort(np.append(x, [-2e-7, -1e-7]))
    value = np.asarray(layer.evaluate({}, x[:, None]))[:, 0]
    slopes = np.abs(np.diff(value) / np.diff(x))
    assert slopes.max() <= proof.lipschitz * (1 + 1e-9)
    assert slopes.max() >= proof.lipschitz * (1 - 1e-4)
    at_zero = abs(float(layer.evaluate({}, np.zeros((1, 1)))[0, 0]))
    assert at_zero <= proof.offset <= at_zero * (1 + 1e-9)


def test_activations_are_those_of_jax(float64, rng):
    x = rng.normal(size=(1000, 1)) * 4
    named = {"relu": "relu", "relu6": "relu6", "elu": "elu", "selu": "selu", "sigmoid": "sigmoid", "tanh": "tanh"}
    named |= {"softplus": "softplus", "silu": "silu", "mish": "mish", "hard_tanh": "hard_tanh"}
    named |= {"softsign": "soft_sign", "hard_sigmoid": "hard_sigmoid", "hard_swish": "hard_swish", "abs": "relu"}
    for ours, theirs in named.items():
        if ours != "abs":
            wanted = getattr(jax.nn, theirs)(x)
            np.testing.assert_allclose(Activation(ours).evaluate({}, x), wanted, atol=1e-13, err_msg=ours)
    np.testing.assert_allclose(Activation("gelu").evaluate({}, x), jax.nn.gelu(x, approximate=False), atol=1e-13)
    np.testing.assert_allclose(Activation("gelu_tanh").evaluate({}, x), jax.nn.gelu(x, approximate=True), atol=1e-13)
    np.testing.assert_allclose(Activation("leaky_relu", 0.2).evaluate({}, x), jax.nn.leaky_relu(x, 0.2), atol=1e-13)
    np.testing.assert_allclose(Activation("elu", 2.0).evaluate({}, x), jax.nn.elu(x, 2.0), atol=1e-13)


@pytest.mark.parametrize("name", SCALARS)
def test_activations_in_float32_are_off_by_no_more_than_stated(name, rng):
    layer = Activation(name, 0.3 if SCALARS[name].parameter else None)
    sizes = np.array([[1e-6, 1.0, 30.0, 1e4]])
    x = (sizes * rng.normal(size=(5000, 4))).astype(np.float32).reshape(-1, 1)
    found = np.asarray(layer.evaluate({}, x), np.float64)
    with jax.enable_x64(True):
        exact = np.asarray(layer.evaluate({}, np.float64(x)))
    relative, absolute = layer.proof({}, (1,)).rounding
    assert (np.abs(found - exact) <= COARSEST * (relative * np.abs(x) + absolute)).all()


@pytest.mark.parametrize(
    ("layer", "shape", "norm"),
    [
        (WindowMax(2), (4, 4, 2), 1.0),
        (WindowMax(3, 2, 1), (5, 5, 1), 2.0),
        (WindowMax(3, 1), (5, 5, 1), 3.0),
        (WindowMax((3, 1), 2), (5, 5, 1), 2**0.5),
        (WindowMax(3, 3, ((1, 0), (0, 0))), (5, 6, 1), 1.0),
    ],
)
def test_maxima_of_windows_grow_by_the_root_of_the_windows_a_pixel_is_in(layer, shape, norm, float64, rng):
    proof = layer.proof({}, shape)
    assert proof.lipschitz == pytest.approx(norm, rel=1e-15)
    worst = 0.0
    for index in np.ndindex(*shape):  # one pixel that is the largest of all its windows
        x, moved = np.zeros((1, *shape)), np.zeros((1, *shape))
        moved[(0, *index)] = 1.0
        worst = max(worst, float(np.linalg.norm(layer.evaluate({}, moved) - layer.evaluate({}, x))))
    assert worst == pytest.approx(norm, rel=1e-12)
    u, v = rng.normal(size=(2, 300, *shape))
    grown = np.linalg.norm((layer.evaluate({}, u) - layer.evaluate({}, v)).reshape(300, -1), axis=1)
    assert (grown <= proof.lipschitz * np.linalg.norm((u - v).reshape(300, -1), axis=1)).all()


def test_a_sum_of_branches_that_are_not_linear_has_the_sum_of_their_bounds(float64, rng):
    layer = Sum((("0", Sequential(())), ("1", Activation("relu")), ("2", Activation("abs"))))
    assert layer.proof({}, (3, 3, 2)).lipschitz == pytest.approx(3)
    np.testing.assert_allclose(layer.evaluate({}, np.array([[2.0, -1.0]])), [[6.0, 0.0]])
    with pytest.raises(ValueError, match="branch '1' gives"):
        Sum((("0", Sequential(())), ("1", AveragePool(2)))).evaluate({}, np.zeros((1, 4, 4, 2)))
    with pytest.raises(ValueError, match="at least one branch"):
        Sum(())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: PlainDense(2, False).proof({"params": {"kernel": np.full((3, 2), np.inf)}}, (3,)),
            "PlainDense: the kernel, with its scale, has entries that are not finite",
        ),
        (
            lambda: plain_bounds.plain_norm_bound(np.full((1, 1, 1, 1), np.nan), Geometry(), (2, 2)),
            "plain_norm_bound: the kernel has entries that are not finite",
        ),
        (lambda: PlainConv(0), "PlainConv: features must be an integer >= 1, got 0"),
        (lambda: PlainConv(4, (3, 0)), "kernel_size must be an integer >= 1, or two"),
        (lambda: PlainConv(4, stride=0), "stride must be an integer >= 1, or two, got 0"),
        (lambda: PlainConv(4, padding=(1, 2)), r"padding must be an integer >= 0, or \(\(top"),
        (lambda: PlainConv(4, padding_mode="same"), "padding_mode must be one of"),
        (lambda: PlainConv(4, groups=3), "groups must be an integer >= 1 that divides features, got 3"),
        (lambda: PlainDense(4, use_bias=1), "PlainDense: use_bias must be True or False, got 1"),
        (lambda: Activation("cube"), "function must be one of"),
        (lambda: Activation("relu", 0.1), "parameter must be None for relu, got 0.1"),
        (lambda: Activation("softplus", 0.0), "the beta of softplus, got 0.0"),
        (lambda: Flatten("whc"), "Flatten: order must be one of"),
        (lambda: WindowMax(2, padding=-1), "WindowMax: padding must be"),
        (lambda: WindowMax(2, 2, 2).proof({}, (4, 4, 1)), "leaves no window, or an empty one, of 4"),
        (lambda: PlainConv(4, 5).init(jax.random.key(0), np.zeros((1, 4, 4, 2))), "kernel: 5 taps, 1 apart, exceed 4"),
        (
            lambda: PlainConv(4, 3, padding=4, padding_mode="reflect").init(jax.random.key(0), np.zeros((1, 4, 4, 2))),
            "at most 3 pixels of 4 can be padded by 'reflect'",
        ),
        (lambda: PlainConv(4, groups=2).init(jax.random.key(0), np.zeros((1, 4, 4, 3))), "groups=2 must divide the 3"),
        (
            lambda: PlainDense(2).proof({"params": {"kernel": np.zeros((3, 2))}}, (3,)),
            "PlainDense: params must be kernel, bias, got kernel",
        ),
        (
            lambda: PlainDense(2, False).proof({"params": {"kernel": np.zeros((3, 1))}}, (3,)),
            r"kernel must have shape \(3, 2\), got \(3, 1\)",
        ),
    ],
)
def test_what_is_refused_is_named(made, message):
    with pytest.raises(ValueError, match=message):
        made()


def test_products_with_a_scale_that_underflow_are_in_the_bound():
    n = 200
    own = {"params": {"scale": np.full(n, 2e-154), "shift": np.zeros(n)}}  # the norm is n · 2e-324 = 4e-322
    of_dense = {"params": own["params"] | {"kernel": np.full((n, n), 1e-170)}}
    assert PlainDense(n, False, True).proof(of_dense, (n,)).lipschitz > 5e-322
    of_conv = {"params": own["params"] | {"kernel": np.full((1, 1, n, n), 1e-170)}}
    assert PlainConv(n, 1, use_bias=False, scaled=True).proof(of_conv, (1, 1, n)).lipschitz > 5e-322
