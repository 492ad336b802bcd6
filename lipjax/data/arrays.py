"""A .npz file of arrays: train_images, train_labels, test_images, test_labels, perhaps class_names."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

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
_NEEDED = "needed: train_images, train_labels, test_images, test_labels (or x_train, y_train, …), perhaps class_names"


def load_npz(options: DataOptions, say: Callable[[str], None]) -> Dataset:
    """The arrays of the file options.data_dir, images uint8 (N, H, H) or (N, H, H, C), labels integers.

    Without test images a fraction of each class is held out, by the SHA-256 of 'LABEL/INDEX'.

    Raises:
      ValueError: arrays that are no dataset (`Dataset.of_arrays`).
      DataError: no such file, or one that cannot be read, or without these arrays; too little memory.
    """
    path = options.path("a .npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            tell_memory(f"arrays of {path}", sum(member.file_size for member in archive.infolist()), say)
        with np.load(path, allow_pickle=False) as file:
            parts = {part: _found(file, names) for part, names in _NAMES.items()}
            class_names = file["class_names"].tolist() if "class_names" in file else None
            found = ", ".join(file.files)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as a .npz file of arrays ({type(error).__name__}: {error})") from error
    train, test = parts["train"], parts["test"]
    if train is None:
        raise DataError(f"{path}: has the arrays {found}; {_NEEDED}")
    if test is None:
        train, test = _with_test(path, *train, options.test_fraction)
    return Dataset.of_arrays(path.stem or "npz", train, test, class_names)


def _found(file: Mapping[str, np.ndarray], names) -> tuple[np.ndarray, np.ndarray] | None:
    return next(((file[images], file[labels]) for images, labels in names if images in file and labels in file), None)


def _with_test(path: Path, images: np.ndarray, labels: np.ndarray, fraction: float):
    if len(images) != len(labels):
        raise ValueError(f"{path}: has {len(images)} images and {len(labels)} labels")
    is_test, flat = np.zeros(len(labels), bool), labels.reshape(len(labels), -1)[:, 0]
    for label in np.unique(flat):
        own = np.flatnonzero(flat == label)
        is_test[own] = held_out([f"{label}/{index}" for index in own], fraction, f"{path}: label {label}")
    return (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test])
