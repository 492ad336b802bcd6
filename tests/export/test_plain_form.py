"""Layers written plainly: numpy alone computes what they compute in evaluation, and so do the operations of formats."""

import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from operations import Numpy

from lipjax.export import interpreter, lowering
from lipjax.export.deployed import in_dtype
from lipjax.export.lowering import lower
from lipjax.layers import (
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
    CurvatureHead,
    FirstChannels,
    Flatten,
    FrequencyConv,
    GlobalAveragePool,
    GlobalL2Pool,
    Householder,
    Householder2,
    InputScale,
    L2Pool,
    LastLayerNormalization,
    Layer,
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
    isometry,
)
from lipjax.layers.plain_activations import SCALARS
from lipjax.layers.rounding import COARSEST
from lipjax.ops import taylor
from lipjax.ops.blocked import any_order

LAYERS = {
    "skew orthogonal, folded to a matrix": (SkewOrthogonalConv(4), (3, 2, 3)),
    "skew orthogonal of one pixel": (SkewOrthogonalConv(3), (1, 1, 4)),
    "skew orthogonal, a nest, more channels": (SkewOrthogonalConv(4), (5, 6, 3)),
    "skew orthogonal, a nest, fewer channels": (SkewOrthogonalConv(3), (5, 6, 4)),
    "skew orthogonal 1×1": (SkewOrthogonalConv(4, kernel_size=1), (5, 6, 4)),
    "Taylor": (SkewOrthogonalConv(2, polynomial=taylor(6)), (5, 5, 2)),
    "almost orthogonal": (AlmostOrthogonalConv(4), (3, 4, 3)),
    "convex potential, more channels": (ConvexPotential(4), (3, 4, 3)),
    "convex potential, fewer channels": (ConvexPotential(2, inner=5), (3, 4, 3)),
    "SDP residual": (SdpResidual(3), (3, 4, 4)),
    "Cayley": (CayleyConv(4), (4, 3, 3)),
    "frequencies": (FrequencyConv(3, (5, 6)), (4, 3, 2)),
    "Cayley 1×1": (CayleyConv(3, 1), (4, 3, 4)),
    "block reflector": (BlockReflectorConv(3), (4, 3, 4)),
    "block reflector of a trunk": (BlockReflectorConv(4, identity=True, scale=0.5, use_bias=False), (3, 3, 4)),
    "block reflector 1×1": (BlockReflectorConv(4, 1), (3, 3, 3)),
    "residual convolution": (ResidualConv(3), (3, 4, 4)),
    "strided": (StridedConv(5), (6, 4, 2)),
    "strided, odd sides": (StridedConv(5, 4, 3), (5, 7, 2)),
    "strided patches": (StridedConv(4, 2, 2), (3, 4, 3)),
    "orthogonal patches": (PatchConv(6, 2), (4, 3, 3)),
    "orthogonal dense": (OrthogonalDense(6, "cayley"), (9,)),
    "orthogonal dense of pixels": (OrthogonalDense(6), (2, 3, 4)),
    "centring": (Centring(), (3, 3, 4)),
    "input scale": (InputScale((0.1, 0.2), (0.3, 0.4)), (3, 3, 2)),
    "Householder": (Householder(), (3, 3, 8)),
    "Householder of order 2": (Householder2(), (3, 3, 8)),
    "MaxMin": (MaxMin(), (3, 3, 8)),
    "MaxMin of neighbours": (MaxMin(neighbours=True), (3, 3, 8)),
    "flattening, channels first": (Flatten("chw"), (2, 3, 2)),
    "block reflector on a torus": (BlockReflectorConv(3, circular=True), (4, 3, 4)),
    "max": (MaxPool(), (3, 3, 8)),
    "projection": (ProjectionPool(), (3, 3, 8)),
    "polyline": (PolylinePool(), (3, 3, 8)),
    "polyline from max": (PolylinePool(start="max"), (3, 3, 8)),
    "point": (PointPool(4), (3, 3, 8)),
    "rearrangement": (SpaceToDepth(), (2, 4, 2)),
    "patches": (Patches(3), (4, 5, 2)),
    "zeros around": (ZeroPad(5, 8), (4, 5, 2)),
    "first channels": (FirstChannels(2), (2, 2, 3)),
    "flattening": (Flatten(), (2, 3, 2)),
    "orthogonal mixing": (OrthogonalMixing(6), (2, 2, 3)),
    "orthogonal mixing of features": (OrthogonalMixing(3), (9,)),
    "shift mixing": (ShiftMixing(0.5), (3, 3, 8)),
    "shift": (Shift(0.5), (3, 4, 8)),
    "position": (Position(), (3, 3, 2)),
    "position of channels": (Position(True), (3, 3, 2)),
    "beta abs": (BetaAbs(), (2, 2, 5)),
    "N-activation": (NActivation(), (2, 2, 5)),
    "norms": (GlobalL2Pool(), (3, 3, 2)),
    "norms of windows": (L2Pool(2), (4, 4, 2)),
    "residual": (Residual(Sequential((("c", SkewOrthogonalConv(4)), ("m", MaxMin()))), 0.3), (2, 2, 4)),
    "concatenation": (Concatenate((("a", InputScale(0.1, 0.3)), ("b", MaxMin()))), (2, 2, 4)),
    "split": (Split((("a", InputScale(0.1, 0.3)), ("b", MaxMin())), (2, 2)), (2, 2, 4)),
    "plain convolution": (PlainConv(4, padding=1), (4, 5, 3)),
    "plain convolution, scaled": (PlainConv(4, (2, 3), (2, 1), ((1, 0), (2, 1)), scaled=True), (5, 4, 3)),
    "plain convolution on a torus": (PlainConv(4, 3, 1, ((4, 2), (1, 3)), "circular", use_bias=False), (4, 5, 3)),
    "plain convolution, mirrored": (
        PlainConv(4, 3, (1, 2), ((3, 2), (0, 1)), "reflect", (2, 1), scaled=True),
        (5, 4, 2),
    ),
    "groups": (PlainConv(6, 3, 2, 2, dilation=2, groups=2), (5, 6, 4)),
    "a group a channel": (PlainConv(4, 3, 1, 1, groups=4, use_bias=False, scaled=True), (4, 4, 4)),
    "many channels, tap by tap": (PlainConv(2, 2), (3, 3, 128)),
    "plain dense": (PlainDense(3), (7,)),
    "plain dense of pixels, scaled": (PlainDense(3, False, True), (2, 3, 40)),
    "affine": (Affine(), (2, 3, 4)),
    "maxima of windows": (WindowMax(2), (4, 6, 3)),
    "maxima of windows that overlap": (WindowMax((3, 2), (2, 1), ((1, 2), (1, 0))), (6, 4, 3)),
    "means of windows": (AveragePool(3, 2, 1), (6, 5, 3)),
    "means of windows, without padding": (AveragePool((2, 3), 1, ((1, 0), (1, 2)), False), (4, 4, 2)),
    "means of all pixels": (GlobalAveragePool(), (3, 5, 4)),
    "sum": (Sum((("x", Sequential(())), ("c", PlainConv(4, padding=1)), ("m", MaxMin()))), (3, 4, 4)),
    "channels in an order": (TakeChannels((3, 0, 2)), (2, 2, 4)),
    "channels one after the other": (TakeChannels((1, 2)), (2, 2, 4)),
    "unflattening": (Unflatten((2, 3, 2)), (12,)),
    "zeros around, of channels too": (ZerosAround(((1, 0), (2, 1)), (1, 2)), (2, 3, 2)),
    **{f"activation {name}": (Activation(name), (3, 2, 5)) for name in SCALARS},
    "leaky, steep": (Activation("leaky_relu", -2.5), (3, 2, 5)),
    "softplus, sharp": (Activation("softplus", 3.5), (3, 2, 5)),
    "recomputed": (Recomputed(Sequential((("c", SkewOrthogonalConv(4)), ("p", PointPool())))), (5, 5, 3)),
}
HEADS = {"LLN": LastLayerNormalization(3), "linear head": LinearHead(3), "curvature head": CurvatureHead(3, 7)}


