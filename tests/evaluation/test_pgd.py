"""Attacks in pixel space, and that a certificate which is too large is found out."""

import json
import re
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
from lipjax.evaluation.verify import verify_run
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


def attack(network, radius, strength="fast", domain="space"):
    limits = pgd.limits_of(domain, network[1].shape[1:])
    return pgd.l2_attack(*network, np.broadcast_to(radius, COUNT), jax.random.key(0), *pgd.STRENGTHS[strength], limits)


@pytest.mark.parametrize("domain", pgd.DOMAINS)
def test_attacks_only_improve(network, domain):
    proven, images, labels = network
    clean = attack(network, 0.0, domain=domain)
    np.testing.assert_array_equal(clean.images, images)
    margins = {0.0: clean.margins}
    for radius in (0.1, 0.5):
        found = attack(network, radius, domain=domain)
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


class Linear(Head):
    """f = (wᵀx + b, 0)."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, features, train=False):
        value = features @ self.param("w", nn.initializers.zeros, (features.shape[-1],))
        value = value + self.param("b", nn.initializers.zeros, ())
        return jax.numpy.stack([value, 0 * value], -1)

    @nn.nowrap
    def certifier(self, own, curvature_file=None):
        return None


def linear(weight, offset, shape):
    """The proven network f = (wᵀx + b, 0) of images of a shape."""
    head = {"w": np.float32(weight), "b": np.float32(offset)}
    return lipjax.prove(lipjax.Network(Flatten(), Linear(), shape), {"params": {"head": head}})


def nearest_in_box(image, weight, offset, low, high):
    """min ‖x' − x‖ with wᵀx' + b <= 0 and low <= x' <= high: clip(x − t w) with the least t that does, by bisection."""
    clipped = lambda t: np.clip(image - t * weight, low, high)  # noqa: E731
    ends = [0.0, 1e6]
    if weight @ clipped(ends[1]) + offset > 0:
        return np.inf
    for _ in range(200):
        middle = sum(ends) / 2
        ends[int(weight @ clipped(middle) + offset <= 0)] = middle
    return np.linalg.norm(clipped(ends[1]) - image)


def test_a_linear_network_is_broken_at_its_exact_distance():
    """In space the boundary of f = (wᵀx, 0) is at |wᵀx| / ‖w‖, and the attack with its bisection finds it."""
    rng = np.random.default_rng(0)
    weight, images = rng.normal(size=12).astype(np.float32), rng.normal(size=(30, 2, 2, 3)).astype(np.float32)
    images *= np.sign(images.reshape(30, -1) @ weight)[:, None, None, None]
    labels, proven, space = np.zeros(30, int), linear(weight, 0, (2, 2, 3)), pgd.limits_of("space", (2, 2, 3))
    true = images.reshape(30, -1) @ weight / np.linalg.norm(weight)
    for fraction in (0.99, 1.2):
        found = pgd.l2_attack(proven, images, labels, fraction * true, jax.random.key(0), 10, 1, space)
        nearer = pgd.bisected(proven, images, labels, found)
        closest = np.where(nearer.margins <= 0, pgd.distance(images, nearer.images), np.inf)
        if fraction < 1:
            assert np.isinf(closest).all()
        else:
            np.testing.assert_allclose(closest, true, rtol=2e-3)  # ten bisections of the segment
            assert (closest >= true * (1 - 1e-6)).all()


