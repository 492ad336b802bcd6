"""What a run's folder holds: a network that needs no data, and which data it was trained on."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from conftest import quiet, tiny_config

import lipjax
from lipjax import workdir as module
from lipjax.checkpoint import Checkpoints
from lipjax.config import default_config
from lipjax.data import Dataset, load
from lipjax.evaluation.split import certify_run
from lipjax.training.loop import train
from lipjax.workdir import folder_of, load_trained


def two_classes(seed=0, **changes):
    """A dataset of 6×6 arrays, dark and light."""
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % 2
    images = (rng.integers(0, 100, (60, 6, 6)) + 150 * labels[:, None, None]).astype(np.uint8)
    arguments = {"name": "mine", "class_names": ("dark", "light")} | changes
    return Dataset.of_arrays(train=(images[:40], labels[:40]), test=(images[40:], labels[40:]), **arguments)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """(workdir, dataset) of a tiny run from Python."""
    config, workdir, dataset = tiny_config(), tmp_path_factory.mktemp("given") / "run", two_classes()
    config.run.batch_size, config.run.epochs = 16, 2
    lipjax.train(config, str(workdir), quiet, dataset=dataset)
    return workdir, dataset


def test_a_network_needs_no_data(trained, monkeypatch):
    monkeypatch.setattr(module, "loaded", lambda *arguments: pytest.fail("data were read"))
    found = load_trained(trained[0])
    assert (found.data.name, found.data.image_shape, found.data.pixel_max) == ("digits", (8, 8, 1), 16)
    assert found.data.class_names == tuple("0123456789")
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)
    classes, radii = found.prove().predict(images)
    certificate = lipjax.certify(found.model, found.variables, images)
    np.testing.assert_array_equal(certificate.prediction, classes)
    np.testing.assert_array_equal(certificate.radius, radii)


def test_a_run_of_an_earlier_version_reads_its_data(trained, tmp_path, monkeypatch):
    """Whose checkpoints do not describe the data, and whose config lacks later keys."""
    workdir = shutil.copytree(trained[0], tmp_path / "run", ignore=shutil.ignore_patterns("certificates*"))
    metadata = Checkpoints.metadata

    def without(self, kind):
        found = metadata(self, kind)
        later = ("data.image_size", "data.fit", "data.channels", "data.test_fraction", "data.resized_crop")
        config = {key: value for key, value in found["config"].items() if key not in later}
        return {**{key: value for key, value in found.items() if key != "data"}, "config": config}

    monkeypatch.setattr(Checkpoints, "metadata", without)
    found = load_trained(workdir)
    assert found.data == load_trained(trained[0]).data
    config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    del config["data"]["fit"]
    (workdir / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_trained(workdir).data.fit == "crop"
    monkeypatch.undo()
    assert load_trained(workdir).data.fit == "crop"  # resumed by this version, so that the checkpoint has more keys


def test_a_dataset_from_python_is_trained_on_and_certified(given):
    workdir, dataset = given
    config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    assert (config["data"]["name"], config["data"]["data_dir"]) == ("mine", None)
    summary = certify_run(workdir, say=quiet, dataset=dataset)
    assert (summary["dataset"], summary["class_names"]) == ("mine", ["dark", "light"])
    assert summary["num_examples"] == 20
    assert summary["standard_accuracy"] > 0.5
    found = load_trained(workdir)
    assert (found.data.given, found.data.border, found.data.image_shape) == (True, ((0, 0), (0, 0)), (6, 6, 1))


def test_a_run_on_images_in_a_border_goes_on_with_images_without_one(given, tmp_path):
    """As an earlier version put them in; the network is the one that puts zeros around them itself."""
    plain, config = given[1], tiny_config()
    config.run.batch_size, config.run.epochs = 16, 2
    around = plain.surrounded(((1, 1), (1, 1)))
    lipjax.train(config, tmp_path, quiet, dataset=around)
    assert load_trained(tmp_path).data.image_shape == (8, 8, 1)
    first, second = (certify_run(tmp_path, say=quiet, dataset=dataset) for dataset in (around, plain))
    assert (first["images_sha256"], first["per_image_sha256"]) == (second["images_sha256"], second["per_image_sha256"])
    lipjax.train(config, tmp_path, quiet, dataset=plain)  # is finished, and is not another one
    own = certify_run(given[0], say=quiet, dataset=plain)
    assert own["certified_accuracy"] == first["certified_accuracy"]
    with pytest.raises(ValueError, match=r"is not the one of the training: image_shape was \(6, 6, 1\)"):
        certify_run(given[0], say=quiet, dataset=around)


def test_the_size_of_images_is_not_for_those_from_python(given, tmp_path):
    config = tiny_config()
    config.update_from_flattened_dict({"data.name": "folder", "data.image_size": 8})
    with pytest.raises(ValueError, match=r"config.data.image_size=8: must be None with a dataset .* \(6, 6, 1\)"):
        lipjax.train(config, tmp_path, quiet, dataset=given[1])


def test_without_the_dataset_it_says_so(given):
    with pytest.raises(
        ValueError, match=r"was trained from Python on the dataset 'mine', which is in no file; give it"
    ):
        certify_run(given[0], say=quiet)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 1}, "training_sha256 was .*, is "),
        ({"class_names": ("light", "dark")}, r"class_names was \('dark', 'light'\), is \('light', 'dark'\)"),
        ({"pixel_max": 250}, "pixel_max was 255, is 250"),
    ],
)
def test_another_dataset_is_refused_in_certification_and_when_resumed(given, other, message):
    workdir, _ = given
    for act in (
        lambda dataset: certify_run(workdir, say=quiet, dataset=dataset),
        lambda dataset: lipjax.train(load_trained(workdir).config, workdir, quiet, dataset=dataset),
    ):
        with pytest.raises(ValueError, match=f"dataset 'mine': is not the one of the training: {message}"):
            act(two_classes(**other))


def test_a_run_on_one_dataset_is_not_resumed_on_another(given, trained):
    config = tiny_config()
    config.run.batch_size, config.run.epochs = 16, 2
    with pytest.raises(ValueError, match=r"data.name: 'mine' there, 'digits' now"):
        lipjax.train(config, given[0], quiet)
    with pytest.raises(ValueError, match=r"data.name: 'digits' there, 'mine' now"):
        lipjax.train(config, trained[0], quiet, dataset=two_classes(class_names=None))


def test_the_same_run_goes_on(given):
    workdir, dataset = given
    config = tiny_config()
    config.run.batch_size, config.run.epochs = 16, 2
    lines = []
    lipjax.train(config, workdir, lines.append, dataset=dataset)
    assert any(line.startswith("resuming") for line in lines)


@pytest.mark.parametrize("name", ["digits", "of_tensorflow_datasets"])
def test_every_set_is_hashed_also_one_of_a_name(name):
    """The images of a name may be others too: those of another version, or that someone prepared anew."""
    digits = load("digits")
    found = lipjax.data.Description.of(digits, lipjax.data.DataOptions(name))
    found.check(digits)
    mirrored = digits.train._replace(images=digits.train.images[:, :, ::-1])
    with pytest.raises(ValueError, match="dataset 'digits': is not the one of the training: training_sha256 was"):
        found.check(dataclasses.replace(digits, train=mirrored))
    before = dataclasses.asdict(dataclasses.replace(found, training_sha256=None))  # as older runs have it
    lipjax.data.Description.from_json(before).check(digits)


def test_a_workdir_below_home_and_one_that_is_a_url(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_of("~/r1") == tmp_path / "r1"
    assert folder_of(tmp_path) == tmp_path
    for call in (load_trained, certify_run, lambda workdir: train(default_config(), workdir)):
        with pytest.raises(ValueError, match=r"^workdir='gs://bucket/r1': must be a folder of a file system"):
            call("gs://bucket/r1")
    for call in (load_trained, certify_run):
        with pytest.raises(FileNotFoundError, match=re.escape(f"workdir={str(tmp_path / 'r1')!r} has no config.json")):
            call("~/r1")
    with pytest.raises(ValueError, match="^workdir='~nobody_of_that_name/r1': must be a folder"):
        folder_of("~nobody_of_that_name/r1")
