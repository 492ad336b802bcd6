"""Networks of one's own: what is proven is what is run, and what could part the two is refused by name."""

import math
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lipjax
from lipjax.certificates import Certificate, certify_lln
from lipjax.certificates.certificate import over_bound
from lipjax.layers import (
    Concatenate,
    CurvatureHead,
    Flatten,
    InputScale,
    LastLayerNormalization,
    Layer,
    MaxMin,
    MaxPool,
    PointPool,
    PolylinePool,
    ProjectionPool,
    Proof,
    Recomputed,
    Residual,
    Sequential,
    SkewOrthogonalConv,
    SpaceToDepth,
    Split,
    isometry,
)
from lipjax.models import Classifier, Network

SHAPE = (4, 4, 1)
HEADS = {"lln": LastLayerNormalization(3), "crc": CurvatureHead(3, 16)}


class Scaled(Layer):
    """x → scale·x + shift, with the bound that it is told to state."""

    scale: float = 3.0
    shift: float = 0.0
    stated: float | None = None

    @nn.compact
    def __call__(self, x, train=False):
        return self.scale * x + self.shift

    @nn.nowrap
    def proof(self, own, shape):
        stated = self.scale if self.stated is None else self.stated
        return Proof("a multiple", stated, "the factor", abs(self.shift) * math.sqrt(math.prod(shape)))

    @nn.nowrap
    def estimate(self, own, shape):
        return self.scale


def network(head="lln", pool=None, between=(), image_shape=SHAPE):
    layers = (
        ("input", InputScale(0.5, 0.25)),
        ("conv0", SkewOrthogonalConv(2)),
        ("act0", MaxMin()),
        ("down0", SpaceToDepth()),
        ("residual", Residual(Sequential((("conv1", SkewOrthogonalConv(8)), ("act1", MaxMin()))))),
        ("down1", SpaceToDepth()),
        *between,
        ("pool", pool or ProjectionPool()),
        ("flatten", Flatten()),
    )
    return Network(Sequential(layers), HEADS[head], image_shape)


def images(count=20, dtype=np.float32):
    return np.random.default_rng(0).uniform(size=(count, *SHAPE)).astype(dtype)


def made(model):
    return jax.jit(model.init)(jax.random.key(0), images(1))


def jacobians(proven, count=20):
    with jax.enable_x64(True):
        features = jax.vmap(jax.jacobian(lambda x: proven.outputs(x[None], jnp.float64)[0][0]))
        return np.asarray(features(jnp.asarray(images(count, np.float64)))).reshape(count, -1, math.prod(SHAPE))


@pytest.mark.parametrize(
    ("head", "pool"), [("lln", ProjectionPool()), ("crc", PolylinePool()), ("lln", PointPool()), ("lln", MaxPool())]
)
def test_the_bound_holds_and_no_step_inside_a_radius_changes_the_class(head, pool):
    model = network(head, pool)
    variables = model.tightened(made(model))
    proven = lipjax.prove(model, variables)
    links = dict(proven.proof.links())
    assert list(links)[:5] == ["input", "conv0", "act0", "down0", "residual/conv1"]
    np.testing.assert_allclose(proven.lipschitz_bound, 4, rtol=1e-2)
    assert all(link.lipschitz <= 1 for name, link in links.items() if name != "input")
    assert np.linalg.norm(jacobians(proven), 2, axis=(1, 2)).max() <= proven.lipschitz_bound
    classes, radii = proven.predict(images())
    np.testing.assert_array_equal(classes, np.argmax(model.apply(variables, images()), axis=1))
    assert (radii > 0).all()
    np.testing.assert_array_equal(radii, lipjax.certify(model, variables, images(), classes).radius)

    directions = np.random.default_rng(1).normal(size=(200, 20, *SHAPE))
    directions /= np.sqrt((directions**2).sum(axis=(2, 3, 4), keepdims=True))
    moved = (images() + 0.999 * radii[:, None, None, None] * directions).astype(np.float32)
    assert (np.argmax(jax.vmap(proven.logits)(moved), axis=-1) == classes).all()


