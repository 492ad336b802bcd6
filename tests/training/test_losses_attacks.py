import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.layers.curvature_head import softplus_mlp, top_rivals
from lipjax.training.losses.crc import curvature_regulariser
from lipjax.training.losses.feature_attack import feature_attack

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def g(golden):
    return {name: jnp.asarray(value) for name, value in golden("crc").items()}


def head_of(g):
    return {name: g[name] for name in ("w1", "b1", "w2", "b2")}


def test_logits_and_rivals(g):
    logits = softplus_mlp(head_of(g), g["features"])
    np.testing.assert_allclose(logits, g["logits"], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(top_rivals(logits, g["labels"]), g["other"])


@pytest.mark.parametrize("images", [64, 3])
def test_regulariser_value_and_gradients(g, images):
    """All images of the golden file take the way through class pairs, three the way through items; both are exact."""
    labels, rivals = g["labels"][:images], g["other"][:images]

    def value(w1, w2):
        return curvature_regulariser(w1, w2, labels, rivals, g["u"])

    expected = jnp.maximum(g["reg_m"], g["reg_M"])[:images].mean()
    np.testing.assert_allclose(value(g["w1"], g["w2"]), expected, rtol=1e-9)
    if images == 64:
        np.testing.assert_allclose(value(g["w1"], g["w2"]), g["reg_value"], rtol=1e-9)
        gw1, gw2 = jax.grad(value, argnums=(0, 1))(g["w1"], g["w2"])
        np.testing.assert_allclose(gw1, g["reg_gw1"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(gw2, g["reg_gw2"], rtol=0, atol=1e-9)


def attack(g, radius, count=64):
    def head(y):
        return softplus_mlp(head_of(g), y)

    arguments = (g["features"][:count], g["labels"][:count], g["other"][:count])
    return feature_attack(head, *arguments, radius, g["attack_noise"][:count])


def test_attack_equals_theirs_until_they_stop(g, monkeypatch):
    """The authors stop after four of the five steps, once all images are outside; the fifth we take."""
    radius = float(g["attack_radius"])
    # Step length is 1.5·radius/STEPS: with four steps of the five, radius and STEPS are scaled together.
    five = attack(g, radius)
    monkeypatch.setattr("lipjax.training.losses.feature_attack.STEPS", 4)
    monkeypatch.setattr("lipjax.training.losses.feature_attack.STEP_FACTOR", 1.5 * 4 / 5)
    np.testing.assert_allclose(attack(g, radius), g["attack_delta"], rtol=0, atol=1e-12)
    assert np.abs(five - g["attack_delta"]).max() > 1e-3


def test_attack_stays_in_the_ball_and_lowers_the_margin(g):
    def smallest(delta):
        logits = softplus_mlp(head_of(g), g["features"] + delta)
        own = jnp.take_along_axis(logits, g["labels"][:, None], axis=1)
        return (own - jnp.take_along_axis(logits, g["other"], axis=1)).min(axis=1)

    for radius in (0.05, 0.5, 2.0):
        delta = attack(g, radius)
        assert (jnp.linalg.norm(delta, axis=1) <= radius * (1 + 1e-12)).all()
        assert (smallest(delta) < smallest(jnp.zeros_like(delta))).mean() > 0.95
    np.testing.assert_array_equal(attack(g, 0.0), 0.0)
