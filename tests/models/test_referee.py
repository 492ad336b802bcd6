"""What a hostile referee tried: each attack is refused, or what is certified holds at the point that it names."""

import copy
import dataclasses
import functools
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lipjax
from lipjax.layers import (
    AlmostOrthogonalConv,
    BlockReflectorConv,
    CayleyConv,
    Centring,
    Concatenate,
    ConvexPotential,
    CurvatureHead,
    Flatten,
    Head,
    Householder,
    InputScale,
    LastLayerNormalization,
    Layer,
    OrthogonalDense,
    PatchConv,
    PolylinePool,
    Proof,
    Residual,
    ResidualConv,
    SdpResidual,
    Sequential,
    SkewOrthogonalConv,
    StridedConv,
    isometry,
)
from lipjax.layers.almost_orthogonal_conv import scale_error
from lipjax.models import Classifier, Network
from lipjax.ops.polynomials import Polynomial

SHAPE = (1, 1, 2)
IMAGE = np.full(SHAPE, 0.5, np.float32)


def head_of(dimension, size=1.0):
    weight = np.zeros((2, dimension), np.float32)
    weight[:, 0] = size, -size
    return {"weight": weight, "bias": np.zeros(2, np.float32)}


def network(tested, dimension=2, **variables):
    """Logits ± (x_0 − 0.4) if the layer is the identity: the boundary is at 0.1 from IMAGE.  (model, variables)."""
    layers = (("input", InputScale(0.4, 1.0)), ("flatten", Flatten()), ("layer", tested))
    model = Network(Sequential(layers), LastLayerNormalization(2), SHAPE)
    return model, {"params": {"head": head_of(dimension), **variables}}


def steep(z):
    """Ten times as steep as the identity: the boundary is at 0.01 from IMAGE."""
    return 10 * z - 0.9


def in_place(own, z):
    return steep(z)


class Honest(Layer):
    """The identity."""

    factor = 1.0

    @nn.compact
    def __call__(self, x, train=False):
        return self.factor * x if self.factor == 1 else steep(x)

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("identity", "the identity")


def field_without_default():
    class Bad(Flatten):
        evaluate: Callable

    return Bad(evaluate=in_place)


def field_with_a_callable():
    class Bad(Flatten):
        evaluate: Any = functools.partial(in_place)

    return Bad()


def class_variable():
    class Bad(Flatten):
        evaluate: ClassVar[Any] = functools.partial(lambda self, own, z: steep(z))

    return Bad()


def field_named_apply():
    class Bad(Flatten):
        apply: Callable

    return Bad(apply=lambda own, z, *_: steep(z))


def field_named_as_a_part():
    class Bad(InputScale):
        _channels: Callable

    return Bad(_channels=lambda count: (np.full(count, 0.09), np.full(count, 0.1)))


def field_with_a_descriptor():
    class Descriptor:
        def __get__(self, instance, owner=None):
            return 1.0 if instance is None else 0.1

        def __set__(self, instance, value):
            pass

    class Bad(InputScale):
        std: Any = dataclasses.field(default=Descriptor())

    return Bad()


def field_over_a_constant():
    class Bad(Honest):
        factor: float = 10.0

    return Bad()


def constant_named_decayed():
    class Reads(Layer):
        @nn.compact
        def __call__(self, x, train=False):
            return steep(x) if self.decayed else x

        @nn.nowrap
        def proof(self, own, shape):
            return isometry("identity", "nothing decays")

    class Bad(Reads):
        decayed = ("x",)

    return Bad()


def set_after_the_class():
    class Bad(Flatten):
        pass

    Bad.evaluate = lambda self, own, z: steep(z)
    return Bad()


def called_after_the_class():
    class Bad(Honest):
        pass

    Bad.__call__ = lambda self, x, train=False: steep(x)
    return Bad()


def set_by_a_metaclass():
    class Meta(type(Flatten)):
        def __new__(cls, name, bases, names):
            made = super().__new__(cls, name, bases, names)
            made.evaluate = lambda self, own, z: steep(z)
            return made

    class Bad(Flatten, metaclass=Meta):
        pass

    return Bad()


def set_on_the_instance_by_a_metaclass():
    class Meta(type(Flatten)):
        def __call__(cls, *arguments, **keywords):
            made = super().__call__(*arguments, **keywords)
            object.__setattr__(made, "evaluate", in_place)
            return made

    class Bad(Flatten, metaclass=Meta):
        pass

    return Bad()


