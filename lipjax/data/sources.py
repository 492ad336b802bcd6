"""One interface to the shipped digits and to every tensorflow-datasets set of fixed-size images."""

import os
from collections.abc import Callable

import numpy as np

from lipjax.data import digits
from lipjax.data.dataset import Border, Dataset, Split

Source = Callable[[], tuple[dict[str, tuple[np.ndarray, np.ndarray]], int, int]]  # → (splits, classes, pixel_max)

# By name; every other name is one of tensorflow-datasets.
SOURCES: dict[str, Source] = {"digits": lambda: (digits.load_digits(), 10, digits.PIXEL_MAX)}


def load(name: str, data_dir: str | os.PathLike | None = None) -> Dataset:
    """The dataset `name`: one of SOURCES, or a tensorflow-datasets name, prepared under `data_dir` on first use.

    Raises:
      ValueError: unknown name, or a dataset that is not one of fixed-size square images with one label.
      DataError: the data is neither under data_dir nor can it be downloaded.
    """
    if name in SOURCES:
        splits, num_classes, pixel_max = SOURCES[name]()
    else:
        from lipjax.data.named import load_named  # importing tensorflow-datasets takes most of a second

        (splits, num_classes), pixel_max = load_named(name, data_dir), 255
    border = _border(splits["train"][0].shape[1])
    train, test = (Split(_surround(images, border), labels) for images, labels in (splits["train"], splits["test"]))
    return Dataset(name, train, test, num_classes, pixel_max, border)


def _border(size: int) -> Border:
    """The zeros around images of size × size that make their side a power of two, at least 4."""
    missing = max(4, 1 << (size - 1).bit_length()) - size
    around = (missing // 2, missing - missing // 2)
    return around, around


def _surround(images: np.ndarray, border: Border) -> np.ndarray:
    return np.pad(images, ((0, 0), *border, (0, 0))) if border != ((0, 0), (0, 0)) else images
