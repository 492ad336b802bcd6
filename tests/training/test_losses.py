"""Each loss against its formula in numpy, the heads that carry it, and what a learned scale leaves as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import quiet, tiny_config

import lipjax
from lipjax import layers
from lipjax.certificates import certify_lln
from lipjax.checkpoint import Checkpoints
from lipjax.data import DataOptions
from lipjax.layers import CurvatureHead, LastLayerNormalization
from lipjax.layers.curvature_head import ritz_curvature
from lipjax.ops.curvature import curvature_bound
from lipjax.training.loop import train
from lipjax.training.losses import LOSSES, Moment
from lipjax.training.losses.crc import pair_curvature
from lipjax.training.losses.loss import logits_of
from lipjax.training.recipe import Recipe, with_targets

STD, CLASSES, DIMENSION, COUNT = 0.25, 4, 6, 8


@pytest.fixture(params=["lln", "crc"])
def situation(request, rng, float64):
    """(model, variables, features, labels, logits) of a head on random features."""
    head = LastLayerNormalization(CLASSES) if request.param == "lln" else CurvatureHead(CLASSES, hidden=5)
    scale = layers.InputScale((0.0,), STD)
    backbone = layers.Sequential((("scale", scale), ("flatten", layers.Flatten())))
    model = lipjax.Network(backbone, head, image_shape=(1, DIMENSION, 1))
    images = jnp.asarray(rng.uniform(size=(COUNT, 1, DIMENSION, 1)))
    variables = model.init(jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: jnp.asarray(2 * np.asarray(leaf), jnp.float64), {"spectral": {}, **variables})
    features, labels = model.apply(variables, images, method="features"), jnp.asarray(rng.integers(0, CLASSES, COUNT))
    return model, variables, features, labels, np.asarray(model.apply(variables, images))


def value(loss, situation, progress=1.0, parameters=None):
    model, variables, features, labels, _ = situation
    return loss(model, variables, features, labels, jax.random.key(1), Moment(jnp.asarray(progress), parameters or {}))[
        0
    ]


def entropies(logits, labels):
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]


def lowered(situation, offset):
    *_, labels, logits = situation
    return logits - offset * np.eye(CLASSES)[labels]


def test_cross_entropy(situation):
    expected = entropies(situation[-1], situation[-2]).mean()
    np.testing.assert_allclose(value(LOSSES["cross_entropy"](), situation), expected, rtol=1e-12)


def test_offset(situation):
    expected = 0.5 * entropies(lowered(situation, np.sqrt(2) * 0.3 / STD) / 0.5, situation[-2]).mean()
    loss = LOSSES["offset"](epsilon=0.3, temperature=0.5)
    np.testing.assert_allclose(value(loss, situation), expected, rtol=1e-12)


def test_logit_annealing(situation):
    entropy = entropies(lowered(situation, np.sqrt(2) * 0.2 / STD) / 0.75, situation[-2])
    expected = (0.75 * (1 - np.exp(-entropy)) ** 5 * entropy).mean()
    np.testing.assert_allclose(value(LOSSES["logit_annealing"](epsilon=0.2), situation), expected, rtol=1e-11)


def test_hinge_kr(situation):
    *_, labels, logits = situation
    margin = (logits[np.arange(COUNT), labels][:, None] - logits) / (np.sqrt(2) * 0.1 / STD)
    rivals = ~np.eye(CLASSES, dtype=bool)[labels]
    expected = (np.maximum(0, 1 - margin) - 0.3 * margin)[rivals].mean()
    np.testing.assert_allclose(value(LOSSES["hinge_kr"](epsilon=0.1, weight=0.3), situation), expected, rtol=1e-12)


def drops(situation, radius):
    """How far each margin may fall, (COUNT, CLASSES), from the weights and not by the head's own code."""
    _, variables, features, labels, _ = situation
    own = jax.tree.map(np.asarray, variables["params"]["head"])
    if "weight" in own:
        rows = own["weight"] / np.linalg.norm(own["weight"], axis=1, keepdims=True)
        return radius * np.linalg.norm(rows[labels][:, None] - rows, axis=-1)
    pairs = own["w2"][np.asarray(labels)][:, None] - own["w2"]
    slopes = 1 / (1 + np.exp(-(np.asarray(features) @ own["w1"].T + own["b1"])))
    gradient = np.einsum("nkh,nh,hd->nkd", pairs, slopes, own["w1"])
    weights = np.maximum(-pairs, 0) / 4
    curvature = [[np.linalg.eigvalsh(own["w1"].T * w @ own["w1"])[-1] for w in row] for row in weights]
    return radius * np.linalg.norm(gradient, axis=-1) + np.array(curvature) * radius**2 / 2


