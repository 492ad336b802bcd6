"""Images of one's own from a folder: what is read, in which form, and what is refused by which name."""

import hashlib
import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import quiet, tiny_config
from PIL import Image

from lipjax.data import DataError, folder, load
from lipjax.data.pictures import Form, decoded
from lipjax.training.loop import train


def picture(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def fill(root, counts, shape=(8, 8, 3)):
    """So many pictures in each folder, each different."""
    for seed, (name, count) in enumerate(counts.items()):
        for index in range(count):
            save(root / name / f"{index:03}.png", picture(shape, 1000 * seed + index))


def read(root, **options):
    return load("folder", root, quiet, **options)


def test_classes_are_the_folders_and_pixels_those_of_the_files(tmp_path):
    fill(tmp_path, {"train/b": 3, "train/a": 2, "test/a": 1, "test/b": 2})
    data = read(tmp_path)
    assert (data.name, data.class_names, data.num_classes) == (tmp_path.name, ("a", "b"), 2)
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 0, 1, 1, 1], [0, 1, 1])
    for split, name in ((data.train, "train"), (data.test, "test")):
        files = sorted((tmp_path / name).glob("*/*"))
        np.testing.assert_array_equal(split.images, np.stack([np.asarray(Image.open(path)) for path in files]))
    assert (data.border, data.pixel_max, data.train.images.dtype) == (((0, 0), (0, 0)), 255, np.uint8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "webp", "WebP"])
def test_each_format_is_read(tmp_path, suffix):
    for name in ("a", "b"):
        for index in range(2):
            save(tmp_path / name / f"{index}.{suffix}", np.full((8, 8, 3), 40 * index + 20, np.uint8))
    data = read(tmp_path)
    found = np.sort(np.concatenate([data.train.images, data.test.images]).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(found, [20, 20, 60, 60], atol=2)  # JPEG and WebP lose a little


@pytest.mark.parametrize("inner", ["", "train/"])
def test_a_fraction_of_each_class_is_held_out_by_the_names_of_the_files(tmp_path, inner):
    fill(tmp_path, {f"{inner}a": 10, f"{inner}b": 5, f"{inner}c": 2})
    data = read(tmp_path, test_fraction=0.2)
    assert np.bincount(data.test.labels).tolist() == [2, 1, 1]
    assert np.bincount(data.train.labels).tolist() == [8, 4, 1]
    keys = sorted(hashlib.sha256(f"a/{index:03}.png".encode()).hexdigest() for index in range(10))
    chosen = {i for i in range(10) if hashlib.sha256(f"a/{i:03}.png".encode()).hexdigest() in keys[:2]}
    expected = [np.asarray(Image.open(tmp_path / inner / "a" / f"{index:03}.png")) for index in sorted(chosen)]
    np.testing.assert_array_equal(data.test.images[:2], expected)
    together = np.concatenate([data.train.images, data.test.images]).reshape(17, -1)
    assert len(np.unique(together, axis=0)) == 17  # none is in both
    again = read(tmp_path, test_fraction=0.2)
    np.testing.assert_array_equal(again.test.images, data.test.images)


@pytest.mark.parametrize("shape", [(28, 28, 3), (8, 12, 3), (3, 1, 3)])
def test_pictures_keep_their_shape(tmp_path, shape):
    fill(tmp_path, {"a": 2, "b": 2}, shape)
    data = read(tmp_path)
    assert (data.image_shape, data.border) == (shape, ((0, 0), (0, 0)))
    expected = sorted(np.asarray(Image.open(path)).tobytes() for path in tmp_path.glob("*/*"))
    assert sorted(image.tobytes() for split in (data.train, data.test) for image in split.images) == expected


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(20, 40, 3), (40, 20, 3), (16, 16, 3), (5, 9, 3)])
def test_pictures_of_any_shape_are_brought_to_one_size(tmp_path, fit, shape):
    fill(tmp_path, {"a": 2, "b": 2}, shape)
    save(tmp_path / "a" / "other.png", picture((31, 17, 3)))
    data = read(tmp_path, image_size=16, fit=fit)
    assert data.image_shape == (16, 16, 3)
    assert read(tmp_path, image_size=(12, 20), fit=fit).image_shape == (12, 20, 3)