def mixin_that_hides_the_check():
    class Mixin:
        def __init_subclass__(cls, **keywords):
            nn.Module.__dict__["__init_subclass__"].__func__(cls, **keywords)

    class Bad(Mixin, Flatten):
        def evaluate(self, own, z):
            return steep(z)

    return Bad()


def base_that_hides_the_check():
    class Base(Honest):
        def __init_subclass__(cls, **keywords):
            nn.Module.__dict__["__init_subclass__"].__func__(cls, **keywords)

        @nn.nowrap
        def proof(self, own, shape):
            return isometry("identity", "the identity")

    class Bad(Base):
        @nn.compact
        def __call__(self, x, train=False):
            return steep(x)

    return Bad()


def set_on_the_instance():
    layer = Flatten()
    object.__setattr__(layer, "evaluate", in_place)
    return layer


def field_set_past_its_check():
    layer = Residual(Householder(), 0.5)
    object.__setattr__(layer, "a", -5.0)
    return layer


def number_that_lies():
    class Liar(float):
        def __le__(self, other):
            return True

        __ge__ = __le__

    return Residual(Householder(), Liar(6.0))


def polynomial_that_lies():
    class Liar(Polynomial):
        def gain(self, norm):
            return 1.0, 1.0

    return Sequential((("conv", SkewOrthogonalConv(2, 1, Liar((1.0,), 10.0))),))


def tuple_that_lies():
    class Liar(tuple):
        __slots__ = ()
        calls: ClassVar = []

        def __iter__(self):
            Liar.calls.append(None)
            more = (("more", InputScale(0.09, 0.1)),) if len(Liar.calls) > 3 else ()
            return iter([*tuple.__iter__(self), *more])

    return Sequential(Liar((("flatten", Flatten()),)))


def training_by_default():
    class Default(Layer):
        @nn.compact
        def __call__(self, x, train=True):
            return steep(x) if train else x

        @nn.nowrap
        def proof(self, own, shape):
            return isometry("identity", "in evaluation")

    return Default()


LAYERS = [
    *(field_without_default, field_with_a_callable, class_variable, field_named_apply, field_named_as_a_part),
    *(field_with_a_descriptor, field_over_a_constant, constant_named_decayed, set_after_the_class),
    *(called_after_the_class, set_by_a_metaclass, set_on_the_instance_by_a_metaclass, mixin_that_hides_the_check),
    *(base_that_hides_the_check, set_on_the_instance, field_set_past_its_check, number_that_lies),
    *(polynomial_that_lies, tuple_that_lies, training_by_default),
]


def moved(distance):
    other = IMAGE.copy()
    other[0, 0, 0] -= distance
    return other


def check_holds(proven, image=IMAGE, other=None):
    """The class does not change at a point inside the radius; the point is one that does so for the steep layer."""
    other = moved(0.02) if other is None else other
    (label,), (radius,) = proven.predict(image[None])
    assert np.argmax(proven.logits(jnp.asarray(image[None])), axis=1) == label
    if np.linalg.norm(np.float64(other) - image) < radius:
        logits = np.asarray(proven.logits(jnp.asarray(other[None])))[0]
        assert np.argmax(logits) == label
        assert logits.max() > np.delete(logits, label).max()
    return radius


@pytest.mark.parametrize("attack", LAYERS, ids=lambda attack: attack.__name__)
def test_a_layer_that_computes_another_thing_than_it_proves(attack):
    try:
        layer = attack()
        angles = {"layer": {"angle": np.zeros(1, np.float32)}} if isinstance(layer, Residual) else {}
        proven = lipjax.prove(*network(layer, **angles))
    except (TypeError, ValueError):
        return
    check_holds(proven)


def network_mixin():
    class Mixin:
        def __call__(self, x, train=False):
            return Network.__call__(self, 10 * x - 4.1, train)

    class Bad(Mixin, Network):
        pass

    return Bad


def network_set_after_the_class():
    class Bad(Network):
        pass

    Bad.__call__ = lambda self, x, train=False: Network.__call__(self, 10 * x - 4.1, train)
    return Bad


def network_field():
    class Bad(Classifier):
        classify: Callable

    return Bad


