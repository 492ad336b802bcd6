"""Results of whatever was asked stay side by side; two certifications of a split do not mix."""

import json
import os
import shutil

import pytest
from conftest import quiet, tiny_config

from lipjax.evaluation.kept import name_of
from lipjax.evaluation.split import certify_run
from lipjax.system.lock import FolderLock, LockedError
from lipjax.training.loop import train


@pytest.fixture(scope="module")
def workdir(trained, tmp_path_factory):
    copied = tmp_path_factory.mktemp("kept") / "run"
    shutil.copytree(trained[0], copied)
    return copied


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_smaller_ask_replaces_nothing(workdir):
    folder = workdir / "certificates"
    certify_run(workdir, say=quiet, num_examples=30, attack="fast", radii="0.1")
    (larger,) = (folder / "kept").iterdir()
    before, shown = contents(larger), contents(folder)
    assert before == shown
    assert {"attack.csv", "curve.png", "per_image.csv", "report.html", "summary.json"} == set(before)
    lines = []
    summary = certify_run(workdir, say=lines.append, num_examples=10, radii="0.2")
    smaller = folder / "kept" / name_of(summary)
    assert (summary["num_examples"], summary["images_in_split"]) == (10, 360)
    assert {larger, smaller} == set((folder / "kept").iterdir())
    assert contents(larger) == before
    assert contents(folder) == contents(smaller)
    assert json.loads((smaller / "summary.json").read_text())["num_examples"] == 10
    assert "attack.csv" not in contents(folder)
    assert str(smaller) in lines[-1]
    page = " ".join((folder / "report.html").read_text().split())
    assert "the first 10 of 360 images of the test split, at the radii 0.2, without an attack" in page
    assert f"kept/{smaller.name}" in page
    certify_run(workdir, say=quiet, num_examples=10, radii="0.2")  # the same once more
    assert {larger, smaller} == set((folder / "kept").iterdir())


CHANGES = [{"num_examples": 9}, {"split": "train"}, {"certified_accuracy": {"0.3": 0.5}}, {"float_slack": 1e-6}]
CHANGES += [{"attack": {"strength": "fast", "domain": domain}} for domain in ("images", "space")]
CHANGES += [{"float32": {"a": 1}}, {"precision": {"a": 1}}, {"paper_protocol_not_a_proof": {"a": 1}}]
CHANGES += [{"params_sha256": "b"}, {"images_sha256": "b"}, {"num_examples": 10}]


def test_whatever_differs_in_what_was_asked_has_another_name():
    missing = dict.fromkeys(("attack", "float32", "precision", "paper_protocol_not_a_proof"))
    plain = {"dataset": "d", "split": "test", "num_examples": 8, "images_in_split": 10, "float_slack": 0.0, **missing}
    plain |= {"params_sha256": "a", "images_sha256": "a", "certified_accuracy": {"0.3": 0.5, "0.5": 0.1}}
    names = {name_of(plain), *(name_of(plain | change) for change in CHANGES)}
    assert len(names) == 1 + len(CHANGES)
    assert name_of(plain | {"seconds": 3, "standard_accuracy": 0.5}) == name_of(plain)
    assert name_of(plain).startswith("first-8_")
    assert name_of(plain | {"num_examples": 10}).startswith("all_")


def test_a_second_certification_of_the_split_is_refused_while_one_goes_on(workdir):
    folder = workdir / "certificates"
    before = contents(folder)
    with (
        FolderLock(folder, "certifying.lock", "certifying", quiet),
        pytest.raises(LockedError, match=f"process {os.getpid()} .* has been certifying there"),
    ):
        certify_run(workdir, say=quiet, num_examples=5, radii="0.1")
    assert contents(folder) == before
    certify_run(workdir, say=quiet, num_examples=5, radii="0.1")


def test_a_line_before_whatever_takes_time(workdir):
    lines = []
    certify_run(workdir, say=lines.append, num_examples=5, radii="0.1")
    assert lines[:3] == ["reading digits …", "proving a bound of the Lipschitz constant …", "certifying 5 images …"]


def test_results_of_a_lipjax_that_kept_none_are_kept_first(workdir):
    folder = workdir / "certificates"
    certify_run(workdir, say=quiet, num_examples=12, radii="0.1")
    shutil.rmtree(folder / "kept")
    summary = json.loads((folder / "summary.json").read_text())
    old = {key: value for key, value in summary.items() if key not in ("images_in_split", "precision")}
    (folder / "summary.json").write_text(json.dumps(old))
    before = contents(folder)
    certify_run(workdir, say=quiet, num_examples=5, radii="0.1")
    assert before in [contents(path) for path in (folder / "kept").iterdir()]


def test_a_training_that_is_not_finished_is_named(tmp_path):
    config = tiny_config()
    config.run.epochs = 1
    train(config, tmp_path, say=quiet)
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"run": json.loads(path.read_text())["run"] | {"epochs": 3}})
    )
    lines = []
    assert certify_run(tmp_path, say=lines.append, num_examples=5, radii="0.1")["epochs"] == 1
    assert lines[0] == "the training is not finished: 1 of 3 epochs are done"
