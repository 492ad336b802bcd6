"""Runs of lipjax 0.1, trained and certified by that version, are certified by this one to the same radii."""

import csv
import json
import zipfile

import numpy as np
import pytest
from conftest import GOLDEN

from lipjax.evaluation.split import certify_run
from lipjax.training.recipe import Recipe
from lipjax.workdir import read_config


@pytest.mark.parametrize("name", ["run_lln", "run_crc"])
def test_radii_are_those_of_that_version(name, tmp_path):
    with zipfile.ZipFile(GOLDEN / "runs_of_0_1.zip") as file:
        file.extractall(tmp_path)
    workdir = tmp_path / name
    path = workdir / "certificates" / "per_image.csv"
    with path.open() as file:
        theirs = list(csv.DictReader(file))
    assert "depth" in json.loads((workdir / "config.json").read_text())  # flat
    certify_run(workdir, num_examples=len(theirs), say=lambda line: None)
    with path.open() as file:
        ours = list(csv.DictReader(file))
    for column in ("index", "label", "prediction", "rival", "exact"):
        assert [row[column] for row in ours] == [row[column] for row in theirs]
    radii = [np.array([float(row["radius"]) for row in rows]) for rows in (ours, theirs)]
    # The same bytes on the machine that wrote them; on another one float32 features differ in their last bits.
    np.testing.assert_allclose(*radii, rtol=0, atol=2e-6)
    assert radii[0].max() > 0.1


def test_its_config_means_the_same(tmp_path):
    with zipfile.ZipFile(GOLDEN / "runs_of_0_1.zip") as file:
        file.extract("run_crc/config.json", tmp_path)
    recipe = Recipe.of(read_config(tmp_path / "run_crc"))
    assert (recipe.model_options["head"], recipe.model_options["degree"], recipe.run.radii) == ("crc", 3, "0.1,0.25")
    assert (recipe.loss.attack_radius, recipe.optimizer.options["clip_norm"]) == (0.2, 1.0)
    assert (recipe.data.crop_padding, recipe.run.epochs) == (1, 2)
