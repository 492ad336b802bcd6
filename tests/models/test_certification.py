import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lipjax
from lipjax.checkpoint import CheckpointError
from lipjax.data import load
from lipjax.evaluation.split import certify_run
from lipjax.models.program import penultimate_features
from lipjax.workdir import load_trained


@pytest.fixture(scope="module")
def certified(trained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("certified") / "run"
    shutil.copytree(trained[0], workdir)
    lines = []
    return workdir, certify_run(workdir, radii="0.02,1/10,9", say=lines.append), lines


def test_files_and_table(certified):
    workdir, summary, lines = certified
    assert json.loads((workdir / "certificates" / "summary.json").read_text()) == summary
    with (workdir / "certificates" / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "label", "prediction", "rival", "radius", "exact"]
    labels = load("digits").test.labels
    assert [int(row["label"]) for row in rows] == labels.tolist()
    radius = np.array([float(row["radius"]) for row in rows])
    right = np.array([row["label"] == row["prediction"] for row in rows])
    assert ((radius > 0) == right).all()
    assert summary["standard_accuracy"] == right.mean()
    assert list(summary["certified_accuracy"]) == ["0.02", "1/10", "9"]
    for text, value in {"0.02": 0.02, "1/10": 0.1, "9": 9}.items():
        assert summary["certified_accuracy"][text] == (radius > value).mean()
    assert 0 < summary["certified_accuracy"]["1/10"] < summary["certified_accuracy"]["0.02"]
    assert summary["average_certified_radius"] == radius.mean()
    assert summary["num_examples"] == len(rows) == 360
    assert summary["dataset"] == "digits"
    assert (workdir / "certificates" / "curve.png").read_bytes().startswith(b"\x89PNG")
    table = "\n".join(lines)
    assert f"{summary['standard_accuracy']:.2%}" in table
    assert "certified accuracy at 1/10" in table


def test_radii_against_the_definition(certified):
    """Recomputed from the float64 network by hand: margin / ‖w_l − w_i‖ / Lip, minimum over the rivals."""
    workdir, summary, _ = certified
    trained = load_trained(workdir)
    dataset, model, variables = trained.dataset(), trained.model, trained.variables
    images, labels = dataset.test.images[:50] / 16.0, dataset.test.labels[:50]
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), variables)
        logits = np.asarray(model.apply(double, jnp.asarray(images)))
    rows = variables["params"]["head"]["weight"].astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = []
    for f, label in zip(logits, labels, strict=True):
        rivals = np.delete(np.arange(10), label)
        distances = (f[label] - f[rivals]) / np.linalg.norm(rows[label] - rows[rivals], axis=1)
        expected.append(max(distances.min(), 0) / summary["lipschitz_bound"])
    certificate = lipjax.certify(model, variables, images.astype("float32"), labels)
    # Features are float32 in the certificate and float64 in the expectation.
    np.testing.assert_allclose(certificate.radius, expected, rtol=0, atol=2e-6)
    assert (certificate.upper >= certificate.radius).all()


