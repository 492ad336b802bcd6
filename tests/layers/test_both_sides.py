"""Every exported layer where its bounds are attained: none is exceeded, and none could be a hair smaller."""

import dataclasses
import functools
import math

import flax
import jax
import numpy as np
import pytest

import lipjax.layers
from lipjax.layers import (
    ACTIVATIONS,
    POOLINGS,
    Activation,
    Affine,
    AlmostOrthogonalConv,
    AveragePool,
    BetaAbs,
    BlockReflectorConv,
    CayleyConv,
    Centring,
    Concatenate,
    ConvexPotential,
    FirstChannels,
    Flatten,
    FoldedConv,
    FrequencyConv,
    GlobalAveragePool,
    GlobalL2Pool,
    Householder,
    Householder2,
    InputScale,
    L2Pool,
    Layer,
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
    Recomputed,
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
    grid,
)
from lipjax.layers.rounding import COARSEST
from lipjax.ops import equiripple, taylor

EXPORTED = {
    name: kind
    for name in lipjax.layers.__all__
    if isinstance(kind := getattr(lipjax.layers, name), type) and issubclass(kind, Layer)
}
TWO = (("a", InputScale(0.1, 0.25)), ("b", InputScale(0.2, 0.4)))

# (layer, shape of its input, {field: another value}): each field of each exported layer has one
CASES = {
    "MaxMin": (MaxMin(), (2, 2, 4), {"neighbours": True}),
    "BetaAbs": (BetaAbs(), (2, 2, 5), {"beta": 0.9}),
    "NActivation": (NActivation(), (2, 2, 3), {}),
    "Householder": (Householder(), (2, 2, 4), {}),
    "Householder2": (Householder2(), (2, 2, 4), {}),
    "MaxPool": (MaxPool(), (2, 2, 4), {}),
    "L2Pool": (L2Pool(2), (4, 4, 2), {"size": 4}),
    "GlobalL2Pool": (GlobalL2Pool(), (3, 2, 4), {}),
    "ProjectionPool": (ProjectionPool(), (2, 2, 4), {}),
    "PolylinePool": (PolylinePool(), (2, 2, 4), {"num_vertices": 5, "start": "max", "corner": 7.0}),
    "PolylinePool from max": (PolylinePool(start="max"), (2, 2, 4), {"start": "cone", "corner": 9.0}),
    "PointPool": (PointPool(2), (2, 2, 4), {"dimensions": 4}),
    "InputScale": (InputScale(0.3, 0.25), (2, 2, 2), {"mean": 0.9, "std": 0.1}),
    "InputScale of channels": (InputScale((0.3, 0.3), (0.25, 0.25)), (2, 2, 2), {"mean": 0.9, "std": (0.3, 0.1)}),
    "SpaceToDepth": (SpaceToDepth(), (4, 4, 2), {"block": 4}),
    "ZeroPad": (ZeroPad(3, 4), (2, 2, 2), {"height": 4, "width": 2}),
    "FirstChannels": (FirstChannels(2), (2, 2, 3), {"count": 3}),
    "Patches": (Patches(2), (3, 4, 2), {"size": 3}),
    "Flatten": (Flatten(), (2, 2, 3), {"order": "chw"}),
    "Shift": (Shift(0.5), (3, 2, 8), {"fraction": 1.0}),
    "Position": (Position(), (2, 3, 2), {"per_channel": True}),
    "OrthogonalMixing": (OrthogonalMixing(3), (2, 2, 4), {"features": 5, "compute_dtype": "bfloat16"}),
    "ShiftMixing": (ShiftMixing(0.5), (3, 2, 8), {"fraction": 1.0, "compute_dtype": "bfloat16"}),
    "OrthogonalDense": (
        OrthogonalDense(4),
        (5,),
        {"features": 3, "kind": "cayley", "residual": 2, "compute_dtype": "bfloat16"},
    ),
    "PatchConv": (
        PatchConv(4, 2),
        (3, 4, 2),
        {"features": 3, "patch": 1, "kind": "exponential", "compute_dtype": "bfloat16"},
    ),
    "ResidualConv": (
        ResidualConv(3),
        (3, 4, 2),
        {"depth": 1, "kernel_size": 1, "use_bias": False, "compute_dtype": "bfloat16"},
    ),
    "Centring": (Centring(), (2, 2, 3), {"momentum": 0.9}),
    "StridedConv": (
        StridedConv(3),
        (4, 6, 2),
        {"features": 2, "kernel_size": 6, "stride": 1, "compute_dtype": "bfloat16"},
    ),
    "AlmostOrthogonalConv": (AlmostOrthogonalConv(3), (3, 3, 2), {"features": 2, "kernel_size": 5}),
    "AlmostOrthogonalConv 1×1": (AlmostOrthogonalConv(3, 1), (2, 2, 2), {}),
    "ConvexPotential": (ConvexPotential(3), (3, 3, 2), {"features": 2, "kernel_size": 5, "inner": 5}),
    "SdpResidual": (SdpResidual(3), (3, 3, 2), {"features": 2, "kernel_size": 5, "inner": 5}),
    "CayleyConv": (CayleyConv(3), (3, 3, 2), {"features": 2, "kernel_size": 5}),
    "CayleyConv to fewer": (CayleyConv(2), (3, 3, 3), {"features": 1}),
    "BlockReflectorConv": (
        BlockReflectorConv(3),
        (3, 3, 2),
        {
            **{"features": 2, "kernel_size": 5, "rank": 1, "ridge": 1e-2, "identity": True},
            **{"scale": 0.1, "use_bias": False, "circular": True},
        },
    ),
    "BlockReflectorConv 1×1": (BlockReflectorConv(3, 1), (2, 2, 3), {"ridge": 1e-7, "identity": True, "scale": 9.0}),
    "SkewOrthogonalConv": (
        SkewOrthogonalConv(4),
        (4, 4, 3),
        {
            **{"features": 3, "kernel_size": 5, "polynomial": equiripple(3, 2.5), "eval_polynomial": taylor(4)},
            **{"gradient": "exact", "compute_dtype": "bfloat16"},
        },
    ),
    "SkewOrthogonalConv by four norms": (
        SkewOrthogonalConv(4, polynomial=taylor(4)),
        (4, 4, 4),
        {"polynomial": taylor(3), "eval_polynomial": taylor(8)},
    ),
    "FoldedConv": (
        FoldedConv(4, 3, 3, taylor(5)),
        (3, 3, 3),
        {"features": 3, "size": (3, 4), "kernel_size": 5, "polynomial": taylor(3)},
    ),
    "FoldedConv with a kernel": (
        FoldedConv(2, (5, 3), 3, taylor(4)),
        (5, 3, 2),
        {"features": 3, "size": (3, 5), "kernel_size": 5, "polynomial": taylor(3)},
    ),
    "FrequencyConv": (FrequencyConv(3, (5, 4)), (3, 4, 2), {"features": 2, "points": (4, 6), "excess": 1e-6}),
    "Sequential": (Sequential(TWO), (2, 2, 2), {"layers": (*TWO, ("c", InputScale(0.5, 0.1)))}),
    "Residual": (Residual(InputScale(0.1, 0.25), 0.3), (2, 2, 2), {"layer": InputScale(0.1, 0.1), "a": 0.9}),
    "Concatenate": (Concatenate(TWO), (2, 2, 2), {"layers": (("a", InputScale(0.1, 0.1)), TWO[1])}),
    "Split": (Split(TWO, (1, 2)), (2, 2, 3), {"layers": (TWO[0], ("b", InputScale(0.1, 0.1))), "channels": (2, 1)}),
    "Sum": (Sum(TWO), (2, 2, 2), {"layers": (*TWO, ("c", PlainConv(2, padding=1)))}),
    "Sum with a convolution": (Sum((("a", Sequential(())), ("b", PlainConv(2, padding=1)))), (3, 4, 2), {}),
    "Activation": (Activation(), (2, 2, 3), {"function": "hard_swish"}),
    "Activation with a slope": (Activation("leaky_relu", 1.5), (2, 2, 3), {"parameter": -2.0, "function": "elu"}),
    "WindowMax": (WindowMax(2), (4, 4, 2), {"size": (2, 3), "stride": 1, "padding": 1}),
    "AveragePool": (
        AveragePool(2),
        (4, 5, 2),
        {"size": (2, 3), "stride": 1, "padding": 1, "count_padding": False},
    ),
    "GlobalAveragePool": (GlobalAveragePool(), (3, 4, 2), {}),
    "PlainDense": (PlainDense(4), (5,), {"features": 3, "use_bias": False, "scaled": True}),
    "PlainConv": (
        PlainConv(4, padding=1),
        (4, 5, 2),
        {
            **{"features": 2, "kernel_size": (3, 2), "stride": (2, 1), "padding": ((2, 0), (1, 1)), "groups": 2},
            **{"padding_mode": "reflect", "dilation": 2, "use_bias": False, "scaled": True},
        },
    ),
    "PlainConv on a torus, scaled": (
        PlainConv(2, padding=1, padding_mode="circular", scaled=True),
        (4, 3, 2),
        {"stride": 2, "padding": 2, "groups": 2},
    ),
    "Affine": (Affine(), (2, 2, 3), {}),
    "TakeChannels": (TakeChannels((2, 0)), (2, 2, 3), {"order": (1,)}),
    "ZerosAround": (ZerosAround(1, (0, 2)), (2, 2, 3), {"padding": ((0, 1), (2, 0)), "channels": (1, 0)}),
    "Unflatten": (Unflatten((2, 3, 2)), (12,), {"shape": (3, 2, 2)}),
    "Recomputed": (Recomputed(InputScale(0.1, 0.25)), (2, 2, 2), {"layer": InputScale(0.1, 0.1)}),
}

