"""A folder of images: train/CLASS/… and test/CLASS/…, or CLASS/…, of which some are held out for testing."""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lipjax.data.dataset import DataError, Dataset, Split
from lipjax.data.options import DataOptions
from lipjax.data.pictures import SUFFIXES, decode_into, decoded, forms_of, in_pixels, tell_memory

# Files that surely are pictures, but of a format that is not read.
_OTHER_PICTURES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".tga", ".tif", ".tiff")

Files = dict[str, list[Path]]  # by class


def load_folder(options: DataOptions, say: Callable[[str], None]) -> Dataset:
    """The images of options.data_dir; a class is the name of a folder, and classes are in the order of their names.

    Without train/ a fraction of each class is held out for testing: the images whose CLASS/FILE has the smallest
    SHA-256, so that the choice depends on nothing else.

    Raises:
      DataError: no such folder, an empty class, a class for testing alone, a file that cannot be read (named); images
        of several shapes; too little memory.
    """
    root = options.path("a folder of images")
    if not root.is_dir():
        raise DataError(f"data_dir={str(root)!r}: is no folder; needed: train/CLASS/… and test/CLASS/…, or CLASS/…")
    ignored: list[Path] = []
    splits = _split(root, options.test_fraction, ignored)
    names = sorted(splits["train"])
    forms, first = forms_of(options), splits["train"][names[0]][0]
    shape = decoded(first, forms["test"]).shape
    shapes = {part: (*(form.size or shape[:2]), shape[2]) for part, form in forms.items()}
    counts = {part: sum(map(len, classes.values())) for part, classes in splits.items()}
    if ignored:
        say(f"ignored: {len(ignored)} files that are no PNG, JPEG or WebP, such as {ignored[0]}")
    about = f"{sum(counts.values())} images of {len(names)} classes in {root}, {in_pixels(shape)}"
    tell_memory(about, sum(counts[part] * math.prod(shapes[part]) for part in counts), say)
    needed = f", as {first}; config.data.image_size and config.data.channels bring all to one shape"
    read = {}
    for part, classes in splits.items():
        paths = [path for name in names for path in classes.get(name, [])]
        labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(classes.get(name, [])) for name in names])
        images = np.zeros((len(paths), *shapes[part]), np.uint8)
        decode_into(images, paths, forms[part], needed)
        read[part] = Split(images, labels)
    name, enlarged = root.name or "folder", shapes["train"] != shapes["test"]
    return Dataset(name, read["train"], read["test"], len(names), class_names=tuple(names), enlarged=enlarged)


def _split(root: Path, test_fraction: float, ignored: list[Path]) -> dict[str, Files]:
    """{'train': …, 'test': …}, every class of which has an image."""
    inner = _folders(root, ignored)
    if "train" not in inner or not any(path.is_dir() for path in _visible(inner["train"])):
        return _held_out(_classes(root, inner, ignored), test_fraction)
    if extra := sorted(set(inner) - {"train", "test"}):
        raise DataError(f"{inner[extra[0]]}: beside train only test may be; move it elsewhere, or rename it")
    train = _classes(inner["train"], _folders(inner["train"], ignored), ignored)
    if "test" not in inner:
        return _held_out(train, test_fraction)
    test = _classes(inner["test"], _folders(inner["test"], ignored), ignored)
    if extra := sorted(set(test) - set(train)):
        raise DataError(f"{inner['test'] / extra[0]}: is a class without training images")
    return {"train": train, "test": test}


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _folders(folder: Path, ignored: list[Path]) -> dict[str, Path]:
    """Those in a folder, by name; hidden ones are none."""
    entries = _visible(folder)
    if pictures := [path for path in entries if path.suffix.lower() in (*SUFFIXES, *_OTHER_PICTURES)]:
        raise DataError(
            f"{pictures[0]}: is in no folder of a class; needed: train/CLASS/… and test/CLASS/…, or CLASS/…"
        )
    ignored += [path for path in entries if not path.is_dir()]
    return {path.name: path for path in entries if path.is_dir()}


def _classes(folder: Path, inner: dict[str, Path], ignored: list[Path]) -> Files:
    classes = {name: images_of(path, ignored) for name, path in inner.items()}
    if len(classes) < 2:
        raise DataError(f"{folder}: has {len(classes)} folders of classes, needed: at least 2, each with images")
    for name, paths in classes.items():
        if not paths:
            raise DataError(f"{folder / name}: has no PNG, JPEG or WebP file; a class needs at least one")
    return classes


def images_of(folder: Path, ignored: list[Path]) -> list[Path]:
    """The PNG, JPEG and WebP files in a folder, by name; hidden files are none, and others are added to `ignored`.

    Raises:
      DataError: a folder in it, or a picture of a format that is not read.
    """
    paths: list[Path] = []
    for path in _visible(folder):
        if path.is_dir():
            raise DataError(f"{path}: is a folder where images are expected; nothing in it would be read")
        if path.suffix.lower() in _OTHER_PICTURES:
            raise DataError(f"{path}: is no PNG, JPEG or WebP file; convert it, or remove it")
        (paths if path.suffix.lower() in SUFFIXES else ignored).append(path)
    return paths


def _held_out(classes: Files, fraction: float) -> dict[str, Files]:
    splits: dict[str, Files] = {"train": {}, "test": {}}
    for name, paths in classes.items():
        is_test = held_out([f"{name}/{path.name}" for path in paths], fraction, f"class {name!r}")
        splits["train"][name] = [path for path, held in zip(paths, is_test, strict=True) if not held]
        splits["test"][name] = [path for path, held in zip(paths, is_test, strict=True) if held]
    return splits


def held_out(keys: Sequence[str], fraction: float, what: str) -> np.ndarray:
    """Which of the keys of a class are for testing, (N,): the fraction with the smallest SHA-256, at least one.

    Raises:
      DataError: fewer than two keys.
    """
    if len(keys) < 2:
        raise DataError(f"{what}: has {len(keys)} image; at least 2 are needed, as one is held out for testing")
    count = min(max(round(fraction * len(keys)), 1), len(keys) - 1)
    digests = [hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest() for key in keys]
    chosen = np.zeros(len(keys), bool)
    chosen[np.argsort(digests)[:count]] = True
    return chosen