def test_an_attack_finds_nothing_inside_the_radius(certified):
    """Gradient steps on the margin in pixel space, projected to 0.999 of each radius, never change a prediction."""
    workdir, *_ = certified
    trained = load_trained(workdir)
    dataset, model, variables = trained.dataset(), trained.model, trained.variables
    images, labels = dataset.test.images[:100].astype("float32") / 16, dataset.test.labels[:100]
    certificate = lipjax.certify(model, variables, images, labels)
    keep = certificate.radius > 0
    images, labels, radius = images[keep], labels[keep], certificate.radius[keep][:, None, None, None]

    @jax.jit
    def step(x):
        def margin(x):
            logits = model.apply(variables, x)
            own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
            others = jnp.where(jax.nn.one_hot(labels, 10, dtype=bool), -jnp.inf, logits)
            return jnp.sum(own - others.max(axis=1))

        g = jax.grad(margin)(x)
        x = x - 0.3 * radius * g / jnp.sqrt(jnp.sum(g**2, axis=(1, 2, 3), keepdims=True))
        distance = jnp.sqrt(jnp.sum((x - images) ** 2, axis=(1, 2, 3), keepdims=True))
        return images + (x - images) * jnp.minimum(1, 0.999 * radius / distance)

    x = jnp.asarray(images)
    for _ in range(30):
        x = step(x)
        assert (np.argmax(model.apply(variables, x), axis=1) == labels).all()
    moved = np.sqrt(np.sum((np.asarray(x) - images) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(moved, 0.999 * radius[:, 0, 0, 0], rtol=1e-3)


def test_num_examples_and_batches_do_not_change_results(certified, tmp_path):
    workdir, *_ = certified
    shutil.copytree(workdir, tmp_path / "run")
    full = (workdir / "certificates" / "per_image.csv").read_text().splitlines()
    summary = certify_run(tmp_path / "run", num_examples=130, radii="0.1", say=lambda line: None, batch_size=100)
    assert summary["num_examples"] == 130
    part = (tmp_path / "run" / "certificates" / "per_image.csv").read_text().splitlines()
    assert len(part) == 131
    for a, b in zip(part[1:], full[1:131], strict=True):
        (*a_fields, a_radius, a_exact), (*b_fields, b_radius, b_exact) = a.split(","), b.split(",")
        assert (a_fields, a_exact) == (b_fields, b_exact)
        # Another batch size may sum in another order; float32 features differ in their last bits.
        np.testing.assert_allclose(float(a_radius), float(b_radius), atol=1e-6)


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (np.full((1, 8, 8, 1), 1.5, "float32"), [0], r"pixels must lie in \[0, 1\], got 1.5 to 1.5"),
        (np.full((1, 8, 8, 1), np.nan, "float32"), [0], r"pixels must lie in \[0, 1\]"),
        (np.zeros((1, 8, 8, 1), "uint8"), [0], "dtype must be float32 or float64"),
        (np.zeros((1, 16, 16, 1), "float32"), [0], r"images: shape must be \(N, 8, 8, 1\)"),
        (np.zeros((1, 8, 8, 1), "float32"), [10], r"labels: must lie in \[0, 10\)"),
    ],
)
def test_bad_images(certified, images, labels, text):
    workdir, *_ = certified
    trained = load_trained(workdir)
    with pytest.raises(ValueError, match=text):
        lipjax.certify(trained.model, trained.variables, images, labels)


def test_bad_workdirs_and_flags(certified, tmp_path):
    workdir, *_ = certified
    with pytest.raises(FileNotFoundError, match=r"has no config\.json: no training has started"):
        certify_run(tmp_path)
    shutil.copy(workdir / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="no 'last' checkpoint"):
        certify_run(tmp_path)
    with pytest.raises(ValueError, match="num_examples=0: must be at least 1"):
        certify_run(workdir, num_examples=0)
    with pytest.raises(ValueError, match="radii='x'"):
        certify_run(workdir, radii="x")


def test_float_slack_and_precisions(certified, tmp_path):
    """The slack is taken off in feature space; precision.csv has the distances of the features to those in float64."""
    workdir, full, _ = certified
    shutil.copytree(workdir, tmp_path / "run")
    lines = []
    summary = certify_run(
        tmp_path / "run", num_examples=100, radii="0.1", say=lines.append, float_slack=0.01, precisions=True
    )
    folder = tmp_path / "run" / "certificates"

    def column(path, name):
        with path.open() as file:
            return np.array([float(row[name]) for row in csv.DictReader(file)])

    before, after = (column(path / "per_image.csv", "radius") for path in (workdir / "certificates", folder))
    expected = np.maximum(before[:100] - 0.01 / full["lipschitz_bound"], 0)
    # Another batch size may sum in another order; float32 features differ in their last bits.
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-6)
    assert 0 < (after > 0).sum() < 100

    trained = load_trained(workdir)
    dataset, model, variables = trained.dataset(), trained.model, trained.variables
    images = dataset.test.images[:100] / 16.0
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), variables)
        exact = np.asarray(model.apply(double, jnp.asarray(images), method="features"))
    distance = np.linalg.norm(penultimate_features(model, variables, images.astype("float32")) - exact, axis=1)
    measured = column(folder / "precision.csv", "features_float32")
    assert summary["precision"]["float32"]["features_max"] == measured.max()
    assert 0 < measured.max() < 1e-4
    # The same roundings but for the order of sums, which depends on the batch size.
    assert distance.max() / 5 < measured.max() < 5 * distance.max()
    assert summary["precision"]["bfloat16"]["features_mean"] > 100 * summary["precision"]["float32"]["features_mean"]
    assert summary["float_slack"] == 0.01
    assert "features in float32 off by at most" in "\n".join(lines)
    assert full["precision"] is None

    certify_run(tmp_path / "run", num_examples=100, radii="0.1", say=lines.append)
    assert not (folder / "precision.csv").exists()
    np.testing.assert_array_equal(before[:100] > 0, column(folder / "per_image.csv", "radius") > 0)