def test_radii_are_those_of_the_head_over_the_bound():
    model = network()
    variables = made(model)
    proven = lipjax.prove(model, variables)
    labels = proven.predict(images())[0]
    head = variables["params"]["head"]
    features = np.asarray(model.apply(variables, images(), method="features"))
    of_head = certify_lln(features, head["weight"], head["bias"], labels).radius / proven.lipschitz_bound
    certificate = proven.certify(images(), labels)
    # Features computed with and without jit differ by float32 rounding.
    np.testing.assert_allclose(certificate.radius, of_head, rtol=0, atol=1e-6)
    less = proven.certify(images(), labels, float_slack=0.01)
    bound = proven.lipschitz_bound
    np.testing.assert_allclose(less.radius, np.maximum(certificate.radius - 0.01 / bound, 0), rtol=0, atol=1e-15)
    in_features = proven.certify_head(proven.features(images()), labels).radius
    exact = [(Fraction(r) - Fraction(0.01)) / Fraction(bound) for r in in_features]
    assert all(Fraction(r) <= e or r == 0 for r, e in zip(less.radius, exact, strict=True))


def test_it_is_a_lipconvnet_layer_by_layer():
    """A LipConvnet written out by hand is `LipConvnet`, to the last bit."""
    model = lipjax.LipConvnet(init_channels=2, input_size=8, in_channels=1)
    layers = [("input", InputScale(0.5, 0.2507))]
    for step in model.steps():
        layers += [(f"{step.name}_r", SpaceToDepth())] * step.rearrange
        layers += [(step.name, SkewOrthogonalConv(step.features, step.kernel_size))]
        layers += [(f"{step.name}_a", MaxPool() if step.pool else MaxMin())]
    by_hand = Network(Sequential((*layers, ("flatten", Flatten()))), LastLayerNormalization(10), (8, 8, 1))
    x = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, by_hand.init(jax.random.key(0), x), variables)
    labels = np.arange(5)
    expected, found = (lipjax.certify(net, variables, x, labels) for net in (model, by_hand))
    np.testing.assert_array_equal(found.radius, expected.radius)
    for method in ("tightened", "settled", "projected"):
        changed, by_hands = (getattr(net, method)(variables) for net in (model, by_hand))
        jax.tree.map(np.testing.assert_array_equal, changed, by_hands)
    assert by_hand.decayed(variables["params"]) == model.decayed(variables["params"])
    assert model.decayed(variables["params"])["stem"] == {"kernel": True, "bias": False}


class Ends(Layer):
    """(N, …) → (N, D) with the norm 2: a concatenation of x, √3 x."""

    @nn.compact
    def __call__(self, x, train=False):
        x = x.reshape(len(x), -1)
        return jnp.concatenate([x, math.sqrt(3) * x], axis=-1)

    @nn.nowrap
    def proof(self, own, shape):
        return Proof("x beside √3 x", 2.0, "1 + 3 = 2²")

    @nn.nowrap
    def estimate(self, own, shape):
        return 2.0


@pytest.mark.parametrize(
    ("layer", "true"),
    [
        (Sequential((("a", Scaled(3.0)), ("b", Scaled(0.5)))), 1.5),
        (Residual(Scaled(3.0), 0.25), 1.5),
        (Residual(Scaled(3.0), 0.0), 1.0),
        (Residual(Residual(Scaled(5.0), 0.5), 0.5), 2.0),
        (Concatenate((("a", Scaled(3.0)), ("b", Scaled(4.0)))), 5.0),
        (Split((("a", Scaled(3.0)), ("b", Scaled(4.0))), (1, 2)), 4.0),
        (Sequential((("e", Ends()),)), 2.0),
    ],
)
def test_containers_are_bounded_from_both_sides(layer, true, float64):
    """All layers here are multiples, so that the bounds of containers are attained."""
    proof = layer.proof({}, (2, 2, 3))
    jacobian = jax.jacobian(lambda x: layer.evaluate({}, x[None])[0].ravel())(jnp.ones((2, 2, 3)))
    norm = np.linalg.norm(np.asarray(jacobian).reshape(-1, 12), 2)
    np.testing.assert_allclose(norm, true, rtol=1e-12)
    assert true <= proof.lipschitz <= true * (1 + 1e-14)
    np.testing.assert_allclose(layer.estimate({}, (2, 2, 3)), true, rtol=1e-14)
    model = Network(layer, LastLayerNormalization(3), (2, 2, 3))
    np.testing.assert_allclose(model.estimated_bound({}), true, rtol=1e-14)