@pytest.mark.parametrize("attack", [network_mixin, network_set_after_the_class, network_field])
def test_a_network_that_runs_another_way(attack):
    model, variables = network(Honest())
    with pytest.raises(
        TypeError, match=r"a network defines parts and fields, not|has been changed since it was defined"
    ):
        lipjax.prove(attack()(model.backbone, model.head, SHAPE), variables)


def test_what_is_changed_after_the_proof_changes_nothing():
    polynomial = Polynomial((1.0,), 1.0)
    layers = (
        ("input", InputScale(0.4, 1.0)),
        ("conv", SkewOrthogonalConv(2, 1, polynomial)),
        ("flatten", Flatten()),
    )
    model = Network(Sequential(layers), LastLayerNormalization(2), SHAPE)
    variables = jax.tree.map(np.array, dict(model.init(jax.random.key(0), IMAGE[None])))
    proven = lipjax.prove(model, variables)
    before, in_float32 = proven.features(IMAGE[None]), np.asarray(proven.outputs(IMAGE[None])[0])
    object.__setattr__(layers[0][1], "std", 0.1)
    object.__setattr__(polynomial, "scale", 10.0)
    object.__setattr__(model.backbone, "layers", (*layers, ("more", InputScale(0.09, 0.1))))
    variables["params"]["conv"]["kernel"] *= 100
    np.testing.assert_array_equal(proven.features(IMAGE[None]), before)
    np.testing.assert_array_equal(proven.outputs(IMAGE[None])[0], in_float32)
    kernel = proven.variables["params"]["conv"]["kernel"]
    with pytest.raises(ValueError, match="WRITEABLE"):
        kernel.setflags(write=True)
    with pytest.raises(ValueError, match="immutable"):
        proven.variables["params"] = {}
    with pytest.raises(AttributeError, match="a Proven cannot be changed: lipschitz_bound"):
        proven.lipschitz_bound = 1e-9
    assert copy.deepcopy(proven) is copy.copy(proven) is proven
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(proven)


def test_bounds_of_numpy_are_multiplied_as_floats():
    """Squares and products of float16 bounds would vanish, or be rounded down."""

    class Scale(Layer):
        factor: float = 1.0
        stated: Any = 1.0

        @nn.compact
        def __call__(self, x, train=False):
            return self.factor * x

        @nn.nowrap
        def proof(self, own, shape):
            return Proof("scale", self.stated, "its factor")

    small = float(np.float16(1e-4))
    pair = Concatenate((("a", Scale(small, np.float16(1e-4))), ("b", Scale(small, np.float16(1e-4)))))
    layer = Sequential((("pair", pair), ("up", Scale(1e4, np.float32(1e4)))))
    proven = lipjax.prove(*network(layer, 4))
    assert proven.lipschitz_bound >= np.sqrt(2) * small * 1e4
    assert check_holds(proven, other=moved(0.2)) <= 0.11
    many = Sequential(tuple((f"s{i}", Scale(1.001, np.float16(1.001))) for i in range(60)))
    assert lipjax.prove(*network(many)).lipschitz_bound >= float(np.float16(1.001)) ** 60


@pytest.mark.parametrize("corner", [np.zeros((8, 1, 1)), np.inf, "4"])
def test_a_corner_is_one_number(corner):
    with pytest.raises(ValueError, match="PolylinePool: corner must be a finite number"):
        PolylinePool(3, "max", corner)


@pytest.mark.parametrize(
    "vertices",
    [[[0, 2e-25], [0, 0], [0, 1], [0, 2]], [[0, 0], [0, 1e-25], [0, 2e-25], [1, 1]], [[2, -1]] * 3 + [[-1e20, 3e19]]],
)
def test_polylines_beyond_float32_are_not_proven(vertices):
    own = {"layer": {"vertices": np.float32([vertices])}}
    with pytest.raises(ValueError, match="PolylinePool: vertices must lie within"):
        lipjax.prove(*network(PolylinePool(4), 1, **own))
    coinciding = {"layer": {"vertices": np.float32([[[0, 1], [0, 0], [0, 0], [1, 2]]])}}
    check_holds(lipjax.prove(*network(PolylinePool(4), 1, **coinciding)))


@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_rows_whose_norm_leaves_float32_are_refused(size):
    model, variables = network(Honest())
    variables["params"]["head"] = head_of(2, size)
    with pytest.raises(ValueError, match="LastLayerNormalization: weight row 0 has the largest entry"):
        lipjax.prove(model, variables)


