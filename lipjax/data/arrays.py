"""A .npz file of arrays: train_images, train_labels, test_images, test_labels, perhaps class_names."""

import contextlib
import lzma
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lipjax.data.dataset import DataError, Dataset
from lipjax.data.folder import held_out
from lipjax.data.options import DataOptions
from lipjax.data.pictures import tell_memory

# Names of (images, labels) in files of others, tried in this order.
_NAMES = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}
_KNOWN = {"class_names", *(name for pairs in _NAMES.values() for pair in pairs for name in pair)}
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_NEEDED = "needed: train_images, train_labels, test_images, test_labels (or x_train, y_train, …), perhaps class_names"


_Pair = tuple[str, str]  # the names of images and of their labels
_Arrays = tuple[np.ndarray, np.ndarray]


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def load_npz(options: DataOptions, say: Callable[[str], None]) -> Dataset:
    """The arrays of the file options.data_dir, images uint8 (N, H, W) or (N, H, W, C), labels integers.

    Without test images a fraction of each class is held out, by the SHA-256 of 'LABEL/INDEX'.

    Raises:
      ValueError: arrays that are no dataset (`Dataset.of_arrays`).
      DataError: no such file, or one that cannot be read, or without these arrays, or with half of a pair; too little
        memory.
    """
    path = options.path("a .npz file")
    with _in_one_line(path), zipfile.ZipFile(path) as archive:
        members = [name.removesuffix(".npy") for name in archive.namelist()]
        headers = {name: _header(archive, name) for name in members if name in _KNOWN}
    train, test = (_found(path, headers, pairs) for pairs in _NAMES.values())
    if train is None:
        raise DataError(f"{path}: has {'the arrays ' + ', '.join(members) if members else 'no arrays'}; {_NEEDED}")
    _check_axes(path, headers)
    tell_memory(f"arrays of {path}", _peak(headers, train, test), say)
    with _in_one_line(path), np.load(path, allow_pickle=False) as file:
        class_names = file["class_names"].tolist() if "class_names" in headers else None
        arrays = [(file[images], file[labels]) for images, labels in filter(None, (train, test))]
    if test is None:
        images, labels = arrays.pop()
        arrays = _with_test(path, images, labels, options.test_fraction)
    return Dataset.of_arrays(path.stem or "npz", arrays[0], arrays[1], class_names)


@contextlib.contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """Whatever a file that is no sound .npz raises (RuntimeError: it is encrypted, or packed in an unknown way)."""
    try:
        yield
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, *_DAMAGED) as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path}: cannot be read as a .npz file of arrays ({told})") from error


def _header(archive: zipfile.ZipFile, name: str) -> _Header:
    """Shape and type of an array that is not read yet."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"{name} is of version {version} of the format; read are {', '.join(map(str, read))}")
        shape, _, dtype = read[version](file)
    return _Header(shape, dtype)


def _found(path: Path, headers: Mapping[str, _Header], pairs: tuple[_Pair, ...]) -> _Pair | None:
    for pair in pairs:
        if all(name in headers for name in pair):
            return pair
    for images, labels in pairs:
        if (images in headers) != (labels in headers):
            has, lacks = (images, labels) if images in headers else (labels, images)
            raise DataError(f"{path}: has {has} without {lacks}; {_NEEDED}")
    return None


def _check_axes(path: Path, headers: Mapping[str, _Header]) -> None:
    for name, header in headers.items():
        if not header.shape or (name == "class_names" and len(header.shape) != 1):
            needed = "(N,)" if name == "class_names" else "(N, …), N images"
            raise DataError(f"{path}: {name} is an array of the shape {header.shape}; needed: {needed}")


def _peak(headers: Mapping[str, _Header], train: _Pair, test: _Pair | None) -> int:
    """The arrays as they are read, twice where those held out are copied apart."""
    as_read = sum(headers[name].size for pair in (train, test) if pair for name in pair)
    return as_read if test else 2 * as_read


def _with_test(path: Path, images: np.ndarray, labels: np.ndarray, fraction: float) -> list[_Arrays]:
    if len(images) != labels.size or not len(images):
        raise ValueError(f"{path}: has {len(images)} images and {labels.size} labels; needed: one an image")
    is_test, flat = np.zeros(len(images), bool), labels.reshape(-1)
    for label in np.unique(flat):
        own = np.flatnonzero(flat == label)
        is_test[own] = held_out([f"{label}/{index}" for index in own], fraction, f"{path}: label {label}")
    return [(images[~is_test], labels[~is_test]), (images[is_test], labels[is_test])]