def test_for_random_crops_training_images_are_larger(tmp_path):
    fill(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1}, (30, 40, 3))
    lines = []
    data = load("folder", tmp_path, lines.append, image_size=[14, 21], resized_crop=0.5)
    assert (data.train.images.shape, data.test.images.shape) == ((4, 16, 24, 3), (2, 14, 21, 3))
    assert (data.enlarged, data.image_shape) == (True, (14, 21, 3))
    assert lines == [f"6 images of 2 classes in {tmp_path}, 21×14 pixels of 3 channels: 6.37 kB of memory"]
    plain = read(tmp_path, image_size=(14, 21))
    np.testing.assert_array_equal(plain.test.images, data.test.images)
    assert plain.train.images.shape == (4, 14, 21, 3)
    as_found = load("folder", tmp_path, quiet, resized_crop=0.5)
    assert as_found.train.images.shape == (4, 30, 40, 3)


def test_crop_takes_the_middle_pad_all_and_stretch_all(tmp_path):
    """A white stripe left, black in the middle, grey right: 8 high, 24 wide."""
    stripes = np.repeat(np.uint8([255, 0, 100]), 8)[None, :, None] * np.ones((8, 1, 3), np.uint8)
    path = save(tmp_path / "a.png", stripes)
    assert decoded(path, Form((8, 8), "crop")).max() == 0
    padded = decoded(path, Form((24, 24), "pad"))
    assert padded[:8].max() == padded[16:].max() == 0
    np.testing.assert_array_equal(padded[8:16], stripes)
    stretched = decoded(path, Form((24, 24), "stretch"))
    np.testing.assert_array_equal(stretched[::3], stripes)
    np.testing.assert_array_equal(stretched[1], stretched[0])


def grey_ramp():
    return np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def with_alpha(mode):
    """Half transparent black where even, opaque 100 where odd."""
    alpha = np.where(np.arange(8) % 2, 255, 0).astype(np.uint8) * np.ones((8, 1), np.uint8)
    value = np.where(np.arange(8) % 2, 100, 0).astype(np.uint8) * np.ones((8, 1), np.uint8)
    return Image.fromarray(np.stack([value] * (1 if mode == "LA" else 3) + [alpha], -1), mode)


