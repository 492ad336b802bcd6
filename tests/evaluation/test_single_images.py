"""Single pictures from files: each is brought to the network as those of its training, or refused by its name."""

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import quiet, tiny_config
from PIL import Image

from lipjax.data import DataError, DataOptions, Description, load, loaded
from lipjax.evaluation.single_images import certify_files, files_of
from lipjax.evaluation.split import certify_run
from lipjax.training.loop import train
from lipjax.workdir import load_trained

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"(.*\S) +(\S+), certified radius (\d+\.\d{4}|inf), runner-up (\S+)")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def config_of(**changes):
    config = tiny_config()
    config.run.batch_size, config.run.epochs, config.data.validation_fraction = 8, 2, 0.0
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of two classes, dark and bright, of several sizes."""
    root, rng = tmp_path_factory.mktemp("own") / "pictures", np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 150)):
        for index in range(12):
            shape = (10 + index % 3, 14, 3)
            save(root / name / f"{index}.png", rng.integers(low, low + 100, shape, dtype=np.uint8))
    return root


@pytest.fixture(scope="module")
def own(pictures, tmp_path_factory):
    """(workdir, the folder) of a tiny run on them, 6×6, grey."""
    workdir = tmp_path_factory.mktemp("own") / "run"
    options = {"data.name": "folder", "data.data_dir": str(pictures), "data.image_size": 6}
    train(config_of(**options, **{"data.fit": "pad", "data.channels": 1}), workdir, quiet)
    return workdir, pictures


def lines_of(workdir, images, **options):
    lines = []
    certify_files(workdir, images, lines.append, **options)
    return [LINE.fullmatch(line).groups() for line in lines]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3, None])
def test_pictures_are_brought_to_the_network_as_in_training(pictures, fit, channels):
    """The files that were held out are the images of the test split."""
    options = DataOptions("folder", str(pictures), image_size=6, fit=fit, channels=channels)
    data = loaded(options, quiet)
    assert (data.image_shape, data.border) == ((6, 6, channels or 3), ((0, 0), (0, 0)))
    files = sorted(pictures.glob("*/*"))
    read = Description.of(data, options).read(files)
    for image, label in zip(data.test.images, data.test.labels, strict=True):
        same = [path for path, own in zip(files, read, strict=True) if (own == image / np.float32(255)).all()]
        assert [path.parent.name for path in same] == [data.class_names[label]]


def test_lines_are_what_is_certified(own):
    workdir, root = own
    trained, files = load_trained(workdir), sorted(root.glob("*/*"))
    certificate = trained.prove().certify(trained.data.read(files))
    found = lines_of(workdir, ",".join(map(str, files)))
    assert [line[0] for line in found] == [str(path) for path in files]
    names = trained.data.class_names
    assert [line[1] for line in found] == [names[number] for number in certificate.prediction]
    assert [line[3] for line in found] == [names[number] for number in certificate.rival]
    radius = np.array([float(line[2]) for line in found])
    assert (radius <= certificate.radius).all()  # rounded down
    assert (radius > certificate.radius - 1e-4).all()
    assert radius.max() > 0
    assert lines_of(workdir, str(root / "dark"), batch_size=5) == [line for line in found if "/dark/" in line[0]]


def test_no_image_of_the_training_is_needed(own, tmp_path):
    workdir, root = own
    moved = shutil.copytree(workdir, tmp_path / "deployed")
    path = shutil.copy(root / "dark" / "0.png", tmp_path / "a.png")
    hidden = root.rename(root.with_name("gone"))
    try:
        ((_, name, _, rival),) = lines_of(moved, str(path))
        assert {name, rival} == {"dark", "light"}
        with pytest.raises(DataError, match="is no folder"):
            certify_run(moved, say=quiet)
        hidden.rename(tmp_path / "elsewhere")
        summary = certify_run(moved, str(tmp_path / "elsewhere"), say=quiet)
        assert (summary["dataset"], summary["class_names"]) == ("pictures", ["dark", "light"])
        assert "<td>light</td>" in (moved / "certificates" / "report.html").read_text(encoding="utf-8")
    finally:
        (hidden if hidden.exists() else tmp_path / "elsewhere").rename(root)


def test_other_training_images_than_before_are_refused(own, tmp_path):
    workdir, root = own
    changed = shutil.copytree(root, tmp_path / "changed")
    save(changed / "dark" / "more.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="dataset 'changed': is not the one of the training: training_sha256 was"):
        certify_run(workdir, str(changed), say=quiet)
    shutil.copytree(root / "dark", changed / "other")
    with pytest.raises(ValueError, match=r"class_names was \('dark', 'light'\), is \('dark', 'light', 'other'\)"):
        certify_run(workdir, str(changed), say=quiet)


def test_a_network_of_digits_takes_grey_pictures_of_8_by_8(trained, tmp_path):
    digits = load("digits")
    found = load_trained(trained[0])
    for index in range(5):
        save(tmp_path / f"{index}.png", (digits.test.images[index, ..., 0] * 255.0 / 16).round().astype(np.uint8))
    lines = lines_of(trained[0], str(tmp_path / "?.png"))
    certificate = found.prove().certify(digits.test.images[:5].astype(np.float32) / 16)
    assert [int(line[1]) for line in lines] == certificate.prediction.tolist()
    np.testing.assert_allclose([float(line[2]) for line in lines], certificate.radius, atol=0.02)


def test_pictures_with_the_values_of_the_digits_are_refused_by_their_name(trained, tmp_path):
    """0 … 16, as in the arrays: divided by 255 they would be all but black."""
    digit = load("digits").test.images[0, ..., 0]
    save(tmp_path / "a.png", digit * 15)
    save(tmp_path / "b.png", digit)
    data = load_trained(trained[0]).data
    with pytest.raises(DataError, match=r"b.png: its largest value is 16, .* 'digits', .* 0 … 16; needed: 0 … 255"):
        data.read([tmp_path / "a.png", tmp_path / "b.png"])
    of_255 = dataclasses.replace(data, pixel_max=255)
    np.testing.assert_array_equal(of_255.read([tmp_path / "b.png"])[0, ..., 0], digit / np.float32(255))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((9, 8), np.uint8),
            "a.png: has 8×9 pixels of 1 channel, needed: 8×8 pixels of 1 channel, as the images",
        ),
        (np.zeros((8, 8, 3), np.uint8), "a.png: has 8×8 pixels of 3 channels, needed: 8×8 pixels of 1 channel"),
        (None, "a.png: cannot be decoded as PNG, JPEG or WebP"),
        (b"x", "a.png: cannot be decoded as PNG, JPEG or WebP"),
    ],
)
def test_pictures_of_another_form_are_refused_by_their_name(trained, tmp_path, array, message):
    path = tmp_path / "a.png"
    if isinstance(array, bytes):
        path.write_bytes(array)
    elif array is not None:
        save(path, array)
    with pytest.raises(DataError, match=message):
        certify_files(trained[0], str(path), quiet)


def test_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.jpg", "c[1].png", "d,e.png", "f/1.png", "f/2.webp", "f/notes.txt", "f/.hidden.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"")
    for text, names in {
        "b.jpg,a.png": ["b.jpg", "a.png"],
        "c[1].png": ["c[1].png"],
        "d,e.png": ["d,e.png"],
        "f": ["f/1.png", "f/2.webp"],
        "[ab].*,f/1.png": ["a.png", "b.jpg", "f/1.png"],
        "missing.png": ["missing.png"],  # told by its name when it is read
    }.items():
        assert [str(path) for path in files_of(text)] == names
    Path("empty").mkdir()
    for text in ("empty", "*.gif", "", "a.png,"):
        with pytest.raises(DataError, match=r"images='.*': no PNG, JPEG or WebP file there"):
            files_of(text)


def test_a_list_longer_than_a_name_may_be(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(1000)]
    paths[0].touch()
    assert files_of(",".join(map(str, paths))) == paths
    long = "x" * 5000 + ".png"
    assert files_of(f"{long},{paths[0]}") == [Path(long), paths[0]]
    with pytest.raises(DataError, match="no PNG, JPEG or WebP file there"):
        files_of("x" * 5000 + "*")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"batch_size": -1}, "batch_size=-1: must be at least 1"),
        ({"float_slack": -0.1}, "float_slack=-0.1: must be a finite number >= 0"),
        ({"float_slack": float("nan")}, "float_slack=nan: must be a finite number >= 0"),
        ({"precision": "float16"}, "precision='float16': must be one of"),
    ],
)
def test_wrong_options_are_refused_before_the_proof(trained, tmp_path, options, message):
    save(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    told = []
    with pytest.raises(ValueError, match=message):
        certify_files(trained[0], str(tmp_path / "a.png"), told.append, told.append, **options)
    assert not told


def test_the_command(trained, tmp_path):
    save(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    command = [sys.executable, "certify.py", f"--workdir={trained[0]}", f"--images={tmp_path / 'a.png'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert LINE.fullmatch(done.stdout.strip()), done.stdout
    refused = subprocess.run([*command, "--attack=fast"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr == "certify.py: --attack: is of a whole split; it cannot go with --images\n"
