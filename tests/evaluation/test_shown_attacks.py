"""The adversarial images that a report shows are those that the attack found."""

import shutil

import numpy as np
import pytest
from conftest import quiet

from lipjax.evaluation import split
from lipjax.evaluation.attack import Attack
from lipjax.evaluation.html_report import extremes
from lipjax.models import pgd
from lipjax.workdir import load_trained

ASKED = {"num_examples": 40, "batch_size": 20, "radii": "0.1,0.3", "attack": "fast", "say": quiet}


@pytest.fixture
def pages(monkeypatch):
    """What was written as pages, the last one last."""
    found = []
    write = split.write_html_report
    monkeypatch.setattr(split, "write_html_report", lambda path, page: (found.append(page), write(path, page)))
    return found


def test_they_are_misclassified_at_the_distance_of_attack_csv_however_often_it_was_stopped(
    trained, tmp_path, pages, monkeypatch
):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    split.certify_run(workdir, **ASKED)
    (page,) = pages
    shown = {int(i) for end in extremes(page.rows) for i in end}
    assert set(page.adversarial) == {i for i in shown if np.isfinite(page.closest[i])} != set()
    proven = load_trained(workdir).prove()
    for i, found in page.adversarial.items():
        image = (page.images[i].astype(np.float32) / np.float32(page.pixel_max))[None]
        assert pgd.distance(image, found.image[None])[0] == page.closest[i]
        with_label = pgd.margins_of_program(proven, found.image[None], page.rows["label"][[i]])
        assert with_label <= 0
        assert pgd.margins_of_program(proven, found.image[None], np.array([found.taken_for])) >= 0
        assert found.taken_for != page.rows["label"][i]

    whole, done = Attack.batch, []

    def stopped(self, batch):
        if done:
            raise KeyboardInterrupt
        done.append(batch)
        return whole(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Attack, "batch", stopped)
        split.certify_run(workdir, **ASKED)
    split.certify_run(workdir, **ASKED)  # the first batch is on disk, its images are not
    again = pages[-1]
    assert again.adversarial.keys() == page.adversarial.keys()
    for i, found in again.adversarial.items():
        np.testing.assert_array_equal(found.image, page.adversarial[i].image)
    assert [record["epoch"] for record in again.training] == [1, 2, 3, 4]
    assert again.config["model.init_channels"] == 2
    assert "data.data_dir" not in again.config
