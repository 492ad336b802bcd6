"""The false certificates of lipjax 0.1: the bound of one computation with the features of another.

Each is written down here: the radius that version gave, and a point inside it, found by descent in float64, that the
network which ran classifies as something else.  This version refuses each, or runs what it has proven.
"""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lipjax
from lipjax import ops
from lipjax.certificates import certify_crc, certify_lln
from lipjax.certificates.curvature_cache import CurvatureCache
from lipjax.layers import (
    CurvatureHead,
    Flatten,
    InputScale,
    LastLayerNormalization,
    MaxMin,
    Sequential,
    SkewOrthogonalConv,
)
from lipjax.layers.curvature_head import softplus_mlp
from lipjax.models import Network

SHAPE = (4, 4, 1)
# Orthogonal in evaluation, far from it in training.
PAPER = {"polynomial": ops.polynomials.Polynomial((4.0,)), "eval_polynomial": ops.taylor(15)}


def model_of(conv=SkewOrthogonalConv(4), activation=MaxMin(), scale=InputScale(0.5, 0.5)):  # noqa: B008
    layers = (("input", scale), ("conv", conv), ("activation", activation), ("flatten", Flatten()))
    return Network(Sequential(layers), LastLayerNormalization(3), SHAPE)


def made(model):
    """Variables in the precision that is at work."""
    rng, zero = np.random.default_rng(0), jnp.zeros((1, *SHAPE))
    variables = jax.tree.map(np.array, dict(model.init(jax.random.key(0), zero)))
    variables["params"]["head"] = {"weight": rng.normal(size=(3, 64)), "bias": np.zeros(3)}
    return jax.tree.map(np.array, model.tightened(jax.tree.map(lambda leaf: jnp.asarray(leaf, zero.dtype), variables)))


def larger_kernel(variables):
    conv = {**variables["params"]["conv"], "kernel": 5 * variables["params"]["conv"]["kernel"]}
    return {**variables, "params": {**variables["params"], "conv": conv}}


def layer_by_layer(variables, x, after=lambda name, x: x, train=False, conv=SkewOrthogonalConv(4)):  # noqa: B008
    for name, layer in model_of(conv).backbone.layers:
        own = lipjax.layers.layer.own_of(variables, name)
        x = after(name, layer.apply(own, x, train) if train else layer.apply(own, x))
    return x


def tripled(variables, x):
    return layer_by_layer(variables, x, lambda name, x: 3 * x if name == "activation" else x)


EXECUTED = {
    "a subclass that computes something else": (model_of(), tripled),
    "a mixin": (model_of(), tripled),
    "an interceptor": (model_of(), tripled),
    "nn.WeightNorm": (model_of(), lambda variables, x: layer_by_layer(larger_kernel(variables), x)),
    "a module bound to other variables": (model_of(), lambda v, x: layer_by_layer(larger_kernel(v), x)),
    "evaluated as in training": (
        model_of(SkewOrthogonalConv(4, **PAPER)),
        lambda variables, x: layer_by_layer(variables, x, train=True, conv=SkewOrthogonalConv(4, **PAPER)),
    ),
}


def descent(logits, x, label, radius, steps=60):
    """The point of smallest margin that projected gradient descent finds in float64 at a distance below the radius."""

    @jax.jit
    def margin(x):
        f = logits(x[None])[0]
        return f[label] - jnp.max(jnp.where(jnp.arange(len(f)) == label, -jnp.inf, f))

    best, delta, gradient = (np.inf, x), np.zeros_like(x), jax.jit(jax.grad(margin))
    for step in range(steps):
        g = np.asarray(gradient(x + delta))
        delta = delta - radius * (1 - step / steps) * g / np.linalg.norm(g)
        delta *= min(1.0, 0.999 * radius / np.linalg.norm(delta))
        best = min(best, (float(margin(x + delta)), x + delta), key=lambda found: found[0])
    assert np.linalg.norm(best[1] - x) < radius
    return best


@pytest.mark.parametrize("name", EXECUTED)
def test_what_it_would_have_certified_is_false(name, float64):
    model, executed = EXECUTED[name]
    variables = made(model)
    head, bound = variables["params"]["head"], model.lipschitz_bound(variables)
    rows = head["weight"] / np.linalg.norm(head["weight"], axis=1, keepdims=True)
    images = np.random.default_rng(1).uniform(0.2, 0.8, size=(4, *SHAPE))

    def logits(x):
        return executed(variables, x) @ rows.T

    labels = np.argmax(np.asarray(logits(images)), axis=1)
    radii = certify_lln(np.asarray(executed(variables, images)), head["weight"], head["bias"], labels).radius / bound
    margins = [descent(logits, x, label, radius)[0] for x, label, radius in zip(images, labels, radii, strict=True)]
    assert min(margins) < 0
    # The same descent against what is proven finds nothing.
    proven = lipjax.prove(model, variables)
    classes, honest = proven.predict(images)
    for x, label, radius in zip(images, classes, honest, strict=True):
        assert descent(proven.logits, x, label, radius)[0] > 0


