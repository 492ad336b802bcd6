"""Attacks in pixel space, and that a certificate which is too large is found out."""

import json
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

import lipjax
from lipjax.evaluation.attack import Attack, CertificateViolated
from lipjax.evaluation.measure import Batch
from lipjax.evaluation.split import certify_run
from lipjax.layers import Flatten, Head
from lipjax.models import pgd
from lipjax.workdir import load_trained

COUNT = 40


@pytest.fixture(scope="module")
def network(trained):
    """(proven network, images, labels) of the tiny run."""
    found = load_trained(trained[0])
    dataset = found.dataset()
    images = dataset.test.images[:COUNT].astype(np.float32) / np.float32(dataset.pixel_max)
    return found.prove(), images, dataset.test.labels[:COUNT]


def attack(network, radius, strength="fast"):
    return pgd.l2_attack(*network, np.broadcast_to(radius, COUNT), jax.random.key(0), *pgd.STRENGTHS[strength])


def test_attacks_stay_inside_and_only_improve(network):
    proven, images, labels = network
    clean = attack(network, 0.0)
    np.testing.assert_array_equal(clean.images, images)
    margins = {0.0: clean.margins}
    for radius in (0.1, 0.5):
        found = attack(network, radius)
        assert pgd.distance(images, found.images).max() <= radius * (1 + 1e-6)  # 1e-6: float32 norms
        own = pgd.margins_of_program(proven, found.images, labels)
        np.testing.assert_allclose(found.margins, own, atol=1e-5)  # float32 logits
        margins[radius] = found.margins
    assert (margins[0.1] <= margins[0.0]).all()
    assert (margins[0.5] < margins[0.1]).mean() > 0.9


def test_margins_fall_almost_as_fast_as_the_lipschitz_bound_allows(network):
    """Lip(f_l − f_i) <= ‖w_l − w_i‖ Lip(g) <= 2 Lip(g) for LLN rows of length 1."""
    proven, _, _ = network
    fallen = attack(network, 0.0).margins - attack(network, 0.05).margins
    most = 2 * proven.lipschitz_bound * 0.05
    assert (fallen <= most * (1 + 1e-4)).all()
    assert np.median(fallen) > 0.2 * most


def test_a_linear_network_is_broken_at_its_exact_distance():
    """For f = (wᵀx, 0) the boundary is at |wᵀx| / ‖w‖, and the attack with its bisection finds it."""

    class Linear(Head):
        num_classes: int = 2

        @nn.compact
        def __call__(self, features, train=False):
            value = features @ self.param("w", nn.initializers.zeros, (features.shape[-1],))
            return jax.numpy.stack([value, 0 * value], -1)

        def certifier(self, own, curvature_file=None):
            return None

    rng = np.random.default_rng(0)
    weight, images = rng.normal(size=12).astype(np.float32), rng.normal(size=(30, 2, 2, 3)).astype(np.float32)
    images *= np.sign(images.reshape(30, -1) @ weight)[:, None, None, None]
    labels, model = np.zeros(30, int), lipjax.Network(Flatten(), Linear(), (2, 2, 3))
    proven = lipjax.prove(model, {"params": {"head": {"w": weight}}})
    true = images.reshape(30, -1) @ weight / np.linalg.norm(weight)
    for fraction in (0.99, 1.2):
        found = pgd.l2_attack(proven, images, labels, fraction * true, jax.random.key(0), 10, 1)
        nearer = pgd.bisected(proven, images, labels, found)
        closest = np.where(nearer.margins <= 0, pgd.distance(images, nearer.images), np.inf)
        if fraction < 1:
            assert np.isinf(closest).all()
        else:
            np.testing.assert_allclose(closest, true, rtol=2e-3)  # ten bisections of the segment
            assert (closest >= true * (1 - 1e-6)).all()


def test_images_that_are_wrong_have_distance_zero(network):
    proven, images, labels = network
    wrong = (labels + 1) % 10
    found = pgd.l2_attack(proven, images, wrong, np.full(COUNT, 0.1), jax.random.key(0), 2, 1)
    closest = pgd.distance(images, pgd.bisected(proven, images, wrong, found).images)
    clean = pgd.margins_of_program(proven, images, wrong)
    np.testing.assert_array_equal(closest == 0, clean <= 0)


def test_radii_that_are_too_large_are_found_out(network, tmp_path):
    proven, images, labels = network
    certificate = proven.certify(images, labels)
    measure = Attack(proven, [0.1, 0.25], "fast", tmp_path)
    closest = measure.batch(Batch(0, images, labels, certificate.radius))["distance"]
    assert not list(tmp_path.iterdir())
    assert (closest >= certificate.radius).all()
    too_large = np.where(np.isfinite(closest), 1.3 * closest, certificate.radius)
    with pytest.raises(CertificateViolated, match=r"image \d+: certified radius .*, but at distance"):
        measure.batch(Batch(0, images, labels, too_large))
    (saved,) = tmp_path.iterdir()
    with np.load(saved) as file:
        assert 0 < pgd.distance(file["image"][None], file["adversarial"][None])[0] < file["radius"]
        margin = pgd.margins_of_program(proven, file["adversarial"][None], file["label"][None])
        assert margin <= 0


def test_certify_run_with_an_attack(trained, tmp_path, monkeypatch):
    workdir = Path(shutil.copytree(trained[0], tmp_path / "run"))
    lines = []
    summary = certify_run(workdir, num_examples=60, batch_size=25, attack="fast", say=lines.append)
    attack = summary["attack"]
    assert (attack["strength"], attack["steps"], attack["starts"]) == ("fast", 10, 1)
    for radius, upper in attack["robust_accuracy_upper_bound"].items():
        assert summary["certified_accuracy"][radius] <= upper <= summary["standard_accuracy"]
    assert "not broken by the attack at 0.25" in "\n".join(lines)
    folder = workdir / "certificates"
    distances = [float(line.split(",")[1]) for line in (folder / "attack.csv").read_text().splitlines()[1:]]
    assert len(distances) == 60
    radii = [float(line.split(",")[4]) for line in (folder / "per_image.csv").read_text().splitlines()[1:]]
    assert (np.array(distances) >= radii).all()
    assert attack["robust_accuracy_upper_bound"]["0.1"] == np.mean(np.array(distances) > 0.1)

    done = []

    def stopped(self, batch):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(None)
        return whole(self, batch)

    whole = Attack.batch

    before = (folder / "attack.csv").read_bytes(), json.loads((folder / "summary.json").read_text())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Attack, "batch", stopped)
        certify_run(workdir, num_examples=60, batch_size=25, attack="fast", say=lambda line: None)
    assert (folder / "attack.partial").exists()
    again = certify_run(workdir, num_examples=60, batch_size=25, attack="fast", say=lambda line: None)
    assert (folder / "attack.csv").read_bytes() == before[0]
    assert again | {"seconds": 0} == before[1] | {"seconds": 0}
    assert not (folder / "attack.partial").exists()
    with pytest.raises(ValueError, match="attack='weak': must be one of"):
        certify_run(workdir, attack="weak")
