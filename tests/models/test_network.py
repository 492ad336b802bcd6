"""Users' own networks: the chain of proof, and what breaks it."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lipjax
from lipjax.layers.activations import MaxMin
from lipjax.layers.heads import CurvatureHead, LastLayerNormalization
from lipjax.layers.pooling import MaxPool, PointPool, PolylinePool, ProjectionPool
from lipjax.layers.proof import Link, product
from lipjax.layers.shapes import Flatten, InputScale, SpaceToDepth
from lipjax.layers.skew_orthogonal_conv import SkewOrthogonalConv
from lipjax.models import network

SHAPE = (4, 4, 1)


class Block(nn.Module):
    """A part of a network, which states no bound itself."""

    channels: int

    @nn.compact
    def __call__(self, x, train=False):
        x = SkewOrthogonalConv(self.channels)(x, train)
        x = MaxMin()(x)
        return SpaceToDepth()(x)


class Net(nn.Module):
    """`between` is computed after the blocks."""

    head: nn.Module
    between: object = None
    pool: type = ProjectionPool

    @nn.compact
    def __call__(self, x, train=False):
        x = InputScale(0.5, 0.25)(x)
        x = Block(2)(x, train)
        x = Block(8)(x, train)
        if self.between is not None:
            x = self.between(x)
        x = self.pool()(x)
        return self.head.copy(name="classifier")(Flatten()(x), train)


def images(count=20, dtype=np.float32):
    return np.random.default_rng(0).uniform(size=(count, *SHAPE)).astype(dtype)


HEADS = {"lln": LastLayerNormalization(3), "crc": CurvatureHead(3, 16)}


@pytest.mark.parametrize(
    ("head", "pool"), [("lln", ProjectionPool), ("crc", PolylinePool), ("lln", PointPool), ("lln", MaxPool)]
)
def test_the_bound_holds_and_an_attack_finds_nothing(head, pool):
    model = Net(HEADS[head], pool=pool)
    variables = network.tightened(model, model.init(jax.random.key(0), images()), SHAPE)
    links = network.chain_of_proof(model, variables, SHAPE)
    assert [link.layer for link in links][:3] == ["InputScale_0", "Block_0/SkewOrthogonalConv_0", "Block_0/MaxMin_0"]
    bound = product(links)
    np.testing.assert_allclose(bound, 4, rtol=1e-2)
    assert all(link.lipschitz <= 1 for link in links[1:])
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), dict(variables))
        jacobian = jax.vmap(jax.jacobian(lambda x: network.features(model, double, x[None])[0]))
        matrices = np.asarray(jacobian(jnp.asarray(images(20, np.float64)))).reshape(20, -1, 16)
    assert np.linalg.norm(matrices, 2, axis=(1, 2)).max() <= bound
    labels = np.argmax(model.apply(variables, images()), axis=1)
    certificate = lipjax.certify(model, variables, images(), labels)
    assert (certificate.radius > 0).all()

    directions = np.random.default_rng(1).normal(size=(200, 20, *SHAPE))
    directions /= np.sqrt((directions**2).sum(axis=(2, 3, 4), keepdims=True))
    inside = 0.999 * certificate.radius[:, None, None, None]
    moved = (images() + inside * directions).astype(np.float32)
    assert (np.argmax(jax.vmap(lambda x: model.apply(variables, x))(moved), axis=-1) == labels).all()


def test_radii_are_those_of_the_head_over_the_bound():
    model = Net(HEADS["lln"])
    variables = model.init(jax.random.key(0), images())
    labels = np.argmax(model.apply(variables, images()), axis=1)
    bound = product(network.chain_of_proof(model, variables, SHAPE))
    features = np.asarray(network.features(model, variables, images()))
    kind, head = network.head_of(model, variables, SHAPE)
    assert kind == "lln"
    expected = lipjax.certificates.certify_lln(features, head["weight"], head["bias"], labels).radius / bound
    certificate = lipjax.certify(model, variables, images(), labels)
    # Features computed with and without jit differ by float32 rounding.
    np.testing.assert_allclose(certificate.radius, expected, rtol=0, atol=1e-6)
    less = lipjax.certify(model, variables, images(), labels, float_slack=0.01)
    np.testing.assert_allclose(less.radius, np.maximum(certificate.radius - 0.01 / bound, 0), rtol=0, atol=1e-15)
    assert (less.radius <= certificate.radius - 0.01 / bound).all() or (less.radius == 0).any()


def test_it_is_a_lipconvnet_layer_by_layer():
    """A LipConvnet written out by hand has the bound of `LipConvnet.lipschitz_bound`."""

    class ByHand(nn.Module):
        model: lipjax.LipConvnet

        @nn.compact
        def __call__(self, x):
            mean, std = self.model.input_scale()
            x = InputScale(tuple(mean), tuple(std), name="input")(x)
            for step in self.model.steps():
                x = SpaceToDepth()(x) if step.rearrange else x
                x = SkewOrthogonalConv(step.features, step.kernel_size, name=step.name)(x)
                x = MaxPool()(x) if step.pool else MaxMin()(x)
            return LastLayerNormalization(10, name="head")(Flatten()(x))

    model = lipjax.LipConvnet(init_channels=2, input_size=8, in_channels=1)
    x = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    by_hand = ByHand(model)
    assert product(network.chain_of_proof(by_hand, variables, (8, 8, 1))) == model.lipschitz_bound(variables)
    labels = np.arange(5)
    expected, found = (lipjax.certify(net, variables, x, labels) for net in (model, by_hand))
    np.testing.assert_allclose(found.radius, expected.radius, rtol=0, atol=1e-6)  # float32 features
    assert (found.prediction == expected.prediction).all()
    tight = network.tightened(by_hand, variables, (8, 8, 1))["spectral"]
    jax.tree.map(np.testing.assert_array_equal, tight, model.tightened(variables)["spectral"])


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (lambda x: 2 * x, r"between Block_1/SpaceToDepth_0 \(SpaceToDepth\) and ProjectionPool_0 .* no layer"),
        (lambda x: x + MaxMin()(x), "between MaxMin_0"),
        (lambda x: x.reshape(len(x), -1), "between Block_1"),
        (nn.Dense(4), r"between \(Dense\): states no Lipschitz bound"),
        (lambda x: nn.BatchNorm(use_running_average=True)(x), r"BatchNorm_0 \(BatchNorm\): states no"),
        (lambda x: SkewOrthogonalConv(8)(x, True), r"SkewOrthogonalConv_0 .*with its input alone"),
        (lambda x: LastLayerNormalization(8)(x), "a head before the end"),
        (lambda x: MaxMin()(x).astype(jnp.bfloat16), "between MaxMin_0"),
    ],
)
def test_what_breaks_the_chain_is_named(between, message):
    model = Net(HEADS["lln"], between)
    variables = model.init(jax.random.key(0), images())
    with pytest.raises(ValueError, match=message):
        lipjax.certify(model, variables, images(), np.zeros(20, int))


class Sum(nn.Module):
    """Says that it is 1-Lipschitz, and reads a second value: an argument, or an attribute."""

    skip: Any = None

    @nn.compact
    def __call__(self, x, others=()):
        return x + (0 if self.skip is None else self.skip) + sum(others)

    def lipschitz_bound(self, variables, size):
        return 1.0


class TripledConv(SkewOrthogonalConv):
    """Has another __call__ than the one whose bound it inherits."""

    @nn.compact
    def __call__(self, x, train=False):
        return 3 * super().__call__(x, train)


class LoudConv(SkewOrthogonalConv):
    """Changes a part of what it inherits a proof for."""

    def _scaled(self, kernel, norm):
        return 30 * super()._scaled(kernel, norm)


class StatedConv(LoudConv):
    """States the bound of its own."""

    def lipschitz_bound(self, variables, size):
        return 1e6


class Tripled(nn.Module):
    @nn.compact
    def __call__(self, x):
        return 3 * x

    def lipschitz_bound(self, variables, size):
        return 3.0


class TripledMaxMin(Tripled):
    @nn.compact
    def __call__(self, x):
        return 9 * x


class Proving(nn.Module):
    bound: float

    @nn.compact
    def __call__(self, x):
        return 1 * x

    def proof(self, variables, size):
        return Link("", "", self.bound, "")

    def lipschitz_bound(self, variables, size):
        return self.bound


def test_a_subclass_that_states_a_bound_counts_with_it():
    model = Net(HEADS["lln"], lambda x: StatedConv(8)(x))
    variables = model.init(jax.random.key(0), images())
    links = {link.layer: link for link in network.chain_of_proof(model, variables, SHAPE)}
    assert links["StatedConv_0"].lipschitz == 1e6


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (lambda x: Sum()(MaxMin()(x), [x]), r"Sum_0 \(Sum\): reads more than its input"),
        (lambda x: Sum()(MaxMin()(x), others={"a": x}.values()), r"Sum_0 \(Sum\): reads more than its input"),
        (lambda x: Sum(skip=x)(MaxMin()(x)), r"Sum_0 \(Sum\): reads more than its input"),
        (lambda x: TripledConv(8)(x), r"TripledConv_0 .*of its own, only that of SkewOrthogonalConv"),
        (lambda x: LoudConv(8)(x), r"LoudConv_0 .*of its own, only that of SkewOrthogonalConv"),
        (lambda x: TripledMaxMin()(x), r"TripledMaxMin_0 .*of its own, only that of Tripled"),
        (lambda x: Proving(math.nan)(x), r"Proving_0 .*must be a finite number >= 0, got nan"),
        (lambda x: Proving(-1.0)(x), r"Proving_0 .*must be a finite number >= 0, got -1"),
    ],
)
def test_a_bound_of_something_else_is_refused(between, message):
    model = Net(HEADS["lln"], between)
    variables = model.init(jax.random.key(0), images())
    with pytest.raises(ValueError, match=message):
        network.chain_of_proof(model, variables, SHAPE)


def test_a_second_value_that_is_constant_is_no_second_input():
    model = Net(HEADS["lln"], lambda x: Sum(skip=2.0)(MaxMin()(x), [np.ones(1, np.float32)]))
    variables = model.init(jax.random.key(0), images())
    plain = product(network.chain_of_proof(Net(HEADS["lln"]), variables, SHAPE))
    assert product(network.chain_of_proof(model, variables, SHAPE)) == plain


def test_a_layer_of_ones_own_counts_with_the_bound_it_states():
    class Tripled(nn.Module):
        bound: float = 3.0

        @nn.compact
        def __call__(self, x):
            return 3 * x

        def lipschitz_bound(self, variables, size):
            assert size == 1
            return self.bound

    model = Net(HEADS["lln"], lambda x: Tripled()(x))
    variables = model.init(jax.random.key(0), images())
    plain = product(network.chain_of_proof(Net(HEADS["lln"]), variables, SHAPE))
    np.testing.assert_allclose(product(network.chain_of_proof(model, variables, SHAPE)), 3 * plain, rtol=1e-14)
    with pytest.raises(ValueError, match="must be a finite number"):
        network.chain_of_proof(Net(HEADS["lln"], lambda x: Tripled(float("nan"))(x)), variables, SHAPE)


class Ends(nn.Module):
    after: object

    @nn.compact
    def __call__(self, x):
        return self.after(Flatten()(x))


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (lambda x: x, "the last layer must be one of"),
        (lambda x: 2 * LastLayerNormalization(3)(x), "after LastLayerNormalization_0"),
        (lambda x: lipjax.LipConvnet(input_size=4, in_channels=1)(x.reshape(-1, 4, 4, 1)), "inside a network"),
    ],
)
def test_the_end_must_be_a_head(after, message):
    model = Ends(after)
    with pytest.raises(ValueError, match=message):
        network.chain_of_proof(model, model.init(jax.random.key(0), images()), SHAPE)


@pytest.mark.parametrize("slack", [-1.0, float("nan"), float("inf")])
def test_bad_slack(slack):
    model = Net(HEADS["lln"])
    variables = model.init(jax.random.key(0), images())
    with pytest.raises(ValueError, match="float_slack"):
        lipjax.certify(model, variables, images(), np.zeros(20, int), float_slack=slack)


def test_images_must_be_square():
    model = Net(HEADS["lln"])
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 16, 1), np.float32))
    with pytest.raises(ValueError, match=r"images must be square, got 8×16"):
        network.chain_of_proof(model, variables, (8, 16, 1))