def test_variables_in_float64_are_what_runs(float64):
    """0.1 let jax cast them: what ran was not what was proven.  A program in float32 refuses them."""
    model, variables = network(Honest())
    variables = jax.tree.map(lambda leaf: np.float64(leaf) * (1 + 1e-12), variables)
    under_float64 = lipjax.prove(model, variables).features(IMAGE[None])
    with jax.enable_x64(False):
        features = lipjax.prove(model, variables).features(IMAGE[None])
        with pytest.raises(ValueError, match="precision='float32': .* is float64, which would be rounded"):
            lipjax.prove(model, variables, precision="float32")
    assert features.dtype == np.float64
    np.testing.assert_array_equal(features, under_float64)


def test_images_are_apart():
    class Rows(Layer):
        @nn.compact
        def __call__(self, x, train=False):
            return x.reshape(x.shape[0] * x.shape[1], 1, *x.shape[2:])

        @nn.nowrap
        def proof(self, own, shape):
            return isometry("rows apart", "a permutation of the entries")

    layers = Sequential((("rows", Rows()), ("flatten", Flatten())))
    model = Network(layers, LastLayerNormalization(2), (2, 1, 2))
    with pytest.raises(ValueError, match=r"must end in features \(N, D\), got \(4, 2\) for 2 images"):
        lipjax.prove(model, {"params": {"head": head_of(2)}})


def test_a_head_that_trains_by_default_is_run_in_evaluation():
    class Default(Head):
        num_classes: int = 2

        @nn.compact
        def __call__(self, features, train=True):
            return steep(features) if train else features

        @nn.nowrap
        def certifier(self, own, curvature_file=None):
            return lambda features, labels, rivals=None: None

    own = {"params": {}}
    np.testing.assert_array_equal(Default().evaluate(own, np.ones((1, 2))), np.ones((1, 2)))


def test_a_curvature_head_beyond_float64_proves_nothing(float64):
    """‖g‖² underflows: the denominator of the bound would be 0."""
    rng = np.random.default_rng(1)
    w1, b1, w2 = rng.normal(size=(4, 2)), rng.normal(size=4), 1e-170 * rng.normal(size=(2, 4))
    z = np.full(2, 0.5) @ w1.T + b1
    slope = ((w2[0] - w2[1]) / (1 + np.exp(-z))) @ w1
    length = np.linalg.norm(slope * 1e170) * 1e-170
    values = np.logaddexp(0, z) @ w2.T
    head = {"w1": w1, "b1": b1, "w2": w2, "b2": np.array([0, values[0] - values[1] - 0.1 * length])}
    model = Network(Flatten(), CurvatureHead(2, 4), SHAPE)
    image = np.full(SHAPE, 0.5)
    assert (
        check_holds(
            lipjax.prove(model, {"params": {"head": head}}), image, image - (slope / length * 0.15).reshape(SHAPE)
        )
        < 0.15
    )


def test_networks_that_compare_equal_do_not_share_their_program():
    class Scale(Layer):
        factor: float = dataclasses.field(default=1.0, compare=False)

        @nn.compact
        def __call__(self, x, train=False):
            return self.factor * x

        @nn.nowrap
        def proof(self, own, shape):
            return Proof("scale", self.factor, "its factor")

    outputs = [lipjax.prove(*network(Scale(factor))).logits(IMAGE[None]) for factor in (0.1, 1.0)]
    np.testing.assert_allclose(outputs[1], 10 * np.asarray(outputs[0]), rtol=1e-6)


def test_an_interceptor_is_refused_wherever_the_network_runs():
    proven = lipjax.prove(*network(Honest()))

    def triple(method, arguments, keywords, context):
        return 3 * method(*arguments, **keywords)

    with nn.intercept_methods(triple), pytest.raises(ValueError, match="interceptor is at work"):
        proven.logits(IMAGE[None])
    check_holds(proven)


def test_a_layer_named_head_would_take_its_variables():
    with pytest.raises(ValueError, match="a layer has the name 'head'"):
        Network(Sequential((("head", Flatten()),)), LastLayerNormalization(2))


class Fickle(int):
    """1, or another number: its square root is `present`."""

    present = 1.0

    def __pow__(self, exponent):
        return Fickle.present


