"""The whole way of a curvature-head network: train, resume bit-equal, certify."""

import json

import jax
import numpy as np
import pytest

import lipjax
from lipjax.certificates import certify_crc
from lipjax.evaluation.split import certify_run
from lipjax.training.loop import train
from lipjax.workdir import load_trained


def test_resumed_run_is_bit_equal(trained_crc, tmp_path):
    _, config, unbroken = trained_crc

    class Stop(Exception):
        pass

    def stop(line):
        if line.startswith("epoch 1/2  loss"):
            raise Stop

    with pytest.raises(Stop):
        train(config, tmp_path, say=stop)
    resumed = train(config, tmp_path, say=lambda line: None)
    jax.tree.map(np.testing.assert_array_equal, resumed, unbroken)


def test_certify_run(trained_crc):
    workdir, *_ = trained_crc
    summary = certify_run(workdir, num_examples=60, radii="0.01", say=lambda line: None)
    assert 0 < summary["certified_accuracy"]["0.01"] <= summary["standard_accuracy"]
    assert (workdir / "checkpoints" / "curvature.npz").exists()
    trained = load_trained(workdir)
    dataset, model, variables = trained.dataset(), trained.model, trained.variables
    images, labels = dataset.test.images[:60].astype("float32") / 16, dataset.test.labels[:60]
    proven = lipjax.prove(model, variables)
    certificate = certify_crc(proven.features(images), variables["params"]["head"], labels)
    rows = (workdir / "certificates" / "per_image.csv").read_text().splitlines()[1:]
    radius = np.array([float(row.split(",")[4]) for row in rows])
    # Less what rounding may do, which is below 1e-9.
    np.testing.assert_allclose(radius, certificate.radius / summary["lipschitz_bound"], rtol=0, atol=1e-9)
    assert json.loads((workdir / "certificates" / "summary.json").read_text())["exact_fraction"] > 0.9