ABSTRACT = {"Layer", "Container"}


def test_every_exported_layer_and_each_of_its_fields_has_a_case():
    changed: dict[str, set[str]] = {}
    for layer, _, fields in CASES.values():
        changed.setdefault(type(layer).__name__, set()).update(fields)
    assert set(changed) == set(EXPORTED) - ABSTRACT
    for name, fields in changed.items():
        assert fields == {f.name for f in dataclasses.fields(EXPORTED[name])} - {"parent", "name"}, name


def in_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.device_get(tree))


@functools.cache
def made(name):
    """(layer, shape, its variables in float64 away from their start, tightened)."""
    layer, shape, _ = CASES[name]
    rng = np.random.default_rng(sum(map(ord, name)))
    own = jax.tree.map(np.asarray, dict(layer.init(jax.random.key(0), np.zeros((1, *shape), np.float32))))
    own["params"] = jax.tree.map(lambda a: np.float32(a + 0.3 * rng.normal(size=a.shape)), own.get("params", {}))
    if isinstance(layer, FoldedConv) and "kernel" in own["params"]:
        kernel = own["params"]["kernel"]
        own["params"]["kernel"] = kernel - np.flip(kernel, (0, 1)).swapaxes(2, 3)
    if isinstance(layer, Centring):
        own["spectral"]["mean"] = np.float32(rng.normal(size=own["spectral"]["mean"].shape))
    with jax.enable_x64(True):
        tight = layer.tightened(in_float64(own), shape)
    return layer, shape, in_float64(jax.tree.map(np.float32, tight))  # numbers of float32, too