def test_what_margins_lose_within_a_radius(situation, rng):
    """Equal to the formula (the curvature up to a Krylov space, from below), and lost by no margin at any point."""
    model, variables, features, labels, logits = situation
    head, radius = model.parts()[1], 0.7
    own = {name: tree["head"] for name, tree in variables.items() if "head" in tree}
    found, formula = np.asarray(head.margin_drop(own, features, labels, radius)), drops(situation, radius)
    assert (found <= formula * (1 + 1e-12)).all()
    assert (found >= 0.97 * formula).all()
    if isinstance(head, LastLayerNormalization):
        np.testing.assert_allclose(found, formula, rtol=1e-12)
    margins = logits[np.arange(COUNT), labels][:, None] - logits
    for direction in rng.normal(size=(50, COUNT, DIMENSION)):
        moved = features + radius * direction / np.linalg.norm(direction, axis=1, keepdims=True)
        there = np.asarray(head.apply(own, moved))
        assert (margins - (there[np.arange(COUNT), labels][:, None] - there) <= formula + 1e-12).all()


@pytest.mark.parametrize(("progress", "epsilon"), [(0.0, 0.03), (0.25, 0.165), (0.5, 0.3), (1.0, 0.3)])
def test_emma_with_its_ramp(situation, progress, epsilon):
    model, variables, features, labels, logits = situation
    loss = LOSSES["emma"](epsilon=0.3, start=0.1, ramp=0.5)
    spectral = logits_of(model, variables, features)[1]  # a power vector moves before it is used
    own = {"params": variables["params"]["head"], "spectral": spectral.get("head", {})}
    gain = np.asarray(model.parts()[1].margin_drop(own, features, labels, epsilon / STD))
    margins = logits[np.arange(COUNT), labels][:, None] - logits
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(gain > 0, np.clip(margins / gain, 0.01, 1), 1)
    np.testing.assert_allclose(
        value(loss, situation, progress), entropies(logits + scale * gain, labels).mean(), rtol=1e-11
    )


def test_emma_raises_until_a_tie(situation):
    """At ε = 0.5 every rival that loses would overtake the label by all that it can gain: it ties instead."""
    model, variables, features, labels, logits = situation
    moment = Moment(jnp.ones(()))
    raised = np.asarray(
        LOSSES["emma"](epsilon=0.5).raised(model, variables, features, jnp.asarray(logits), labels, moment)
    )
    own = raised[np.arange(COUNT), labels][:, None] + 0 * raised
    gain = drops(situation, 0.5 / STD)
    loses = (own > logits + 0.02 * gain) & (own < logits + 0.7 * gain)
    assert loses.sum() > 3
    np.testing.assert_allclose(raised[loses], own[loses], rtol=1e-9)


def test_what_certificates_hold_at_epsilon_is_pushed_no_further(rng, float64):
    """A rival that cannot tie within ε is raised by all that it can gain, and then is still below the label."""
    head, radius = LastLayerNormalization(CLASSES), 0.4
    weight, bias = rng.normal(size=(CLASSES, DIMENSION)), np.zeros(CLASSES)
    features = rng.normal(size=(200, DIMENSION)) * 3
    logits = np.asarray(head.apply({"params": {"weight": weight, "bias": bias}}, features))
    labels = logits.argmax(axis=1)
    certified = certify_lln(features, weight, bias, labels).radius > radius
    own = {"params": {"weight": jnp.asarray(weight), "bias": jnp.asarray(bias)}}
    gain = np.asarray(head.margin_drop(own, jnp.asarray(features), jnp.asarray(labels), radius))
    still_first = (logits + gain).argmax(axis=1) == labels
    np.testing.assert_array_equal(still_first, certified)
    assert 0 < certified.sum() < len(certified)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "crc"])
def test_gradients_are_finite_where_two_rows_of_the_head_are_equal(situation, name):
    model, variables, features, labels, _ = situation
    for weight in ("weight", "w2"):
        if weight in variables["params"]["head"]:
            variables["params"]["head"][weight] = (
                variables["params"]["head"][weight].at[1].set(variables["params"]["head"][weight][0])
            )

    def of(variables, features):
        return value(LOSSES[name](), (model, variables, features, labels, None))

    gradients = jax.grad(lambda *a: of(*a), argnums=(0, 1), allow_int=True)(variables, features)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", ["cross_entropy", "offset", "emma", "logit_annealing"])