@pytest.mark.parametrize(
    ("layer", "true"),
    [
        (Sequential((("a", Scaled(3.0, 1.0)), ("b", Scaled(0.5, 0.25)))), 0.75),
        (Residual(Scaled(3.0, 2.0), 0.25), 0.5),
        (Concatenate((("a", Scaled(3.0, 3.0)), ("b", Scaled(4.0, 4.0)))), 5.0),
        (Split((("a", Scaled(3.0, 1.0)), ("b", Scaled(4.0, 1.0))), (1, 2)), 1.0),
    ],
)
def test_offsets_bound_what_zero_becomes(layer, true, float64):
    offset = layer.proof({}, (2, 2, 3)).offset
    at_zero = np.linalg.norm(np.asarray(layer.evaluate({}, jnp.zeros((1, 2, 2, 3)))))
    np.testing.assert_allclose(at_zero, true * math.sqrt(12), rtol=1e-12)
    assert at_zero <= offset <= at_zero * (1 + 1e-12)


def test_offsets_of_the_library_s_layers_bound_what_zero_becomes():
    for pool in (PolylinePool(), PolylinePool(start="max"), PointPool(), MaxPool(), ProjectionPool()):
        model = network(pool=pool)
        variables = made(model)
        shape = SHAPE
        for name, layer in model.backbone.layers:
            own = lipjax.layers.layer.own_of(variables, name)
            value = np.linalg.norm(np.float64(layer.evaluate(own, jnp.zeros((1, *shape)))))
            assert value <= layer.proof(own, shape).offset * (1 + 1e-6)
            shape = layer.output_shape(own, shape)


def test_a_stated_bound_counts_and_must_be_a_number():
    plain = network()
    variables = made(plain)
    bound = plain.lipschitz_bound(variables)
    np.testing.assert_allclose(network(between=(("x", Scaled()),)).lipschitz_bound(variables), 3 * bound, rtol=1e-14)
    for stated in (math.nan, -1.0, math.inf):
        with pytest.raises(ValueError, match=r"backbone/x: lipschitz must be a finite number >= 0, got"):
            lipjax.prove(network(between=(("x", Scaled(stated=stated)),)), variables)


# What a class may not do without a proof of its own.


def defines_call():
    class Tripled(MaxMin):
        @nn.compact
        def __call__(self, x, train=False):
            return 3 * x


def defines_a_part():
    class Loud(SkewOrthogonalConv):
        @nn.nowrap
        def _scaled(self, kernel, norm):
            return 30 * kernel


def defines_a_property():
    class Held(SkewOrthogonalConv):
        @property
        def held_norm(self):
            return 30.0


def defines_equality():
    class Equal(MaxMin):
        def __eq__(self, other):
            return True


def mixes_in():
    class Mixin:
        def __call__(self, x, train=False):
            return 3 * x

    class Mixed(Mixin, MaxMin):
        pass


def mixes_in_between():
    class Base(Layer):
        @nn.compact
        def __call__(self, x, train=False):
            return x

        @nn.nowrap
        def proof(self, own, shape):
            return isometry("", "")

        @nn.nowrap
        def evaluate(self, own, x):
            return 3 * x

    class Between(MaxMin, Base):
        pass


def has_no_proof():
    class Unproven(Layer):
        @nn.compact
        def __call__(self, x, train=False):
            return 3 * x


def hides_a_method_in_a_field():
    class Field(SkewOrthogonalConv):
        polynomial: object = property(lambda self: None)


def is_lifted():
    nn.jit(SkewOrthogonalConv)


def changes_a_head():
    class Larger(LastLayerNormalization):
        @nn.compact
        def __call__(self, features, train=False):
            return 3 * features


def changes_a_network():
    class Other(lipjax.LipConvnet):
        def features(self, x, train=False):
            return 3 * super().features(x, train)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (defines_call, "Tripled: Tripled defines __call__ and no proof"),
        (defines_a_part, "Loud: Loud defines _scaled and no proof"),
        (defines_a_property, "Held: Held defines held_norm and no proof"),
        (defines_equality, "Equal: Equal defines .*__eq__.* and no proof"),
        (mixes_in, "Mixed: Mixin defines .*__call__.* and no proof"),
        (mixes_in_between, "Between: a base comes between MaxMin"),
        (has_no_proof, "Unproven: Unproven defines __call__ and no proof"),
        (hides_a_method_in_a_field, "Field: Field defines polynomial and no proof"),
        (is_lifted, "defines .* and no proof"),
        (changes_a_head, "Larger: Larger defines __call__ and no certifier"),
        (changes_a_network, "Other: a network defines parts and fields, not features"),
    ],
)
def test_a_class_that_changes_what_is_computed_is_refused_where_it_is_defined(definition, message):
    with pytest.raises(TypeError, match=message):
        definition()


