"""Datasets of arrays, from Python and from .npz files: right, or refused in one line."""

import tracemalloc

import numpy as np
import pytest
from conftest import quiet

from lipjax.data import DataError, Dataset, Split, arrays, load
from lipjax.data.larger import at_size


def images(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (count, *shape), dtype=np.uint8)


def splits(size=8, channels=3):
    shape = (size, size, channels) if channels else (size, size)
    return (images(6, *shape), np.arange(6) % 3), (images(6, *shape, seed=1), np.arange(6) % 3)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (12, 20), (1, 3)])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (5,)])
def test_arrays_keep_their_shape(shape, channels):
    train, test = ((images(6, *shape, *channels, seed=seed), np.arange(6) % 3) for seed in (0, 1))
    data = Dataset.of_arrays("mine", train, test, ["x", "y", "z"])
    assert data.image_shape == (*shape, *(channels or (1,)))
    assert data.border == ((0, 0), (0, 0))
    for split, (given, labels) in ((data.train, train), (data.test, test)):
        np.testing.assert_array_equal(split.images.reshape(given.shape), given)
        np.testing.assert_array_equal(split.labels, labels)
        assert split.labels.dtype == np.int32
    assert (data.class_names, data.num_classes) == (("x", "y", "z"), 3)


def test_enlarged_training_images_are_brought_to_the_size_of_those_for_testing():
    """Whole: a picture of one colour stays that, and the mean of one that is smooth does not move."""
    ramp = np.broadcast_to(np.arange(14, dtype=np.uint8)[:, None, None] * 10, (14, 20, 2))
    large = np.stack([np.full((14, 20, 2), 77, np.uint8), ramp])
    data = Dataset.of_arrays("mine", (large, [0, 1]), (images(2, 7, 10, 2) // 2, [0, 1]), pixel_max=140, enlarged=True)
    assert (data.image_shape, data.train.images.shape[1:]) == ((7, 10, 2), (14, 20, 2))
    small = at_size(data, data.train)
    assert small.images.shape == (2, 7, 10, 2)
    assert (small.images[0] == 77).all()
    np.testing.assert_allclose(small.images[1, :, 3, 0], np.arange(7) * 20 + 5, atol=2)
    assert at_size(data, data.test) is data.test


def test_without_names_classes_are_numbers():
    train, test = splits()
    assert Dataset.of_arrays("mine", train, test).class_names == ("0", "1", "2")
    assert Dataset("mine", Split(*train), Split(*test), 5).class_names == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize("make", ["of_arrays", "constructor"])
@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": np.zeros((6, 8, 8, 3), np.float32)}, r"{part} images: must be uint8 \(N, H, W, C\).*got float32"),
        ({"images": np.zeros((6, 8, 8, 3), np.int64)}, r"{part} images: must be uint8 .*got int64"),
        ({"images": np.zeros((6, 64), np.uint8)}, r"{part} images: must be uint8 .*got uint8 \(6, 64\)"),
        ({"images": images(0, 8, 8, 3), "labels": np.zeros(0, int)}, r"{part} images: must be .*at least one"),
        ({"images": images(6, 16, 16, 3), "labels": np.arange(6) % 3}, r"train images are .*, test images"),
        ({"labels": np.zeros(9, int)}, r"{part} labels: must be \d integers, one an image; got int64 \(9,\)"),
        ({"labels": np.zeros((6, 3), int)}, r"{part} labels: must be \d integers, one an image"),
        ({"labels": np.zeros(6)}, r"{part} labels: must be \d integers, one an image; got float64"),
        ({"labels": np.array(["cat"] * 6)}, r"{part} labels: must be \d integers, one an image; got <U3"),
        ({"labels": np.array([0, 1, 2, 3, 0, 1])}, r"{part} labels: must lie in \[0, 3\)"),
        ({"labels": np.array([0, 1, 2, -1, 0, 1])}, r"{part} labels: must lie in \[0, 3\)"),
    ],
)
def test_wrong_arrays_are_refused_by_their_name(make, part, wrong, message):
    given = {name: Split(*split) for name, split in zip(("train", "test"), splits(), strict=True)}
    train, test = (given | {part: given[part]._replace(**wrong)}).values()
    with pytest.raises(ValueError, match="^dataset 'mine':? ?.*" + message.replace("{part}", part)) as raised:
        if make == "of_arrays":
            Dataset.of_arrays("mine", train, test, "abc")
        else:
            Dataset("mine", train, test, 3)
    assert "\n" not in str(raised.value)


