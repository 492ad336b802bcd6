"""Certificates of the program that runs: its rounding is bounded, and subtracted."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from arithmetic import DIRECTIONS, Adversary, Digits50, distances, execute

import lipjax
from lipjax.certificates import certify_lln
from lipjax.certificates.certificate import over_bound
from lipjax.layers import (
    Concatenate,
    CurvatureHead,
    Flatten,
    FoldedConv,
    Householder,
    InputScale,
    LastLayerNormalization,
    Layer,
    MaxMin,
    PointPool,
    PolylinePool,
    ProjectionPool,
    Residual,
    Sequential,
    SkewOrthogonalConv,
    SpaceToDepth,
    isometry,
)
from lipjax.layers.rounding import COARSEST
from lipjax.models import Network
from lipjax.models.program import Program
from lipjax.ops.polynomials import Polynomial

SHAPE = (4, 4, 1)


def backbone():
    block = Sequential((("conv", SkewOrthogonalConv(2)), ("activation", Householder())))
    layers = [("input", InputScale(0.4, 0.3)), ("stem", SkewOrthogonalConv(2)), ("block", Residual(block, 0.4))]
    layers += [("rearrangement", SpaceToDepth()), ("wide", SkewOrthogonalConv(8)), ("pool", ProjectionPool())]
    layers += [("last", SkewOrthogonalConv(4, kernel_size=1)), ("polyline", PolylinePool()), ("flatten", Flatten())]
    return Sequential(tuple(layers))


def initialised(model, bias=0.0, seed=0):
    variables = jax.device_get(dict(model.init(jax.random.key(seed), np.zeros((1, *SHAPE), np.float32))))
    rng = np.random.default_rng(seed)

    def with_bias(path, leaf):
        is_bias = bias and path[-1].key == "bias" and path[1].key != "head"
        return np.float32(bias * rng.normal(size=leaf.shape)) if is_bias else np.asarray(leaf)

    return jax.tree_util.tree_map_with_path(with_bias, variables)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(size=(2, *SHAPE)).astype(np.float32)


def own(variables):
    return jax.tree.map(np.float64, variables)


def in_50_digits(model, variables, images):
    return execute(Digits50(), model.parts()[0].evaluate, own(variables), images)


@pytest.mark.parametrize("bias", [0.0, 1e6, 1e-30])
def test_features_are_within_the_bound_of_those_in_50_digits(bias, images):
    """At the images, and at points around them, as far as the bound says that it goes."""
    model = Network(backbone(), LastLayerNormalization(3), SHAPE)
    variables = initialised(model, bias)
    proven = lipjax.prove(model, variables)
    features, norms = proven._features(images)
    reach = np.full(len(images), 2.0)
    bound = proven._program.error(norms, reach)
    assert (distances(features, in_50_digits(model, variables, images)) <= bound).all()
    steps = np.random.default_rng(2).normal(size=images.shape)
    moved = images + 2 * steps / np.sqrt((steps**2).sum((1, 2, 3), keepdims=True)) * (1 - 1e-12)
    with jax.enable_x64(True):
        around = np.asarray(model.parts()[0].evaluate(own(variables), moved))
    assert (distances(around, in_50_digits(model, variables, moved)) <= bound).all()
    assert (proven._program.error(norms, np.zeros(len(images))) <= proven.rounding).all()
    if not bias:
        assert proven.rounding / proven.lipschitz_bound < 1e-11


@pytest.mark.parametrize("bias", [0.0, 1e6])
def test_the_bound_of_float32_holds_for_float32_and_for_the_worst_of_its_kind(bias, images):
    model = Network(backbone(), LastLayerNormalization(3), SHAPE)
    variables = initialised(model, bias)
    deployed, proven = (lipjax.prove(model, variables, precision=name) for name in ("float32", "float64"))
    features, norms = deployed._features(images)
    bound = deployed._program.error(norms, np.zeros(len(images)))
    assert features.dtype == np.float32
    assert (np.linalg.norm(features - proven.features(images), axis=1) <= bound).all()
    exact = np.asarray(in_50_digits(model, variables, images), float)
    for direction in DIRECTIONS:
        found = execute(Adversary(direction), model.parts()[0].evaluate, own(variables), images)
        assert (np.linalg.norm(found - exact, axis=1) <= bound).all(), direction


def test_errors_are_carried_on_by_the_bounds_of_the_parts_that_follow(images):
    """A pool of many terms, then a scale: nearly all of the error is that of the pool, ten times as large."""
    layers = Sequential((("a", PointPool(64)), ("b", InputScale(0.0, 0.1))))
    variables = {"params": {"a": {"point": np.zeros((1, 64))}}}
    x = np.r_[1.0, np.full(63, 1e-4)].reshape(1, 1, 1, 64)
    program = Program(layers, variables, layers.proof(variables, (1, 1, 64)), "float64")
    _, norms = program.features(x)
    bound = program.error(norms, np.zeros(1))[0] * COARSEST
    with jax.enable_x64(True):
        exact = np.asarray(layers.evaluate(variables, x))
    found = [execute(Adversary(d), layers.evaluate, variables, x) for d in ("up", "down", "rise")]
    assert 0.5 * bound < max(float(np.abs(one - exact).max()) for one in found) <= bound
    far = program.error(norms, np.full(1, 9.0))[0] * COARSEST
    assert far >= 5 * bound  # of points nine times as far out


def test_what_is_far_out_is_farther_after_a_part_that_enlarges():
    """A scale by ten, then a pool of many terms: what enters the pool within a distance r is 10 r farther out."""
    layers = Sequential((("a", InputScale(0.0, 0.1)), ("b", PointPool(64))))
    variables = {"params": {"b": {"point": np.zeros((1, 64))}}}
    x = np.r_[1.0, np.full(63, 1e-4)].reshape(1, 1, 1, 64)
    program = Program(layers, variables, layers.proof(variables, (1, 1, 64)), "float64")
    _, norms = program.features(x)
    near, far = (program.error(norms, np.full(1, reach))[0] for reach in (0.0, 9.0))
    assert 9.99 * near <= far <= 10.01 * near


def test_twice_the_error_and_the_rounding_of_the_head_are_taken_off(images):
    model = Network(backbone(), LastLayerNormalization(3), SHAPE)
    proven = lipjax.prove(model, initialised(model, 1e6))
    features = proven.features(images)
    labels = np.array(
        [int(np.argmax([proven.certify_head(f[None], [k]).radius[0] for k in range(3)])) for f in features]
    )
    certificate, error = proven.certify_with_error(images, labels)
    of_features = proven.certify_head(features, labels).radius
    assert (of_features > 0).all()
    assert (error > 1e-7).all()
    assert (certificate.radius * proven.lipschitz_bound <= of_features - 2 * error).all()
    head, reach = proven.head, np.linalg.norm(features, axis=1)
    weight, bias = (np.asarray(proven.variables["params"]["head"][name]) for name in ("weight", "bias"))
    slack = head.rounding({"params": {"weight": weight, "bias": bias}}, reach)
    with_slack = certify_lln(features, weight, bias, labels, slack=slack).radius
    assert (certificate.radius * proven.lipschitz_bound <= with_slack - 2 * error).all()
    assert (certificate.radius * proven.lipschitz_bound >= with_slack - 3 * error).all()


def shifted(shift):
    """Which of two pixels is larger, whatever the shift: it is added, and taken away again."""
    layers = [("input", InputScale(0.5, 0.25))]
    layers += [(name, FoldedConv(2, 1, 1, Polynomial((1.0,)))) for name in ("there", "back")]
    model = Network(Sequential((*layers, ("flatten", Flatten()))), LastLayerNormalization(2), (1, 1, 2))
    bias = np.float32([shift, 1.75 * shift])
    params = {
        name: {"matrix": np.eye(2, dtype=np.float32), "bias": b} for name, b in (("there", bias), ("back", -bias))
    }
    params["head"] = {"weight": np.float32([[1, 0.5], [0.5, 1]]), "bias": np.zeros(2, np.float32)}
    return model, {"params": params}


def exact_margin(model, variables, image) -> float:
    """A positive multiple of f_0 − f_1, in 50 digits."""
    first, second = in_50_digits(model, variables, image[None])[0]
    return float(first - second)


def test_next_to_the_boundary_the_false_certificates_of_0_1_are_gone():
    """0.1: features of float32, nothing subtracted.  With a shift of 1e6 its radii are positive for the wrong class."""
    model, variables = shifted(1e6)
    proven, rng = lipjax.prove(model, variables), np.random.default_rng(0)
    images = rng.uniform(0.2, 0.8, size=(60, 1, 1, 2)).astype(np.float32)
    images[..., 1] = images[..., 0] + rng.uniform(-0.01, 0.01, size=(60, 1, 1)).astype(np.float32)
    wrong = np.array([int(exact_margin(model, variables, image) > 0) for image in images])
    in_float32, head = np.asarray(proven.outputs(images)[0]), variables["params"]["head"]
    old = over_bound(certify_lln(in_float32, head["weight"], head["bias"], wrong), proven.lipschitz_bound)
    assert (old.radius > 0).any()
    assert (proven.certify(images, wrong).radius == 0).all()
    assert (proven.certify(images, 1 - wrong).radius > 0).all()
    assert (lipjax.prove(model, variables, precision="float32").certify(images, wrong).radius == 0).all()


def test_no_certificate_is_false_as_near_to_the_boundary_as_numbers_go():
    """Between an image of one class and one of the other, down to neighbours in float64."""
    model, variables = shifted(1e3)
    proven = lipjax.prove(model, variables)
    low, high = np.array([0.25, 0.2]).reshape(1, 1, 2), np.array([0.25, 0.3]).reshape(1, 1, 2)
    refused = 0
    for _ in range(56):
        middle = (low + high) / 2
        label = int(exact_margin(model, variables, middle) < 0)
        radius = proven.certify(np.stack([middle, middle]), np.array([label, 1 - label])).radius
        assert radius[1] == 0
        assert radius[0] <= abs(middle.ravel()[0] - middle.ravel()[1]) / np.sqrt(2)
        refused += radius[0] == 0
        low, high = (low, middle) if label else (middle, high)
    assert refused > 5  # where rounding decides, nothing is certified


@pytest.mark.parametrize("head", ["lln", "crc"])
def test_heads_at_the_end_of_the_range_certify_nothing(head, images):
    """Biases near 1e308, of which sums are infinite: 0, not infinity."""
    made = LastLayerNormalization(3) if head == "lln" else CurvatureHead(3, 4)
    model = Network(backbone(), made, SHAPE)
    variables = own(initialised(model))
    name = "bias" if head == "lln" else "b2"
    variables["params"]["head"][name] = np.array([1.7e308, -1.7e308, 0.0])
    found = lipjax.prove(model, variables).certify(images, np.zeros(2, int))
    np.testing.assert_array_equal(found.radius, 0)


def test_where_numbers_may_overflow_nothing_is_certified(images):
    layers = (("input", InputScale(0.0, 1e-29)), *(("x" * k, InputScale(0.0, 1e-29)) for k in range(1, 6)))
    model = Network(Sequential((*layers, ("flatten", Flatten()))), LastLayerNormalization(2), SHAPE)
    proven = lipjax.prove(model, initialised(model))
    assert proven.rounding == np.inf
    np.testing.assert_array_equal(proven.certify(images, np.zeros(2, int)).radius, 0)


def test_a_layer_or_head_that_states_no_rounding_is_said_to():
    class Silent(Layer):
        @nn.compact
        def __call__(self, x, train=False):
            return x + 0

        @nn.nowrap
        def proof(self, own, shape):
            return isometry("silent", "nothing moves")

    class Renamed(LastLayerNormalization):
        """Its own certifier; the rounding that it inherits is that of another head."""

        def certifier(self, own, curvature_file=None):
            given = super().certifier(own)
            return lambda features, labels, rivals=None: given(features, labels, rivals)

    image = np.full((1, *SHAPE), 0.3, np.float32)
    for layers, head, kind in (
        (Sequential((("silent", Silent()), ("flatten", Flatten()))), LastLayerNormalization(2), "silent"),
        (Sequential((("flatten", Flatten()),)), Renamed(2), "last-layer normalization"),
    ):
        model = Network(layers, head, SHAPE)
        proven = lipjax.prove(model, initialised(model))
        assert (proven.rounding, proven.unproven) == (None, [kind])
        assert proven.certify(image, [0]).protocol == f"proof in real arithmetic: of {kind} no rounding is stated"
    model = Network(Flatten(), LastLayerNormalization(2), SHAPE)
    assert lipjax.prove(model, initialised(model)).certify(image, [0]).protocol == "proof"


def test_precision_is_checked(images):
    model = Network(Flatten(), LastLayerNormalization(2), SHAPE)
    variables = initialised(model)
    with pytest.raises(ValueError, match=r"precision='bfloat16': must be one of \('float64', 'float32'\)"):
        lipjax.prove(model, variables, precision="bfloat16")
    with pytest.raises(ValueError, match="images: dtype must be float32 for a program in float32, got float64"):
        lipjax.prove(model, variables, precision="float32").certify(images.astype(float), [0, 0])


def test_the_attack_is_there_for_every_network(images):
    model = Network(backbone(), LastLayerNormalization(3), SHAPE)
    proven = lipjax.prove(model, initialised(model))
    labels, radii = proven.predict(images)
    inside = proven.attack(images, labels, radii)
    assert (inside.margins > 0).all()
    outside = proven.attack(images, labels, np.full(2, 2.0), strength="strong")
    assert (np.sqrt(((outside.images - images) ** 2).sum((1, 2, 3))) <= 2 + 1e-5).all()
    wrong = outside.margins <= 0
    assert wrong.any()
    assert (proven.certify(np.clip(outside.images, 0, 1)[wrong], labels[wrong]).radius >= 0).all()
    for bad, message in (
        ({"radii": -1.0}, "radii: must be a number >= 0"),
        ({"radii": np.zeros(3)}, "radii: must be a number >= 0 or 2 of them"),
        ({"strength": "weak"}, "strength='weak': must be one of"),
        ({"labels": np.array([0, 7])}, "labels: must lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            proven.attack(**({"images": images, "labels": labels, "radii": radii} | bad))


def test_numbers_that_overflow_inside_a_container_are_seen():
    """Made huge and small again: what comes out is of the size of what went in, and 0.2 in float64 is nan."""
    up = tuple((f"up{k}", InputScale(0.0, 1e-29)) for k in range(6))
    down = tuple((f"down{k}", InputScale(0.0, 1e29)) for k in range(6))
    inner = Sequential((*up, ("pool", Concatenate((("a", PointPool()), ("b", PointPool())))), *down))
    for layer in (inner, Residual(Sequential((*up, *down)), 0.5)):
        model = Network(Sequential((("inner", layer), ("flatten", Flatten()))), LastLayerNormalization(2), (1, 1, 2))
        variables = jax.device_get(dict(model.init(jax.random.key(0), np.zeros((1, 1, 1, 2), np.float32))))
        proven = lipjax.prove(model, variables)
        assert proven.rounding == np.inf
        assert (proven.certify(np.zeros((2, 1, 1, 2)), [0, 1]).radius == 0).all()


def tiny_network(head, params, std, dtype=np.float32):
    model = Network(Sequential((("input", InputScale(0.0, std)), ("flatten", Flatten()))), head, (1, 1, 2))
    return lipjax.prove(model, {"params": {"head": params}}, precision=np.dtype(dtype).name)


def test_what_underflows_in_a_head_is_taken_off():
    """Products of normal numbers that float32 takes for 0: a tie, which 0.1 would have certified."""
    x = np.array([0.1, 0.3], np.float32).reshape(1, 1, 1, 2)
    eye, diagonal = np.eye(2, dtype=np.float32), np.diag(np.full(2, 1e-37)).astype(np.float32)
    crc = {"w1": eye, "b1": np.float32([-5, -6]), "w2": diagonal, "b2": np.zeros(2, np.float32)}
    lln = {"weight": np.float32([[1, 1e-3], [1, -1e-3]]), "bias": np.zeros(2, np.float32)}
    for head, params, std in ((CurvatureHead(2, 2), crc, 0.1), (LastLayerNormalization(2), lln, 1e29)):
        proven = tiny_network(head, params, std)
        scaled = x if std == 0.1 else np.float32([0, 1e-7]).reshape(1, 1, 1, 2)
        for label in (0, 1):
            assert proven.certify(scaled, [label]).radius[0] == 0
    with pytest.raises(ValueError, match=r"precision='float32': .*w2.* has subnormal numbers"):
        tiny_network(CurvatureHead(2, 2), crc | {"w2": diagonal * np.float32(1e-2)}, 0.1)
    with pytest.raises(ValueError, match=r"InputScale: std must be from 1e-30 to 1e\+30"):
        tiny_network(LastLayerNormalization(2), lln, 6e37)
    with pytest.raises(ValueError, match="Residual: a must be 0 or at least 1e-30"):
        Residual(MaxMin(), 1e-39)


def test_kernels_that_underflow_where_they_are_normalised_are_proven_in_real_arithmetic_only():
    model = Network(
        Sequential((("c", SkewOrthogonalConv(2, 1)), ("f", Flatten()))), LastLayerNormalization(2), (1, 1, 2)
    )
    variables = jax.device_get(dict(model.init(jax.random.key(0), np.zeros((1, 1, 1, 2), np.float32))))
    assert lipjax.prove(model, variables).unproven == []
    variables["spectral"]["c"]["norm"] = np.float32(3e38)
    assert len(lipjax.prove(model, variables).unproven) == 1


def test_an_image_whose_margin_is_below_the_slack_is_still_predicted_right():
    """Radius 0, as rounding decides; but the class is that of the program."""
    model, variables = shifted(1e3)
    proven = lipjax.prove(model, variables)
    image = np.array([0.25, 0.25 - 2e-13]).reshape(1, 1, 1, 2)
    assert proven.predict(image)[0].tolist() == [0]
    found = proven.certify(image, [0])
    assert (found.radius[0], found.prediction[0]) == (0, 0)
    assert proven.certify(image, [1]).prediction[0] == 0
