"""Released networks: their cards hold what certification finds, and nothing else is taken for them."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import lipjax
from experiments import release
from lipjax import released
from lipjax.commands import certify
from lipjax.config import default_config
from lipjax.data import DataError
from lipjax.evaluation.split import certify_run
from lipjax.evaluation.verify import NotVerified, compare_with_card
from lipjax.system import printed
from lipjax.system.lock import FolderLock, LockedError
from lipjax.training.loop import train
from lipjax.workdir import LOCK_FILE, load_trained, sectioned

NAMES = released.names()
PAGE = Path(__file__).parents[1] / "docs" / "released.md"
REAL = Path(__file__).parents[2] / "shared" / "data" / "tfds"


@pytest.fixture
def copied(tmp_path):
    """A folder of released networks that may be spoilt."""
    shutil.copytree(released.FOLDER, tmp_path / "pretrained")
    return tmp_path / "pretrained"


def test_there_are_networks_and_they_are_small():
    assert "digits" in NAMES
    for name in NAMES:
        assert (released.FOLDER / f"{name}.safetensors").stat().st_size <= 8e6


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_its_network_is(name):
    found = lipjax.load_pretrained(name)
    for key in ("recipe", "training_seconds", "machine", "licence", "images", "epochs", "seed", "config"):
        assert found.card[key] is not None, key
    proven = lipjax.prove(found.model, found.variables)
    assert proven.lipschitz_bound == pytest.approx(
        found.card["summary"]["lipschitz_bound"], rel=1e-6
    )  # of matrices that are made in float32, in threads
    assert not found.card["summary"]["rounding"]["unknown"]
    assert found.card["attacked"]["attack"]["detection_factor"] >= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_of_a_card_trains_by_its_config(name):
    card = lipjax.load_pretrained(name).card
    release.check_recipe(card["recipe"], sectioned(card["config"]))


def test_another_recipe_is_refused():
    card = lipjax.load_pretrained("digits").card
    with pytest.raises(ValueError, match=r"config\.run\.epochs=101 and not 100$"):
        release.check_recipe(card["recipe"] + " --config.run.epochs=101", sectioned(card["config"]))


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_the_numbers_of_the_card(name):
    card = lipjax.load_pretrained(name).card
    summary, attacked = card["summary"], card["attacked"]
    (row,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}` |")]
    certified = " / ".join(f"{100 * accuracy:.2f}" for accuracy in summary["certified_accuracy"].values())
    left = " / ".join(f"{100 * v:.2f}" for v in attacked["attack"]["robust_accuracy_upper_bound"].values())
    told = [
        f"{100 * summary['standard_accuracy']:.2f} %",
        f"{' / '.join(summary['certified_accuracy'])}: {certified} %",
    ]
    told += [printed.upper(summary["lipschitz_bound"], ".5f"), printed.upper(summary["rounding"]["error_bound"], ".1e")]
    seconds = card["training_seconds"]
    told += [f"{attacked['num_examples']}: {left} %", f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"]
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == told


@pytest.mark.parametrize("name", NAMES)
def test_the_first_200_images_have_the_numbers_of_the_card(name, tmp_path):
    workdir = released.unpack(name, tmp_path / "run")
    run = load_trained(workdir)
    loaded = lipjax.load_pretrained(name)
    pairs = zip(*(jax.tree.leaves_with_path(dict(read.variables)) for read in (run, loaded)), strict=True)
    for (path, one), (_, other) in pairs:
        # Factorisations are in float32 and in threads.  Where singular values are close rounding turns the image that
        # follows the largest, which only training reads.
        loose = 1e-3 if "image" in jax.tree_util.keystr(path) else 1e-6
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=loose)
    try:
        summary = certify_run(workdir, REAL if name != "digits" else None, lambda line: None, num_examples=200)
    except DataError:
        pytest.skip(f"{name}: its images are not on this machine")
    assert "as on the card" in compare_with_card(loaded.card, summary)
    for of_card in ("summary", "first_200", "attacked"):
        assert "as on the card" in compare_with_card(loaded.card, loaded.card[of_card])
    assert "of other images" in compare_with_card(loaded.card, summary | {"images_sha256": "0"})
    summary["standard_accuracy"] += 0.005
    with pytest.raises(NotVerified, match=f"card of {name}: standard_accuracy"):
        compare_with_card(loaded.card, summary)


def test_the_command_prints_the_table_of_the_card_again(tmp_path, capsys):
    assert certify.main(["--pretrained=digits", f"--workdir={tmp_path}/run"]) == 0
    card = lipjax.load_pretrained("digits").card["summary"]
    shown = capsys.readouterr().out
    for accuracy in (card["standard_accuracy"], *card["certified_accuracy"].values()):
        assert f"{accuracy:.2%}" in shown
    assert re.search(r"Lip\(features\) +2\.85715\n", shown)  # never below 2.8571429
    assert "as on the card of digits: 360 images of digits, test split" in shown
    assert certify.main(["--pretrained=digits", f"--workdir={tmp_path}/run", "--num_examples=20"]) == 0
    assert "the numbers above are of other images: 20 images of digits" in capsys.readouterr().out


def test_help_of_a_released_network_shows_its_config_and_unpacks_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert certify.main(["--pretrained=digits", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "here with the values of digits" in shown
    assert f"hidden = {released.card_of('digits')['config']['model']['hidden']}" in shown
    assert not list(tmp_path.iterdir())


def test_two_processes_do_not_unpack_into_one_folder(tmp_path):
    (tmp_path / "run").mkdir()
    with FolderLock(tmp_path / "run", LOCK_FILE, "training", print), pytest.raises(LockedError, match="training"):
        released.unpack("digits", tmp_path / "run")
    assert released.unpack("digits", tmp_path / "run") == tmp_path / "run"
    assert [path.name for path in (tmp_path / "run").glob("*.lock")] == []


@pytest.mark.parametrize("start", ["runs/mine", "/elsewhere/mine", "tiny"])
def test_a_network_that_began_with_a_workdir_is_not_released(trained, tmp_path, start):
    run = load_trained(trained[0])
    run.config.run.start_from = start
    with pytest.raises(
        ValueError, match=rf"config\.run\.start_from='{start}': must be another released network or None"
    ):
        released.release(run, "tiny", {"recipe": "none"}, tmp_path / "pretrained")
    run.config.run.start_from = "digits"
    released.release(run, "tiny", {"recipe": "none"}, tmp_path / "pretrained")
    assert released.card_of("tiny", tmp_path / "pretrained")["config"]["run"]["start_from"] == "digits"


def test_a_released_network_is_the_trained_one(trained, tmp_path):
    run = load_trained(trained[0])
    released.release(run, "tiny", {"recipe": "none"}, tmp_path / "pretrained")
    found = released.load_pretrained("tiny", tmp_path / "pretrained")
    images = np.random.default_rng(0).random((3, *run.data.image_shape), np.float32)
    one, other = (each.model.apply(each.variables, images) for each in (run, found))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["lipnext", "liresnet", "bronet", "convnet"])
def test_parameters_of_every_architecture_are_kept(name, tmp_path):
    """Also one of the name of a matrix that is left out: only what is made of kernels is."""
    config = default_config()
    config.data.name, config.run.epochs, config.run.batch_size = "digits", 1, 256
    config.model = {"name": name} | ({"width": 32, "depth": 1, "patch": 2} if name == "lipnext" else {"width": 8})
    train(config, tmp_path / "run", say=lambda line: None)
    run = load_trained(tmp_path / "run")
    released.release(run, "tiny", {"recipe": "none"}, tmp_path / "pretrained")
    found = released.read("tiny", tmp_path / "pretrained").variables
    jax.tree.map(np.testing.assert_array_equal, dict(run.saved)["params"], dict(found)["params"])


def test_what_was_released_stays_until_the_new_one_is_certified(trained, copied, monkeypatch):
    def contents():
        return {path.name: path.read_bytes() for path in copied.iterdir() if path.stem == "digits"}

    run, before, asked = load_trained(trained[0]), contents(), []

    with pytest.raises(ValueError, match="is not the one of the training"):  # its test images may have been trained on
        other = dataclasses.replace(run, data=dataclasses.replace(run.data, training_sha256="0"))
        release.replace(other, "digits", {"recipe": "none"}, None, 5, copied)
    assert contents() == before

    def certified(workdir, dataset, **options):
        assert contents() == before
        asked.append(options)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return {"lipschitz_bound": 1.0, "seconds": 1.0}

    monkeypatch.setattr(release, "certify_run", certified)
    with pytest.raises(KeyboardInterrupt):
        release.replace(run, "digits", {"recipe": "none"}, None, 5, copied)
    assert contents() == before
    release.replace(run, "digits", {"recipe": "none"}, None, 5, copied)
    assert released.card_of("digits", copied)["summary"] == {"lipschitz_bound": 1.0}
    assert contents().keys() == before.keys()
    assert all(contents()[name] != before[name] for name in before)


def test_a_file_that_lacks_a_parameter_is_told():
    found = lipjax.load_pretrained("digits")
    flat = load_file(released.FOLDER / "digits.safetensors")
    path = next(path for path in flat if path.startswith("params/"))
    with pytest.raises(ValueError, match=f"{path}: is missing"):
        released._whole(found.model, {name: array for name, array in flat.items() if name != path})


def test_an_unknown_name_is_told_with_those_there_are(capsys):
    with pytest.raises(ValueError, match=r"pretrained='digit': must be one of .*digits"):
        lipjax.load_pretrained("digit")
    assert certify.main(["--pretrained=../digits"]) == 1
    assert "must be one of" in capsys.readouterr().err


def test_a_damaged_file_is_not_loaded(copied):
    path = copied / "digits.safetensors"
    weights = bytearray(path.read_bytes())
    weights[-5] ^= 1
    path.write_bytes(weights)
    with pytest.raises(ValueError, match=r"digits\.safetensors: is damaged"):
        released.load_pretrained("digits", copied)


def test_a_card_of_another_format_is_told(copied):
    card = json.loads((copied / "digits.json").read_text())
    (copied / "digits.json").write_text(json.dumps(card | {"format": "2"}))
    with pytest.raises(ValueError, match="its format is '2'"):
        released.load_pretrained("digits", copied)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("config", "seed", 7), ("data", "pixel_max", 255), ("summary", "standard_accuracy", 1.0)],
)
def test_a_card_that_means_another_network_is_told(copied, section, key, value):
    card = json.loads((copied / "digits.json").read_text())
    changed = card[section] | {key: value}
    (copied / "digits.json").write_text(json.dumps(card | {section: changed}))
    with pytest.raises(ValueError, match=r"digits\.json: it has been changed"):
        released.load_pretrained("digits", copied)


def test_a_folder_of_another_run_is_not_overwritten(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ValueError, match="holds another run than 'digits'"):
        released.unpack("digits", tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_matrices_that_are_left_out_are_made_of_the_kernels(tmp_path):
    config = default_config()
    config.data = {"name": "digits", "crop_padding": 0, "flip": False}
    config.model = {"name": "liresnet", "width": 8, "depth": 1, "dense_width": 16, "dense_depth": 1}
    config.loss, config.run.epochs = {"name": "emma", "epsilon": 0.5}, 1
    train(config, tmp_path / "run", say=lambda line: None)
    trained = load_trained(tmp_path / "run")
    folder = tmp_path / "pretrained"
    released.release(trained, "mine", {}, folder)
    kept = load_file(folder / "mine.safetensors")
    assert not any(path.endswith("/matrix") for path in kept)
    found = lipjax.load_pretrained("mine", folder).variables
    jax.tree.map(np.testing.assert_array_equal, dict(found), dict(trained.variables))
    again = load_trained(released.unpack("mine", tmp_path / "unpacked", folder))
    jax.tree.map(np.testing.assert_array_equal, dict(again.variables), dict(trained.variables))
    raw = released.read("mine", folder).variables["spectral"]
    names = [name for name, kind in trained.saved["spectral"].items() if "matrix" in kind]
    assert names
    for name in names:  # before they are tightened too
        np.testing.assert_array_equal(raw[name]["matrix"], trained.variables["spectral"][name]["matrix"])