BORDER = ((1, 1), (1, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": images(6, 8, 8, 3)}, r"train: must be \(images, labels\), got ndarray"),
        ({"num_classes": 1}, "num_classes=1: must be an integer from 2"),
        ({"num_classes": 3.0}, "num_classes=3.0: must be an integer"),
        ({"pixel_max": 256}, "pixel_max=256: must be an integer from 1 to 255"),
        ({"pixel_max": 16}, "train images: have pixels up to 2.*; pixel_max is 16"),
        ({"name": ""}, "name must be a text"),
        ({"class_names": ("a", "b")}, "2 class_names for 3 classes"),
        ({"class_names": ("a", "b", "a")}, "must be different texts .* got 'a'"),
        ({"class_names": ("a", "b", 3)}, "must be different texts .* got 3"),
        ({"class_names": ("a", "b", "")}, "must be different texts .* got ''"),
        ({"border": BORDER}, "has pixels that are not zero"),
        ({"border": ((8, 0), (0, 0))}, "within the images"),
        ({"border": ((-1, 0), (0, 0))}, "within the images"),
    ],
)
def test_wrong_descriptions_are_refused(arguments, message):
    train, test = splits()
    with pytest.raises(ValueError, match=message):
        Dataset(**{"name": "mine", "train": train, "test": test, "num_classes": 3, **arguments})


@pytest.mark.parametrize(
    ("shape", "enlarged", "message"),
    [
        (
            (9, 12, 3),
            False,
            r"train images are \(9, 12, 3\), test images \(8, 12, 3\); must be the same, or enlarged=True",
        ),
        ((9, 11, 3), True, r"enlarged train images are \(9, 11, 3\), must have at least the sides of \(8, 12, 3\)"),
        ((9, 13, 1), True, r"enlarged train images are \(9, 13, 1\), must have at least"),
    ],
)
def test_shapes_that_are_not_one(shape, enlarged, message):
    train, test = (images(6, *shape), np.arange(6) % 3), (images(3, 8, 12, 3), np.arange(3))
    with pytest.raises(ValueError, match=message):
        Dataset.of_arrays("mine", train, test, enlarged=enlarged)


def test_labels_from_1_are_no_labels_from_0():
    train, test = splits()
    with pytest.raises(ValueError, match="train labels: none is 0, but one is 3; must be 0, 1, …, or give class_names"):
        Dataset.of_arrays("mine", (train[0], train[1] + 1), (test[0], test[1] + 1))


def test_the_digest_is_of_what_is_learned_from():
    train, test = splits()
    data = Dataset.of_arrays("mine", train, test)
    other_test = Dataset.of_arrays("other", train, (test[0][::-1], test[1][::-1]))
    assert data.training_sha256() == other_test.training_sha256()
    pixel, label = train[0].copy(), train[1].copy()
    pixel[3, 1, 2, 0] ^= 1
    label[[0, 1]] = label[[1, 0]]
    for changed_train, names in (((pixel, train[1]), None), ((train[0], label), None), (train, "abc")):
        assert Dataset.of_arrays("mine", changed_train, test, names).training_sha256() != data.training_sha256()