def test_a_scale_multiplies_the_logits_of_the_softmax(situation, name):
    plain, scaled = LOSSES[name](), LOSSES[name](trainable_scale=True)
    assert scaled.parameters() == {"log_scale": 0.0}
    assert plain.parameters() == {}
    at_1 = value(scaled, situation, parameters={"log_scale": jnp.zeros(())})
    np.testing.assert_allclose(at_1, value(plain, situation), rtol=1e-14)
    slope = jax.grad(lambda t: value(scaled, situation, parameters={"log_scale": t}))(jnp.zeros(()))
    assert abs(float(slope)) > 1e-6


def test_a_learned_scale_is_of_the_training_and_not_of_the_network(tmp_path):
    """It is trained, resumed, and in no certificate: the network is the same as any other."""
    config = tiny_config()
    config.loss = {"name": "emma", "epsilon": 0.2, "trainable_scale": True}
    config.run.epochs = 2
    state = train(config, tmp_path, say=quiet)
    assert float(state.beside["log_scale"]) != 0
    assert "loss" not in state.params
    assert Checkpoints(tmp_path).metadata("last")["step"] == 8
    again = train(config, tmp_path, say=quiet)
    assert float(again.beside["log_scale"]) == float(state.beside["log_scale"])
    trained = lipjax.load_trained(tmp_path)
    images, labels = (array[:20] for array in trained.dataset().test)
    certificate = trained.prove().certify(np.float32(images / 16), labels)
    assert certificate.protocol == "proof"