@pytest.mark.parametrize("border", [pgd.NO_BORDER, ((1, 2), (0, 1))])
@pytest.mark.parametrize("strength", pgd.STRENGTHS)
def test_among_images_a_linear_network_is_broken_at_its_exact_distance_too(rng, border, strength):
    """Many pixels are 0 or 1: what they cannot give the others must."""
    shape, count = (8, 8, 2), 40
    limits = pgd.limits_of("images", shape, border)
    images = np.clip(rng.normal(0.5, 1.0, (count, *shape)), limits.low, limits.high).astype(np.float32)
    weight = rng.normal(size=128)
    offset = 1.0 - (images.reshape(count, -1) @ weight).min()
    low, high = (np.broadcast_to(side, shape).ravel() for side in limits)
    proven, labels = linear(weight, offset, shape), np.zeros(count, int)
    true = np.array([nearest_in_box(image.ravel(), weight, offset, low, high) for image in images.astype(float)])
    true = np.where(np.isfinite(true), true, 100.0)  # no image at all is misclassified
    in_space = (images.reshape(count, -1) @ weight + offset) / np.linalg.norm(weight)
    assert (in_space < 0.9 * true).mean() > 0.9
    for fraction in (0.99, 1.2):
        steps = pgd.STRENGTHS[strength]
        found = pgd.l2_attack(proven, images, labels, fraction * true, jax.random.key(0), *steps, limits)
        nearer = pgd.bisected(proven, images, labels, found)
        closest = np.where(nearer.margins <= 0, pgd.distance(images, nearer.images), np.inf)
        assert (closest >= true * (1 - 1e-6)).all()
        if fraction > 1:
            reached = true < 100
            assert reached.mean() > 0.3
            assert (closest <= 1.05 * true)[reached].all()


CORNERS = {
    "corner": lambda x: np.round(x),
    "black": lambda x: 0 * x,
    "white": lambda x: 0 * x + 1,
    "inside": lambda x: x,
}


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("domain", pgd.DOMAINS)
@pytest.mark.parametrize("border", [pgd.NO_BORDER, ((2, 2), (2, 2)), ((0, 3), (1, 0))])
def test_every_point_is_an_image_within_the_radius(network, domain, border, corner):
    """To the last bit of float32, and the distance in float64; bisected points too."""
    proven, images, labels = network
    limits = pgd.limits_of(domain, images.shape[1:], border)
    inside = pgd.limits_of("images", images.shape[1:], border)
    images = np.clip(CORNERS[corner](images), *inside).astype(np.float32)
    radii = np.resize([0, 1e-9, 1e-4, 0.1, 0.3, 1.0, 3.0, 1e4, np.inf], COUNT)
    for steps, starts in ((4, 2), (1, 1)):
        found = pgd.l2_attack(proven, images, labels, radii, jax.random.key(1), steps, starts, limits)
        for points in (found.images, pgd.bisected(proven, images, labels, found).images):
            assert points.dtype == np.float32
            assert (limits.low <= points).all()
            assert (points <= limits.high).all()
            assert (pgd.distance(images, points) <= np.minimum(radii, 8.0)).all()  # 8: the diagonal of 8 · 8 pixels
            np.testing.assert_array_equal(points[radii == 0], images[radii == 0])
    moved = pgd.distance(images, found.images)
    assert (moved[(radii > 0.01) & (radii < 3)] > 0).all()
    if domain == "images" and border != pgd.NO_BORDER:
        outside = np.broadcast_to(limits.high == 0, points.shape)
        assert (points[outside] == 0).all()
    elif domain == "space":
        assert ((points < 0) | (points > 1)).any()


def test_the_projection_is_the_nearest_point(rng):
    """‖p − P p‖ is the least there is: p − P p is orthogonal to the set at P p, for random points of the set."""
    shape, border = (4, 4, 1), ((0, 1), (0, 0))
    limits = pgd.limits_of("images", shape, border)
    x = np.clip(rng.normal(0.5, 0.7, (50, *shape)), *limits).astype(np.float32)
    delta, radius = rng.normal(size=x.shape).astype(np.float32), rng.uniform(0.1, 2, (50, 1, 1, 1)).astype(np.float32)
    points = np.asarray(pgd._projected(x, delta, radius, limits), np.float64)
    missing = x + delta - points
    reached, allowed = pgd.distance(x, points), radius.ravel()
    assert (reached <= allowed * (1 + 1e-6)).all()
    clipped = np.clip(x + delta, *limits)
    assert (np.isclose(reached, allowed, rtol=1e-5) | np.isclose(points, clipped).all((1, 2, 3))).all()
    for _ in range(200):
        others = np.clip(rng.normal(0.5, 2, x.shape), *limits) - x
        others = x + others * np.minimum(
            1, radius / np.maximum(np.linalg.norm(others, axis=(1, 2), keepdims=True), 1e-9)
        )
        assert ((missing * (others - points)).sum((1, 2, 3)) <= 1e-5).all()  # float32