NAMES = {
    "ours": ("train_images", "train_labels", "test_images", "test_labels"),
    "keras": ("x_train", "y_train", "x_test", "y_test"),
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_npz_files_are_read(tmp_path, names, column, dtype):
    train, test = splits(28, 0)
    values = [train[0], train[1].astype(dtype), test[0], test[1].astype(dtype)]
    if column:
        values[1], values[3] = values[1][:, None], values[3][:, None]
    np.savez_compressed(tmp_path / "a.npz", **dict(zip(NAMES[names], values, strict=True)))
    lines = []
    data = load("npz", tmp_path / "a.npz", lines.append)
    assert (data.name, data.image_shape, data.class_names) == ("a", (28, 28, 1), ("0", "1", "2"))
    np.testing.assert_array_equal(data.train.images[..., 0], train[0])
    np.testing.assert_array_equal(data.test.labels, test[1])
    assert len(lines) == 1
    assert lines[0].startswith(f"arrays of {tmp_path / 'a.npz'}: ")


def test_names_of_classes_come_with_the_file(tmp_path):
    (x, y), (u, v) = splits()
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=u, y_test=v, class_names=["cat", "dog", "zebra", "none"])
    assert load("npz", tmp_path / "a.npz", quiet).class_names == ("cat", "dog", "zebra", "none")


@pytest.mark.parametrize("names", [("images", "labels"), ("x_train", "y_train")])
def test_without_test_images_some_are_held_out(tmp_path, names):
    x, y = images(30, 8, 8), np.arange(30) % 3
    np.savez(tmp_path / "a.npz", **dict(zip(names, (x, y), strict=True)))
    data = load("npz", tmp_path / "a.npz", quiet, test_fraction=0.3)
    assert np.bincount(data.test.labels).tolist() == [3, 3, 3]
    assert np.bincount(data.train.labels).tolist() == [7, 7, 7]
    found = np.concatenate([data.train.images, data.test.images]).reshape(30, -1)
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(x.reshape(30, -1), axis=0))


IMAGES, LABELS = images(4, 8, 8), np.array([0, 0, 1, 1])
OURS = {"train_images": IMAGES, "train_labels": LABELS}


def changed_in_place(path, changes):
    """A file in which bytes of the headers of its members are others: at so many from the signature of each."""
    np.savez_compressed(path, **OURS)
    content = bytearray(path.read_bytes())
    for signature, offset, value in changes:
        start = content.find(signature)
        while start >= 0:
            content[start + offset] = value
            start = content.find(signature, start + 4)
    path.write_bytes(content)


def encrypted(path):
    changed_in_place(path, [(b"PK\x03\x04", 6, 1), (b"PK\x01\x02", 8, 1)])


def packed_otherwise(path):
    changed_in_place(path, [(b"PK\x03\x04", 8, 97), (b"PK\x01\x02", 10, 97)])


def damaged(path):
    np.savez_compressed(path, **OURS)
    content = bytearray(path.read_bytes())
    content[100:200] = b"\xff" * 100
    path.write_bytes(content)