def test_three_means_on_one_channel_are_a_broadcast(float64):
    """(x − (0.1, 0.2, 0.3)) / 0.5 of one channel: three channels, and distances √3 times as large as 1 / std says."""
    rng = np.random.default_rng(0)
    rows, images = np.repeat(rng.normal(size=(3, 16)), 3, axis=1), rng.uniform(size=(4, *SHAPE))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    def features(x):
        return ((x - np.array([0.1, 0.2, 0.3])) / 0.5).reshape(len(x), -1)

    labels = np.argmax(features(images) @ rows.T, axis=1)
    radii = certify_lln(features(images), rows, np.zeros(3), labels).radius * 0.5
    for x, label, radius in zip(images, labels, radii, strict=True):
        assert descent(lambda x: features(x) @ rows.T, x, label, radius)[0] < 0


def a_subclass():
    class Tripled(MaxMin):
        @nn.compact
        def __call__(self, x, train=False):
            return 3 * super().__call__(x, train)


def a_mixin():
    class Triple:
        def __call__(self, x, train=False):
            return 3 * super().__call__(x, train)

    class Mixed(Triple, MaxMin):
        pass


def evaluated_as_in_training():
    class Training(SkewOrthogonalConv):
        @nn.compact
        def __call__(self, x, train=True):
            return super().__call__(x, True)


def under_an_interceptor():
    def triple(method, arguments, keywords, context):
        return (
            3 * method(*arguments, **keywords) if isinstance(context.module, MaxMin) else method(*arguments, **keywords)
        )

    model = model_of()
    variables = made(model)
    with nn.intercept_methods(triple):
        lipjax.prove(model, variables)


def three_means():
    model = model_of(scale=InputScale((0.1, 0.2, 0.3), 0.5))
    lipjax.prove(model, made(model_of()))


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (a_subclass, TypeError, "Tripled defines __call__ and no proof of its own"),
        (a_mixin, TypeError, r"Triple defines __call__.* and no proof of its own"),
        (evaluated_as_in_training, TypeError, "Training defines __call__ and no proof of its own"),
        (lambda: model_of(nn.WeightNorm(SkewOrthogonalConv(4))), TypeError, "'conv' must be a lipjax Layer"),
        (under_an_interceptor, ValueError, "a Flax method interceptor is at work"),
        (three_means, ValueError, "mean must be 1 number or 1, one per channel, got 3"),
        (lambda: lipjax.prove(model_of(), made(model_of())).certify([], [], train=True), TypeError, "'train'"),
    ],
)
def test_each_is_refused(act, error, text):
    with pytest.raises(error, match=text):
        act()


def test_a_bound_module_runs_what_is_proven():
    model = model_of()
    variables = made(model)
    bound = model.bind(larger_kernel(variables))
    images = np.random.default_rng(1).uniform(size=(4, *SHAPE)).astype(np.float32)
    with contextlib.suppress(TypeError):  # a bound module may also be refused
        np.testing.assert_array_equal(
            lipjax.prove(bound, variables).features(images), lipjax.prove(model, variables).features(images)
        )


def test_the_curvature_of_another_head_is_false_and_not_used(tmp_path, float64):
    """A weak head's curvature bounds, kept in a file, give a strong head radii that are too large."""
    rng = np.random.default_rng(0)
    strong = {"w1": 2 * rng.normal(size=(16, 6)), "b1": rng.normal(size=16), "w2": rng.normal(size=(3, 16))}
    strong["b2"] = -strong["w2"] @ np.logaddexp(0, strong["b1"])
    weak = {**strong, "w1": 1e-3 * strong["w1"]}
    features = rng.uniform(size=(40, 6))
    labels = np.argmax(np.asarray(softplus_mlp(strong, features)), axis=1)
    kept = CurvatureCache(tmp_path / "curvature.npz", weak["w1"], weak["w2"])
    with pytest.raises(ValueError, match="a cache of another head"):
        certify_crc(features, strong, labels, curvature=kept)
    given = certify_crc(features, strong, labels, curvature=kept.bounds())
    assert given.protocol == "proof, if the curvature bounds that were given are those of this head"
    false = given.radius
    found = [
        descent(lambda y: softplus_mlp(strong, y.reshape(1, 6)), y, label, radius)[0]
        for y, label, radius in zip(features, labels, false, strict=True)
        if np.isfinite(radius)
    ]
    assert min(found) < 0

    model = Network(Flatten(), CurvatureHead(3, 16), (1, 2, 3))
    images, variables = features.reshape(-1, 1, 2, 3), {"params": {"head": strong}}
    proven = lipjax.prove(model, variables, curvature_file=tmp_path / "curvature.npz")
    np.testing.assert_array_equal(
        proven.certify(images, labels).radius, lipjax.prove(model, variables).certify(images, labels).radius
    )