def palette():
    image = Image.fromarray(grey_ramp() % 3, "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    return image


STRIPED = np.where(np.arange(8) % 2, 100, 255) * np.ones((8, 1), int)
PALETTE = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])[grey_ramp() % 3]
KINDS = {
    "grey": (lambda: Image.fromarray(grey_ramp()), grey_ramp()[..., None]),
    "two levels": (lambda: Image.fromarray(grey_ramp() > 99), 255 * (grey_ramp() > 99)[..., None]),
    "palette": (palette, PALETTE),
    "16 bits": (lambda: Image.fromarray(grey_ramp().astype(np.uint16) * 256 + 255), grey_ramp()[..., None]),
    "grey over white": (lambda: with_alpha("LA"), STRIPED[..., None]),
    "colours over white": (lambda: with_alpha("RGBA"), np.repeat(STRIPED[..., None], 3, -1)),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_pixels_has_one_meaning(tmp_path, kind):
    make, expected = KINDS[kind]
    make().save(tmp_path / "a.png")
    np.testing.assert_array_equal(decoded(tmp_path / "a.png", Form()), expected)
    three = decoded(tmp_path / "a.png", Form(channels=3))
    np.testing.assert_array_equal(three, np.broadcast_to(expected, (8, 8, 3)))
    one = decoded(tmp_path / "a.png", Form(channels=1))
    assert one.shape == (8, 8, 1)
    if expected.shape[-1] == 1:
        np.testing.assert_array_equal(one, expected)
    else:
        weights = np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(one[..., 0], expected @ weights, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_data_say(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = picture((8, 8, 3))
    save(tmp_path / "a.png", array, exif=exif)
    turned = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: np.rot90(array, -1),
        7: array[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(array),
    }
    np.testing.assert_array_equal(decoded(tmp_path / "a.png", Form()), turned[orientation])


def test_of_an_animation_the_first_picture_is_taken(tmp_path):
    first, second = (Image.fromarray(picture((8, 8, 3), seed)) for seed in (1, 2))
    first.save(tmp_path / "a.png", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decoded(tmp_path / "a.png", Form()), picture((8, 8, 3), 1))


def test_hidden_files_are_none_and_files_of_other_kinds_are_told(tmp_path):
    fill(tmp_path, {"a": 3, "b": 3})
    for name in (".DS_Store", "a/.hidden.png", "a/notes.txt", "README.md"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".cache").mkdir()
    lines = []
    data = load("folder", tmp_path, lines.append)
    assert len(data.train.labels) + len(data.test.labels) == 6
    assert lines[0] == f"ignored: 2 files that are no PNG, JPEG or WebP, such as {tmp_path / 'README.md'}"
    assert lines[1] == f"6 images of 2 classes in {tmp_path}, 8×8 pixels of 3 channels: 1.15 kB of memory"


def broken(root, name, content=b"not a picture"):
    fill(root, {"a": 4, "b": 4})
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


@pytest.mark.parametrize(("bits", "color", "row"), [(2, 0, b"\x1b"), (16, 0, b"\x9c\x40" * 4), (16, 2, b"\1\2" * 12)])
def test_a_transparent_colour_that_pillow_does_not_find_is_refused(tmp_path, bits, color, row):
    """Pillow compares it as it stands with pixels of 8 bits, and would leave the pixels as they are."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 4, 1, bits, color, 0, 0, 0)
    key = struct.pack(">H", 1) if color == 0 else b"\1\2" * 3
    parts = [chunk(b"IHDR", head), chunk(b"tRNS", key), chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(DataError, match=r"a\.png: .*one colour of other than 8 bits is transparent"):
        decoded(tmp_path / "a.png", Form())


def png_of(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


WRONG = {
    "no folder": (lambda root: root.rmdir(), r"data_dir='{root}': is no folder; needed: train/CLASS/… and test/CLASS"),
    "a file": (lambda root: (root.rmdir(), root.write_text("")), r"data_dir='{root}': is no folder"),
    "nothing": (lambda root: None, r"{root}: has 0 folders of classes, needed: at least 2"),
    "one class": (lambda root: fill(root, {"a": 3}), r"{root}: has 1 folders of classes"),
    "an empty class": (
        lambda root: (fill(root, {"a": 3, "b": 3}), (root / "c").mkdir()),
        r"{root}/c: has no PNG, JPEG or WebP file",
    ),
    "an empty class for testing": (
        lambda root: (fill(root, {"train/a": 1, "train/b": 1, "test/a": 1}), (root / "test" / "b").mkdir()),
        r"{root}/test/b: has no PNG",
    ),
    "a class for testing alone": (
        lambda root: fill(root, {"train/a": 1, "train/b": 1, "test/a": 1, "test/c": 1}),
        r"{root}/test/c: is a class without training images",
    ),
    "a single image": (lambda root: fill(root, {"a": 3, "b": 1}), r"class 'b': has 1 image; at least 2"),
    "val beside train": (
        lambda root: fill(root, {"train/a": 1, "train/b": 1, "val/a": 1}),
        r"{root}/val: beside train only test may be",
    ),
    "pictures without a class": (lambda root: broken(root, "x.png"), r"{root}/x.png: is in no folder of a class"),
    "a folder in a class": (lambda root: broken(root, "a/more/1.png"), r"{root}/a/more: is a folder where images"),
    "another format": (lambda root: broken(root, "a/x.gif"), r"{root}/a/x.gif: is no PNG, JPEG or WebP file; convert"),
    "no picture": (lambda root: broken(root, "b/0.png"), r"{root}/b/0.png: cannot be decoded as PNG, JPEG or WebP \("),
    "an empty file": (lambda root: broken(root, "b/0.jpg", b""), r"{root}/b/0.jpg: cannot be decoded"),
    "a truncated file": (
        lambda root: broken(root, "b/001.png", png_of(picture((8, 8, 3)))[:-60]),
        r"{root}/b/001.png: cannot be decoded",
    ),
    "a broken link": (
        lambda root: (fill(root, {"a": 2, "b": 2}), (root / "b" / "x.png").symlink_to("nowhere")),
        r"{root}/b/x.png: cannot be decoded",
    ),
    "another size": (
        lambda root: broken(root, "b/001.png", png_of(picture((8, 9, 3)))),
        r"{root}/b/001.png: has 9×8 pixels of 3 channels, needed: 8×8 pixels of 3 channels, as {root}/a/000.png; ",
    ),
    "another number of channels": (
        lambda root: broken(root, "b/001.png", png_of(picture((8, 8)))),
        r"{root}/b/001.png: has 8×8 pixels of 1 channel, needed: 8×8 pixels of 3 channels",
    ),
    "a name that is not printable": (
        lambda root: fill(root, {"a": 2, "b\n": 2}),
        r"class_names must be .*, got 'b\\n'",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_refused_by_its_name(tmp_path, kind):
    make, message = WRONG[kind]
    root = tmp_path / "pictures"
    root.mkdir()
    make(root)
    with pytest.raises((DataError, ValueError), match=message.replace("{root}", re.escape(str(root)))) as raised:
        read(root)
    assert "\n" not in str(raised.value)


def test_more_than_the_memory_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    fill(tmp_path, {"a": 2, "b": 2})
    monkeypatch.setattr("lipjax.data.dataset.available_on_host", lambda: 4 * 8 * 8 * 3 - 1)
    monkeypatch.setattr(folder, "decode_into", lambda *arguments: pytest.fail("was decoded"))
    with pytest.raises(DataError, match="need 768 bytes of memory, 767 bytes are available"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_dir": None}, "config.data.data_dir=None: must name a folder of images with config.data.name='folder'"),
        ({"image_size": 0}, r"image_size=0: must be an integer from 1 to 4096, \(height, width\) of such, or None"),
        ({"image_size": (8, 8, 3)}, r"image_size=\(8, 8, 3\): must be an integer from 1"),
        ({"image_size": (8, 5000)}, r"image_size=\(8, 5000\): must be an integer from 1"),
        ({"image_size": True}, "image_size=True: must be an integer from 1"),
        ({"resized_crop": 1.5}, r"resized_crop=1.5: must be a number in \[0, 1\]"),
        ({"fit": "squash"}, r"fit='squash': must be one of \('crop', 'pad', 'stretch'\)"),
        ({"channels": 4}, "channels=4: must be 1, 3 or None"),
        ({"test_fraction": 1}, r"test_fraction=1: must be a number in \(0, 1\)"),
        ({"name": "cifar10", "channels": 1}, "channels=1: is for name='folder' only, got name='cifar10'"),
        ({"name": "digits", "image_size": 8}, "image_size=8: is not for name='digits', whose images have one"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(**{"name": "folder", "data_dir": tmp_path, **options})


def test_a_relative_folder_is_the_same_from_everywhere(tmp_path, monkeypatch):
    from lipjax.data import DataOptions

    monkeypatch.chdir(tmp_path)
    assert DataOptions("folder", "pictures").data_dir == str(Path.cwd() / "pictures")


@pytest.mark.parametrize("inside", [".", "run", "train/run"])
def test_a_run_within_its_images_is_refused_before_it_begins(tmp_path, inside):
    """Of which it would be a class when they are read again."""
    root = tmp_path / "pictures"
    fill(root, {"train/cat": 3, "train/dog": 3})
    files = sorted(root.rglob("*"))
    config = tiny_config()
    config.update_from_flattened_dict({"data.name": "folder", "data.data_dir": str(root)})
    with pytest.raises(ValueError, match=r"^workdir='.*': is in config.data.data_dir='.*'.*; must be outside of it$"):
        train(config, root / inside, quiet)
    assert sorted(root.rglob("*")) == files