def pickled(path):
    np.savez(path, x_train=np.array([None, {}], object), y_train=np.arange(2))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, r"a.npz: cannot be read as a .npz file of arrays \(FileNotFoundError"),
        (lambda path: path.write_bytes(b"x" * 100), r"a.npz: cannot be read as a .npz file of arrays \(BadZipFile"),
        (pickled, r"a.npz: cannot be read as a .npz file of arrays \(ValueError: Object arrays"),
        (lambda path: path.write_bytes(b""), r"a.npz: cannot be read as a .npz file of arrays \(BadZipFile"),
        (np.savez, "a.npz: has no arrays; needed: train_images"),
        (encrypted, r"a.npz: cannot be read as a .npz file of arrays \(RuntimeError: .*encrypted"),
        (packed_otherwise, r"a.npz: cannot be read as a .npz file of arrays \(NotImplementedError"),
        (damaged, r"a.npz: cannot be read as a .npz file of arrays \((error|BadZipFile)"),
        (lambda path: np.savez(path, **OURS, test_images=IMAGES), "a.npz: has test_images without test_labels; needed"),
        (lambda path: np.savez(path, **OURS, y_test=LABELS), "a.npz: has y_test without x_test; needed"),
        (lambda path: np.savez(path, train_images=IMAGES, y_train=LABELS), "has train_images without train_labels"),
        (lambda path: np.savez(path, labels=LABELS), "a.npz: has labels without images; needed"),
        (
            lambda path: np.savez(path, **OURS, class_names="cat"),
            r"a.npz: class_names is an array of the shape \(\); needed: \(N,\)",
        ),
        (lambda path: np.savez(path, images=IMAGES, labels=1), r"a.npz: labels is an array of the shape \(\); needed"),
        (lambda path: np.savez(path, images=1, labels=LABELS), r"a.npz: images is an array of the shape \(\); needed"),
        (lambda path: np.savez(path, images=IMAGES[:0], labels=LABELS[:0]), "a.npz: has 0 images and 0 labels"),
        (lambda path: np.savez(path, images=IMAGES, labels=np.zeros((4, 0), int)), "a.npz: has 4 images and 0 labels"),
        (lambda path: np.savez(path, a=np.zeros(1)), "has the arrays a; needed: train_images, train_labels"),
        (lambda path: np.savez(path, images=images(4, 8, 8), labels=np.arange(3)), "has 4 images and 3 labels"),
        (lambda path: np.savez(path, images=images(3, 8, 8), labels=[0, 0, 1]), "label 1: has 1 image; at least 2"),
        (
            lambda path: np.savez(path, images=images(4, 8, 8) / 255, labels=[0, 0, 1, 1]),
            "dataset 'a': train images: must be uint8 .*got float64",
        ),
    ],
)
def test_wrong_files_are_refused_by_their_name(tmp_path, write, message):
    write(tmp_path / "a.npz")
    with pytest.raises((DataError, ValueError), match=message) as raised:
        load("npz", tmp_path / "a.npz", quiet)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [32, 33, 63])
@pytest.mark.parametrize("with_test", [False, True])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_is_told_is_the_peak(tmp_path, monkeypatch, size, with_test, save):
    x, y = images(600, size, size, 3), np.arange(600) % 3
    save(tmp_path / "a.npz", x_train=x, y_train=y, **({"x_test": x[:200], "y_test": y[:200]} if with_test else {}))
    told = []
    monkeypatch.setattr(arrays, "tell_memory", lambda what, peak, say: told.append(peak))
    tracemalloc.start()
    try:
        load("npz", tmp_path / "a.npz", quiet)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.9 * told[0] < taken < 1.05 * told[0] + 2**20


def test_more_than_the_memory_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((100, 64, 64), np.uint8), labels=np.zeros(100, int))
    monkeypatch.setattr("lipjax.data.dataset.available_on_host", lambda: 2 * 100 * 64 * 64)
    monkeypatch.setattr(arrays.np, "load", lambda *arguments, **options: pytest.fail("was loaded"))
    with pytest.raises(DataError, match="need 821 kB of memory, 819 kB are available"):
        load("npz", tmp_path / "a.npz", quiet)


def test_a_border_of_an_older_version_is_put_around_and_counted(monkeypatch):
    given, labels = images(10, 5, 6, 2), np.arange(10) % 2
    data, border = Dataset.of_arrays("mine", (given, labels), (given, labels)), ((1, 2), (1, 1))
    monkeypatch.setattr("lipjax.data.dataset.available_on_host", lambda: 20 * 8 * 8 * 2)
    around = data.surrounded(border)
    assert (around.image_shape, around.border) == ((8, 8, 2), border)
    np.testing.assert_array_equal(around.train.images[:, 1:-2, 1:-1], given)
    assert around.train.images.sum() == given.sum()
    monkeypatch.setattr("lipjax.data.dataset.available_on_host", lambda: 20 * 8 * 8 * 2 - 1)
    with pytest.raises(DataError, match=r"'mine': in their border its images: need 2.56 kB of memory, 2.56 kB"):
        data.surrounded(border)