def test_among_images_no_attack_is_stronger_than_in_space(network):
    """Neither finds the very least margin: of all images together, and of almost each."""
    for radius in (0.25, 1.0):
        images, space = (attack(network, radius, domain=domain).margins for domain in pgd.DOMAINS)
        assert images.mean() > space.mean()
        assert (images >= space).mean() > 0.9
        assert (images < attack(network, 0.0).margins).all()


def test_arguments_of_an_attack(network):
    proven, images, labels = network
    with pytest.raises(ValueError, match="domain='cube': must be one of"):
        proven.attack(images, labels, 0.1, domain="cube")
    for border in (((4, 4), (0, 0)), ((-1, 0), (0, 0))):
        with pytest.raises(ValueError, match=r"border=.*: must be \(\(top, bottom\), \(left, right\)\) inside"):
            proven.attack(images, labels, 0.1, border=border)
    with pytest.raises(ValueError, match="the images must be 0 there"):
        proven.attack(images, labels, 0.1, border=((3, 3), (3, 3)))
    found = proven.attack(images, labels, np.inf)
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert (found.margins < proven.attack(images, labels, 0.5).margins).mean() > 0.9


def test_images_that_are_wrong_have_distance_zero(network):
    proven, images, labels = network
    wrong = (labels + 1) % 10
    limits = pgd.limits_of("images", images.shape[1:])
    found = pgd.l2_attack(proven, images, wrong, np.full(COUNT, 0.1), jax.random.key(0), 2, 1, limits)
    closest = pgd.distance(images, pgd.bisected(proven, images, wrong, found).images)
    clean = pgd.margins_of_program(proven, images, wrong)
    np.testing.assert_array_equal(closest == 0, clean <= 0)


@pytest.mark.parametrize("domain", pgd.DOMAINS)
def test_radii_that_are_too_large_are_found_out(network, tmp_path, domain):
    proven, images, labels = network
    certificate = proven.certify(images, labels)
    measure = Attack(proven, [0.1, 0.25], "fast", tmp_path, domain=domain)
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


def test_a_radius_that_is_too_large_for_points_that_are_no_images_is_found_out(tmp_path):
    """f = (Σ x + 1, 0) is right of all images: certificates are about more, and an attack among images looks there."""
    proven, images, labels = (
        linear(np.ones(4), 1.0, (2, 2, 1)),
        np.full((3, 2, 2, 1), 0.1, np.float32),
        np.zeros(3, int),
    )
    true = 1.4 / 2
    for factor in (0.99, 1.05):
        measure = Attack(proven, [2.0], "fast", tmp_path)
        batch = Batch(0, images, labels, np.full(3, factor * true))
        if factor < 1:
            assert (measure.batch(batch)["distance"] == np.inf).all()  # of images, none
        else:
            with pytest.raises(CertificateViolated):
                measure.batch(batch)


def test_certify_run_with_an_attack(trained, tmp_path, monkeypatch):
    workdir = Path(shutil.copytree(trained[0], tmp_path / "run"))
    lines = []
    summary = certify_run(workdir, num_examples=60, batch_size=25, attack="fast", say=lines.append)
    attack = summary["attack"]
    assert [attack[key] for key in ("strength", "steps", "starts", "domain")] == ["fast", 10, 1, "images"]
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
    with pytest.raises(ValueError, match="attack_domain='cube': must be one of"):
        certify_run(workdir, attack="fast", attack_domain="cube")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "At each radius the attack may reach all images" in page
    in_space = certify_run(workdir, num_examples=60, attack="fast", attack_domain="space", say=lines.append)["attack"]
    assert in_space["domain"] == "space"
    assert "At each radius the attack may reach all points of space" in (folder / "report.html").read_text("utf-8")
    assert re.search(r"the attack may reach +space", lines[-1])
    for radius, upper in attack["robust_accuracy_upper_bound"].items():
        assert upper >= in_space["robust_accuracy_upper_bound"][radius]
    assert verify_run(workdir, say=lambda line: None)["attack"] == in_space