def test_a_subclass_that_sets_fields_or_states_a_proof_is_none_of_these():
    class Wide(SkewOrthogonalConv):
        """Another default, nothing else."""

        features: int = 8

    class Stated(SkewOrthogonalConv):
        @nn.compact
        def __call__(self, x, train=False):
            return 3 * super().__call__(x, train)

        @nn.nowrap
        def proof(self, own, shape):
            proof = super().proof(own, shape)
            return proof._replace(lipschitz=3 * proof.lipschitz, offset=3 * proof.offset)

    own = Wide().init(jax.random.key(0), jnp.zeros((1, 4, 4, 8)))
    assert 3 * Wide().proof(own, (4, 4, 8)).lipschitz == Stated(8).proof(own, (4, 4, 8)).lipschitz


@pytest.mark.parametrize(
    "layer", [nn.Dense(4), nn.WeightNorm(nn.Dense(4)), nn.WeightNorm(SkewOrthogonalConv(8)), lambda x: x, nn.relu]
)
def test_what_states_no_proof_is_no_layer(layer):
    for make in (
        lambda: network(between=(("x", layer),)),
        lambda: Residual(layer),
        lambda: Network(layer, HEADS["lln"]),
    ):
        with pytest.raises(TypeError, match="must be a lipjax Layer, which states its proof"):
            make()
    with pytest.raises(TypeError, match="is none"):
        Network(Flatten(), layer)
    with pytest.raises(TypeError, match=r"is no lipjax Classifier|no lipjax"):
        lipjax.prove(layer, {})


def test_an_interceptor_finds_nobody_at_work():
    model = network()
    variables = made(model)
    proven = lipjax.prove(model, variables)

    def triple(method, arguments, keywords, context):
        return 3 * method(*arguments, **keywords)

    with nn.intercept_methods(triple):
        for act in (
            lambda: lipjax.prove(model, variables),
            lambda: proven.features(images()),
            lambda: lipjax.certify(model, variables, images(), np.zeros(20, int)),
        ):
            with pytest.raises(ValueError, match="interceptor is at work"):
                act()


def test_what_is_changed_after_the_proof_is_not_run():
    mean = np.array([0.5])
    scale = InputScale(mean, 0.25)
    mean += 100
    assert scale.mean == (0.5,)
    model = network()
    variables = jax.tree.map(np.array, made(model))
    proven = lipjax.prove(model, variables)
    before = proven.features(images())
    variables["params"]["conv0"]["kernel"] *= 100
    np.testing.assert_array_equal(proven.features(images()), before)


def test_a_bound_module_is_run_with_the_variables_that_were_proven():
    model = network()
    variables = made(model)
    other = jax.tree.map(lambda leaf: 100 * leaf, variables)
    bound = model.bind(other)
    first, second = (lipjax.prove(m, variables).features(images()) for m in (model, bound))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("name", "value"), [("mean", (0.1, 0.2, 0.3)), ("std", (0.1, 0.2))])
def test_more_means_than_channels_are_no_broadcast(name, value):
    """Three means on one channel would make three channels, and distances √3 times as large."""
    layer = InputScale(**{name: value})
    for act in (lambda: layer.apply({}, jnp.zeros((1, *SHAPE))), lambda: layer.proof({}, SHAPE)):
        with pytest.raises(ValueError, match=rf"{name} must be 1 number or 1, one per channel, got {len(value)}"):
            act()


def test_variables_of_half_precision_or_not_finite_are_named():
    model = network()
    variables = made(model)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables)
    with pytest.raises(ValueError, match=r"variables: params/.* must be float32 or float64, got bfloat16"):
        lipjax.prove(model, half)
    params = {**variables["params"], "conv0": {**variables["params"]["conv0"], "bias": jnp.full(2, jnp.inf)}}
    with pytest.raises(ValueError, match="variables: params/conv0/bias has entries that are not finite"):
        lipjax.prove(model, {**variables, "params": params})


def test_a_curvature_file_of_another_head_is_not_used(tmp_path):
    model = network("crc")
    variables = made(model)
    file = tmp_path / "curvature.npz"
    labels = np.zeros(20, int)
    lipjax.prove(model, variables, curvature_file=file).certify(images(), labels)
    assert file.exists()
    head = {**variables["params"]["head"], "w1": 10 * variables["params"]["head"]["w1"]}
    other = {**variables, "params": {**variables["params"], "head": head}}
    expected = lipjax.certify(model, other, images(), labels)
    found = lipjax.prove(model, other, curvature_file=file).certify(images(), labels)
    np.testing.assert_array_equal(found.radius, expected.radius)