@pytest.mark.parametrize(
    ("loss", "head", "message"),
    [
        ({"name": "emma", "epsilon": -0.1}, "lln", r"config\.loss\.epsilon=-0\.1: must be a number >= 0"),
        ({"name": "offset", "temperature": 0.0}, "lln", r"config\.loss\.temperature=0\.0: must be a positive number"),
        ({"name": "emma", "ramp": 1.5}, "lln", r"config\.loss\.ramp=1\.5: must be a number in \[0, 1\]"),
        ({"name": "offset", "trainable_scale": 2}, "lln", r"config\.loss\.trainable_scale=2: must be True or False"),
        ({"name": "logit_annealing", "beta": -1}, "lln", r"config\.loss\.beta=-1: must be a number >= 0"),
        (
            {"name": "offset"},
            "crc",
            r"config\.loss\.name='offset': needs a head with unit_logits, .* CurvatureHead has",
        ),
        ({"name": "hinge_kr"}, "crc", r"config\.loss\.name='hinge_kr': needs .* CurvatureHead has none: take 'emma'"),
        ({"name": "logit_annealing"}, "crc", r"config\.loss\.name='logit_annealing': needs .*: take 'emma'"),
        ({"name": "crc"}, "lln", r"config\.loss\.name='crc': needs a CurvatureHead, .* got LastLayerNormalization"),
        ({"name": "hinge"}, "lln", r"config\.loss\.name='hinge': must be one of \('cross_entropy', 'offset', 'emma'"),
        ({"name": "hinge_kr", "trainable_scale": True}, "lln", r"config\.loss\.trainable_scale=True: unknown key"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_before_training(loss, head, message):
    config = tiny_config()
    config.loss, config.model.head = loss, head
    with pytest.raises(ValueError, match=message):
        Recipe.of(config).model((8, 8, 1), 10)


def test_emma_names_a_head_of_ones_own_that_cannot_carry_it(tmp_path):
    class Fixed(layers.Head):
        num_classes: int = 10

        def __call__(self, features, train=False):
            return features[:, : self.num_classes]

        def certifier(self, own, curvature_file=None):
            raise NotImplementedError

    model = lipjax.Network(layers.Flatten(), Fixed(), image_shape=(2, 8, 1))
    with pytest.raises(
        ValueError, match=r"config\.loss\.name='emma': needs a head that states margin_drop; Fixed does"
    ):
        LOSSES["emma"]().check_head(model)


def test_the_bound_of_curvature_is_above_what_training_takes(rng, float64):
    """An estimate in training may be low; it must not be what a certificate takes."""
    w1, w2 = rng.normal(size=(5, DIMENSION)), rng.normal(size=(CLASSES, 5))
    start = np.ones(DIMENSION) / np.sqrt(DIMENSION)
    own = {
        "params": {"w1": w1, "b1": np.zeros(5), "w2": w2, "b2": np.zeros(CLASSES)},
        "spectral": {"power_vector": start},
    }
    own = jax.tree.map(jnp.asarray, own)
    labels = jnp.asarray([0, 1])
    at_zero = CurvatureHead(CLASSES, hidden=5).margin_drop(own, jnp.zeros((2, DIMENSION)), labels, 0.0)
    drop = CurvatureHead(CLASSES, hidden=5).margin_drop(own, jnp.zeros((2, DIMENSION)), labels, 1e8)
    curvature = 2 * np.asarray(drop - at_zero) / 1e16
    assert (curvature <= curvature_bound(w1, w2)[np.asarray(labels)] + 1e-6).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_curvature_of_a_pair_is_found_from_below(seed, float64):
    """With rows of W1 as those of training, nearly orthonormal, where two power steps find less."""
    rng = np.random.default_rng(seed)
    w1 = np.linalg.qr(rng.normal(size=(40, 20)))[0] + 0.02 * rng.normal(size=(40, 20))
    weights = np.maximum(rng.normal(size=(6, 40)), 0) / 4
    true = np.array([np.linalg.eigvalsh(w1.T * row @ w1)[-1] for row in weights])
    found = np.asarray(ritz_curvature(jnp.asarray(w1), jnp.asarray(weights)))
    assert (0.9 * true <= found).all()
    assert (found <= true * (1 + 1e-12)).all()
    top = jnp.asarray(np.linalg.svd(w1)[2][0])
    by_power = np.asarray(pair_curvature(jnp.asarray(w1), jnp.asarray(weights), top))
    assert np.mean(true - found) < 0.5 * np.mean(true - by_power)


def test_the_curvature_of_one_hidden_unit_and_of_none(float64):
    w1, weights = jnp.asarray([[3.0, 4.0], [1.0, 0.0]]), jnp.asarray([[0.5, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(ritz_curvature(w1, weights), [12.5, 0.0], rtol=1e-14)
    slope = jax.grad(lambda w1: ritz_curvature(w1, weights).sum())(w1)
    np.testing.assert_allclose(slope, [[3.0, 4.0], [0.0, 0.0]], rtol=1e-14)  # of 0.5 ‖row‖²


@pytest.mark.parametrize("count", [3, 40])
def test_of_many_classes_the_nine_largest_rivals_are_raised(rng, float64, count):
    """By the formula, whether the classes or the batch have more pairs."""
    classes = 16
    head = CurvatureHead(classes, hidden=7)
    features, labels = jnp.asarray(rng.normal(size=(count, DIMENSION))), jnp.asarray(rng.integers(classes, size=count))
    variables = jax.tree.map(lambda leaf: leaf.astype(features.dtype), head.init(jax.random.key(0), features))
    found = np.asarray(head.margin_drop(variables, features, labels, 0.7))
    situation = None, {"params": {"head": variables["params"]}}, np.asarray(features), np.asarray(labels), None
    formula, logits = drops(situation, 0.7), np.array(head.apply(variables, features))
    logits[np.arange(count), labels] = -np.inf
    is_near = logits >= np.sort(logits, axis=1)[:, -9:-8]
    assert (is_near.sum(axis=1) == 9).all()
    assert (found[~is_near] == 0).all()
    assert (found <= formula * (1 + 1e-12)).all()
    assert (found >= 0.97 * formula)[is_near].all()


def test_a_mixture_is_asked_for_both_labels(situation):
    """The step's loss of a mixed batch is λ of that of its labels and 1 − λ of that of the others'."""
    images = jnp.asarray(np.random.default_rng(5).uniform(size=(COUNT, 2, 2, 1)))
    labels = situation[-2]
    key, options = jax.random.key(3), DataOptions(mixup=0.4)
    mixture, targets = with_targets(key, images, labels, options)
    (first, part), (second, rest) = targets
    assert first is labels
    np.testing.assert_allclose(part + rest, 1.0, rtol=1e-15)
    where = [
        int(np.argmin([np.abs((m - part * x) / rest - o).max() for o in images]))
        for m, x in zip(mixture, images, strict=True)
    ]
    np.testing.assert_array_equal(second, labels[np.array(where)])
    assert with_targets(key, images, labels, DataOptions()) == (images, [(labels, 1.0)])


def test_an_attack_towards_one_label_takes_no_mixtures():
    config = tiny_config()
    config.model.head, config.loss, config.data.mixup = "crc", {"name": "crc"}, 0.2
    with pytest.raises(ValueError, match=r"config\.data\.mixup=0\.2: must be 0 with config\.loss\.name='crc'"):
        Recipe.of(config)