def moved(tree, rng):
    """Variables in float64, every parameter a little away from where it starts."""
    tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.device_get(tree))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), tree.get("params", {}))
    return {**tree, "params": params}


def assert_off_by_what_is_proven(layer, own, x, exact, written):
    """Of float32, by numpy, which adds up in an order of its own."""
    with any_order():
        rounding = layer.proof(own, x.shape[1:]).rounding
    found = interpreter.run(in_dtype(written, "float32"), x.astype(np.float32))
    assert found.dtype == np.float32
    size, error = (np.sqrt((z**2).reshape(len(z), -1).sum(axis=1)) for z in (x, found - exact))
    assert (error <= COARSEST * (rounding.relative * size + rounding.absolute)).all()


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_written_plainly_computes_the_same(name, rng):
    layer, shape = LAYERS[name]
    own = moved(jax.jit(layer.init)(jax.random.key(0), np.zeros((1, *shape), np.float32)), rng)
    x = np.float64(np.float32(rng.normal(size=(3, *shape))))
    with jax.enable_x64(True):
        layer, own = layer.folded(own, shape)
        own = jax.tree.map(lambda leaf: np.float64(np.float32(leaf)), jax.device_get(own))
        exact, written = np.asarray(jax.jit(layer.evaluate)(own, x)), layer.plain(own, shape)
        assert_off_by_what_is_proven(layer, own, x, exact, written)
    for found in (interpreter.run(written, x), lower(written, x, Numpy())):
        assert found.shape == exact.shape
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_written_plainly_computes_the_same(name, rng):
    head = HEADS[name]
    own = moved(head.init(jax.random.key(0), np.zeros((1, 5), np.float32)), rng)
    x = rng.normal(size=(3, 5))
    with jax.enable_x64(True):
        exact, written = np.asarray(head.evaluate(own, x)), head.plain(own)
    for found in (interpreter.run(written, x), lower(written, x, Numpy())):
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12)


def test_the_page_shows_the_interpreter():
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    assert f"```python\n{Path(interpreter.__file__).read_text(encoding='utf-8')}```" in page


def test_both_know_the_same_kinds():
    assert set(interpreter.LAYERS) == set(lowering.LAYERS)


def test_a_layer_that_does_not_say_how_is_named():
    class Half(Layer):
        def __call__(self, x, train=False):
            return x / 2

        def proof(self, own, shape):
            return isometry("half", "slopes of 1/2")

    with pytest.raises(ValueError, match=r"Half: has no plain form, so no network with it can be exported"):
        Sequential((("half", Half()),)).plain({}, (2, 2, 1))


def test_what_is_said_beside_a_network_is_no_part_of_it():
    file = io.BytesIO()
    said = {"format": "lipjax plain network 1", "layers": [{"kind": "activation", "name": "relu"}]}
    beside = {"layers": [{"kind": "affine", "scale": 100, "shift": 0}], "format": "another", "lipschitz_bound": 1.0}
    np.savez(file, description=json.dumps(said), metadata=json.dumps(beside))
    file.seek(0)
    layers, about = interpreter.read(file)
    assert (layers, about["format"], about["lipschitz_bound"]) == (said["layers"], said["format"], 1.0)