def test_sums_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="must have the shape"):
        Residual(MaxPool()).proof({}, (2, 2, 2))  # (…, 2) + (…, 1) would be broadcast
    with pytest.raises(ValueError, match=r"channels=\(1, 1\) must add up to the 3"):
        Split((("a", MaxPool()), ("b", MaxPool())), (1, 1)).proof({}, (2, 2, 3))


@pytest.mark.parametrize("a", [-0.1, 1.1, "1", math.nan])
def test_weights_of_a_sum_outside_0_1(a):
    with pytest.raises(ValueError, match=r"a must be a number in \[0, 1\]"):
        Residual(MaxMin(), a)


def test_names_of_layers():
    with pytest.raises(ValueError, match="two layers have the name 'a'"):
        Sequential((("a", MaxMin()), ("", Sequential((("a", MaxMin()),)))))
    with pytest.raises(ValueError, match="without '/'"):
        Sequential((("a/b", MaxMin()),))
    with pytest.raises(TypeError, match="tuple of"):
        Sequential([MaxMin()])


@pytest.mark.parametrize("slack", [-1.0, float("nan"), float("inf")])
def test_bad_slack(slack):
    model = network()
    with pytest.raises(ValueError, match="float_slack"):
        lipjax.certify(model, made(model), images(), np.zeros(20, int), float_slack=slack)


def test_image_shapes():
    model = network(image_shape=None)
    variables = made(model)
    with pytest.raises(ValueError, match="give image_shape"):
        lipjax.prove(model, variables)
    proven = lipjax.prove(model, variables, SHAPE)
    with pytest.raises(ValueError, match=r"images: shape must be \(N, 4, 4, 1\)"):
        proven.features(np.zeros((1, 8, 8, 1), np.float32))
    with pytest.raises(ValueError, match="H and W even"):
        lipjax.prove(model, variables, (4, 6, 1))
    with pytest.raises(ValueError, match=r"image_shape=\(8, 8, 1\) must be \(4, 4, 1\)"):
        lipjax.prove(network(), variables, (8, 8, 1))
    with pytest.raises(ValueError, match="must end in features"):
        lipjax.prove(Network(SpaceToDepth(), HEADS["lln"], SHAPE), {"params": {}})


def test_proofs_are_printed_as_a_tree():
    model = network()
    text = str(lipjax.prove(model, made(model)).proof)
    assert text.startswith("one after the other: 4")
    assert "\n  residual  (1 − 0.5) x + 0.5 f(x): 1" in text


def test_classifiers_are_abstract():
    with pytest.raises(NotImplementedError):
        Classifier().parts()


def test_radii_are_divided_downwards(rng):
    """By rational arithmetic: no quotient is above the exact one."""
    radius = rng.uniform(0.1, 1.0, size=300)
    ones, whole = np.ones(300, bool), np.zeros(300, int)
    found = over_bound(Certificate(radius, whole, ones, radius, whole, "proof"), 3.7)
    for r, quotient, upper in zip(radius, found.radius, found.upper, strict=True):
        assert Fraction(quotient) <= Fraction(r) / Fraction(3.7) <= Fraction(upper)


def test_folding_keeps_a_container_of_another_class(rng):
    """One that computes something of its own, and states it, is not folded to the class that it inherits from."""

    class Halved(Sequential):
        @nn.compact
        def __call__(self, x, train=False):
            return super().__call__(x, train) / 2

        @nn.nowrap
        def evaluate(self, own, x):
            return super().evaluate(own, x) / 2

        @nn.nowrap
        def proof(self, own, shape):
            return super().proof(own, shape)

    inner = Halved((("conv", SkewOrthogonalConv(2)),))
    layers = (("input", InputScale(0.5, 0.25)), ("inner", inner), ("flatten", Flatten()))
    model = Network(Sequential(layers), LastLayerNormalization(3), SHAPE)
    variables = made(model)
    folded, own = lipjax.fold(model, variables)
    assert type(dict(folded.backbone.layers)["inner"]) is Halved
    np.testing.assert_allclose(
        folded.apply(own, images(), method="features"), model.apply(variables, images(), method="features"), atol=1e-5
    )


def test_what_is_recomputed_keeps_its_bound():
    assert Recomputed(Scaled(3.0, 2.0)).proof({}, SHAPE) == Scaled(3.0, 2.0).proof({}, SHAPE)
    assert Recomputed(Scaled(3.0)).proof({}, SHAPE).lipschitz == 3.0