def with_params(own, **changed):
    return {**own, "params": {**own["params"], **changed}}


def evaluated(layer, own, x):
    with jax.enable_x64(True):
        return np.asarray(jax.jit(layer.evaluate)(own, x))


BENT = {
    *ACTIVATIONS.values(),
    *POOLINGS.values(),
    Activation,
    WindowMax,
    L2Pool,
    GlobalL2Pool,
    ConvexPotential,
    SdpResidual,
}


def probed(layer, own, shape) -> tuple[float, float]:
    """(the norm of the matrix of the layer, near a random point where it has many; the norm of what becomes of 0)."""
    size, is_bent = math.prod(shape), type(layer) in BENT
    point = np.random.default_rng(1).normal(size=size) * is_bent
    step = 1e-7 if is_bent else 1.0
    batch = np.concatenate([point + step * np.eye(size), point[None], np.zeros((1, size))]).reshape(-1, *shape)
    rows = evaluated(layer, own, batch).reshape(size + 2, -1)
    return float(np.linalg.norm((rows[:size] - rows[size]) / step, 2)), float(np.linalg.norm(rows[-1]))


def room(layer) -> float:
    """For the rounding of `probed`, and for what is curved."""
    return 1 + (1e-6 if type(layer) in BENT else 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_bounds_are_attained_and_never_exceeded(name):
    layer, shape, own = made(name)
    if isinstance(layer, ConvexPotential | SdpResidual):  # with nothing active, the identity
        own = with_params(own, bias=np.full_like(own["params"]["bias"], -1e3))
    bound, (true, _) = layer.proof(own, shape).lipschitz, probed(layer, own, shape)
    assert true <= bound * room(layer)
    assert bound <= 1.0019 * true, bound / true - 1


# Offsets that are no more than bounds; those of steps down a potential, and of polylines, are attained below.
LOOSE = (ConvexPotential, SdpResidual, PolylinePool)


@pytest.mark.parametrize("name", CASES)
def test_offsets_are_attained_and_never_exceeded(name):
    layer, shape, own = made(name)
    (_, at_zero), offset = probed(layer, own, shape), layer.proof(own, shape).offset
    assert at_zero <= offset * (1 + 1e-12)
    assert isinstance(layer, LOOSE) or offset <= 1.0001 * at_zero, offset / at_zero


@pytest.mark.parametrize("kind", LOOSE)
def test_offsets_that_are_loose_are_attained_somewhere(kind):
    """All inner units active, through an orthogonal kernel; the nearest point of a curve its own corner."""
    layer, shape = (PolylinePool(), (2, 2, 2)) if kind is PolylinePool else (kind(2, 1), (2, 2, 2))
    own = dict(layer.init(jax.random.key(0), np.zeros((1, *shape), np.float32)))
    if kind is PolylinePool:
        own = with_params(own, vertices=np.add(own["params"]["vertices"], [0.5, 0.0]))
    else:
        own = with_params(own, kernel=0.7 * np.eye(2)[None, None], bias=np.array([0.5, 0.25]))
    with jax.enable_x64(True):
        own = in_float64(layer.tightened(in_float64(own), shape))
    (_, at_zero), offset = probed(layer, own, shape), layer.proof(own, shape).offset
    assert at_zero <= offset * (1 + 1e-12)
    assert offset <= 1.003 * at_zero, offset / at_zero


@pytest.mark.parametrize("kind", [CayleyConv, BlockReflectorConv])
def test_where_no_whole_matrix_is_proven_a_grid_has_the_bound_1_and_attains_it(kind, monkeypatch):
    monkeypatch.setattr(grid, "_UNKNOWNS", 0)
    layer, shape = kind(3, kernel_size=1), (2, 3, 3)
    own = in_float64(layer.init(jax.random.key(0), np.zeros((1, *shape), np.float32)))
    (true, _), bound = probed(layer, own, shape), layer.proof(own, shape).lipschitz
    assert true <= bound * (1 + 1e-12) <= 1.0001 * true


def check(layer, own, shape, is_rounded=True) -> None:
    """What is run is within what is proven; nothing is asked where either is refused."""
    try:
        proof = layer.proof(own, shape)
        true, at_zero = probed(layer, own, shape)
    except REFUSED:
        return
    assert true <= proof.lipschitz * room(layer)
    assert at_zero <= proof.offset * (1 + 1e-12)
    if not is_rounded:
        return
    x = np.random.default_rng(2).normal(size=(4, *shape)).astype(np.float32)
    exact = evaluated(layer, own, np.float64(x))
    if proof.rounding is not None:
        off = np.float64(jax.jit(layer.evaluate)(jax.tree.map(np.float32, own), x)) - exact
        errors, sizes = (np.linalg.norm(z.reshape(4, -1), axis=1) for z in (off, x))
        assert (errors <= 1.001 * COARSEST * (proof.rounding.relative * sizes + proof.rounding.absolute)).all()
    try:
        with jax.enable_x64(True):
            applied = np.asarray(jax.jit(layer.apply)(own, np.float64(x)))
    except REFUSED:  # Flax knows the shapes of parameters
        return
    np.testing.assert_allclose(applied, exact, rtol=1e-9, atol=1e-9)


REFUSED = (ValueError, TypeError, KeyError, flax.errors.FlaxError)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][2]])
def test_a_field_that_changes_what_is_run_changes_what_is_proven(name):
    """With the variables of another value of the field, where those are taken, and with its own."""
    layer, shape, own = made(name)
    for field, value in CASES[name][2].items():
        other = layer.clone(**{field: value})
        check(other, own, shape)
        if not isinstance(layer, FoldedConv):  # which starts at 0
            variables = jax.tree.map(np.asarray, other.init(jax.random.key(3), np.zeros((1, *shape), np.float32)))
            check(other, in_float64(variables), shape)


@pytest.mark.parametrize("name", CASES)
def test_variables_of_another_shape_are_refused_or_proven(name):
    """Arrays of one entry along an axis would be broadcast, which enlarges distances and offsets."""
    layer, shape, own = made(name)
    leaves, tree = jax.tree.flatten(own)
    for i, leaf in enumerate(leaves):
        for axis in range(leaf.ndim):
            if leaf.shape[axis] > 1:
                changed = leaf.take([0], axis)
                check(layer, jax.tree.unflatten(tree, [*leaves[:i], changed, *leaves[i + 1 :]]), shape, False)
