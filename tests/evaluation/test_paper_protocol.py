"""What the paper's protocol gives beside the proof."""

import csv
import shutil

import numpy as np

import lipjax
from lipjax.evaluation import paper_protocol
from lipjax.evaluation.measure import Batch
from lipjax.evaluation.split import certify_run
from lipjax.layers import Flatten, LastLayerNormalization
from lipjax.models import Network


def test_nine_rivals_give_more_than_all(monkeypatch):
    """The nearest boundary is that of a class with a small logit, which the nine largest leave out."""
    rng = np.random.default_rng(0)
    # Class 0 wins by 1 over 18 classes of almost the same direction, and by more over the last, of the opposite one.
    weight = (np.eye(6)[0] + 0.02 * rng.normal(size=(20, 6))).astype(np.float32)
    weight[-1] *= -1
    bias = np.array([0] + 18 * [-1] + [0], np.float32)
    features = (np.clip(0.6 * np.eye(6)[0] + 0.1 * rng.normal(size=(200, 6)), 0, 1)).astype(np.float32)
    rows = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    labels = np.argmax(features @ rows.T + bias, axis=1)
    model = Network(Flatten(), LastLayerNormalization(20), image_shape=(1, 2, 3))  # the features are the pixels
    proven_model = lipjax.prove(model, {"params": {"head": {"weight": weight, "bias": bias}}})
    images, measure = features.reshape(-1, 1, 2, 3), paper_protocol.PaperProtocol(proven_model, 4.0)

    def radius(labels):
        return measure.batch(Batch(0, images, labels))["radius"]

    found = radius(labels) / 0.25
    proven = lipjax.certificates.certify_lln(features, weight, bias, labels).radius
    assert (found >= proven * (1 - 1e-12)).all()
    assert np.median(found / proven) > 5
    monkeypatch.setattr(paper_protocol, "RIVALS", 19)
    np.testing.assert_allclose(radius(labels) / 0.25, proven, rtol=1e-10, atol=1e-12)
    assert (radius((labels + 1) % 20) == 0).all()


def test_it_is_printed_beside_the_proof(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    lines = []
    summary = certify_run(tmp_path / "run", num_examples=50, radii="0.1", say=lines.append, paper_protocol=True)
    folder = tmp_path / "run" / "certificates"

    def radii(name):
        with (folder / name).open() as file:
            return np.array([float(row["radius"]) for row in csv.DictReader(file)])

    # Ten classes have nine rivals; what is left is the bound of Lip(g), here std = 0.25.
    ours, papers = radii("per_image.csv"), radii("paper_protocol.csv")
    np.testing.assert_allclose(papers, ours * summary["lipschitz_bound"] * 0.25, rtol=1e-9, atol=1e-12)
    assert summary["paper_protocol_not_a_proof"] == {"0.1": (papers > 0.1).mean()}
    assert "paper's protocol at 0.1, not a proof" in "\n".join(lines)