def test_a_number_is_the_same_in_the_proof_and_in_the_program(monkeypatch):
    kernel, ones = 9 * np.eye(2, dtype=np.float32)[None, None], np.ones(2, np.float32)
    own = {"layer": {"kernel": kernel, "gain": ones, "bias": -0.9 * ones}}
    layers = (("input", InputScale(0.4, 1.0)), ("layer", ResidualConv(Fickle(1), 1)), ("flatten", Flatten()))
    model = Network(Sequential(layers), LastLayerNormalization(2), SHAPE)
    monkeypatch.setattr(Fickle, "present", 1e9)  # 10 z − 0.9 seems to be z − 0.9
    proven = lipjax.prove(model, {"params": {"head": head_of(2), **own}})
    monkeypatch.setattr(Fickle, "present", 1.0)
    assert proven.certify(IMAGE[None]).radius[0] <= 0.01 + 1e-6


def test_a_gain_that_underflows_in_float32_is_none_that_is_certified():
    """K = 1 + 4 W g / 4 is 0, but the quotient of g = 2e-38 is subnormal, and the program may compute 1."""
    gain = np.float32(2e-38)
    kernel = np.float32(-2 / gain) * np.eye(2, dtype=np.float32)[None, None]
    own = {"layer": {"kernel": kernel, "gain": np.full(2, gain)}}
    layers = (("input", InputScale(0.4, 1.0)), ("layer", ResidualConv(4, 1, False)), ("flatten", Flatten()))
    model = Network(Sequential(layers), LastLayerNormalization(2), SHAPE)
    proven = lipjax.prove(model, {"params": {"head": head_of(2), **own}}, precision="float32")
    assert proven.certify(IMAGE[None]).radius[0] <= 0.1


def test_scales_that_leave_float32_state_no_rounding():
    kernel = np.full((3, 3, 2, 2), 9e14)
    assert scale_error(kernel) is None
    assert scale_error(kernel * 1e-2) is not None


def zeros(*shape):
    return np.zeros(shape, np.float32)


PLAIN = {"kernel": zeros(1, 1, 2, 2), "gain": zeros(2), "bias": zeros(2), "log_q": zeros(2)}
TRACKED = {"norm": np.float32(1), "matrix": np.eye(2, dtype=np.float32), "mean": zeros(2), "image": zeros(1, 1, 2)}
WITH_A_BIAS = {
    "skew orthogonal": SkewOrthogonalConv(2, 1),
    "residual": ResidualConv(1, 1),
    "strided": StridedConv(2, 1, 1),
    "almost orthogonal": AlmostOrthogonalConv(2, 1),
    "convex potential": ConvexPotential(2, 1),
    "SDP residual": SdpResidual(2, 1),
    "block reflector": BlockReflectorConv(2, 1, rank=2),
    "Cayley": CayleyConv(2, 1),
    "patches": PatchConv(2, 1),
    "dense": OrthogonalDense(2),
    "centring": Centring(),
}


@pytest.mark.parametrize("name", WITH_A_BIAS)
def test_a_bias_that_would_be_broadcast_is_refused(name):
    """Of images of one pixel it makes many, five times as far apart; of one number, an offset larger than is said."""
    for shape in [(5, 5, 2), (1,), (), (2, 1, 1, 2)]:
        own = {"params": {**PLAIN, "bias": np.ones(shape, np.float32)}, "spectral": TRACKED}
        with pytest.raises(ValueError, match="bias must have shape"):
            WITH_A_BIAS[name].proof(own, SHAPE if name != "dense" else (2,))


@pytest.mark.parametrize(
    ("layer", "variable", "shape"),
    [
        (Centring(), "mean", (3, 3, 2)),
        (OrthogonalDense(2), "matrix", (2, 1)),  # as many outputs as the bias has numbers, all the same
        (OrthogonalDense(2), "matrix", (4, 2)),
        (ConvexPotential(2, 1), "norm", (1,)),
        (ResidualConv(1, 1), "gain", (1,)),
        (SdpResidual(2, 1), "log_q", (1,)),
        (ResidualConv(1, 3), "kernel", (1, 1, 2, 2)),
        (CayleyConv(2, 1), "kernel", (1, 1, 3, 3)),
    ],
)
def test_variables_of_another_shape_are_refused(layer, variable, shape):
    collections = {"params": PLAIN, "spectral": TRACKED}
    own = {
        kind: {name: np.ones(shape, np.float32) if name == variable else leaf for name, leaf in tree.items()}
        for kind, tree in collections.items()
    }
    with pytest.raises(ValueError, match=f"{variable} must have shape"):
        layer.proof(own, SHAPE)
