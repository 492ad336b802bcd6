"""One interface to the shipped digits, one's own images, and every tensorflow-datasets set of images with a label."""

import os
from collections.abc import Callable
from typing import Any

from lipjax.data import digits
from lipjax.data.dataset import Dataset
from lipjax.data.options import DataOptions

Say = Callable[[str], None]
Source = Callable[[DataOptions, Say], Dataset]


def _digits(options: DataOptions, say: Say) -> Dataset:
    del options, say
    splits = digits.load_digits()
    return Dataset.of_arrays("digits", splits["train"], splits["test"], pixel_max=digits.PIXEL_MAX)


def _folder(options: DataOptions, say: Say) -> Dataset:
    from lipjax.data.folder import load_folder  # with Pillow, which the digits do without

    return load_folder(options, say)


def _npz(options: DataOptions, say: Say) -> Dataset:
    from lipjax.data.arrays import load_npz

    return load_npz(options, say)


def _named(options: DataOptions, say: Say) -> Dataset:
    from lipjax.data.named import load_named  # importing tensorflow-datasets takes most of a second
    from lipjax.data.pictures import forms_of

    forms = None if options.size is None else forms_of(options)
    splits, class_names = load_named(options.name, options.data_dir, say, forms)
    enlarged = forms is not None and forms["train"] != forms["test"]
    return Dataset.of_arrays(options.name, splits["train"], splits["test"], class_names, enlarged=enlarged)


# By name; every other name is one of tensorflow-datasets.
SOURCES: dict[str, Source] = {"digits": _digits, "folder": _folder, "npz": _npz}


def load(name: str, data_dir: str | os.PathLike | None = None, say: Say = print, **options: Any) -> Dataset:
    """The dataset `name`: one of SOURCES, or a tensorflow-datasets name, prepared under `data_dir` on first use.

    Args:
      say: takes a line before much memory is taken.
      options: others of `DataOptions`.

    Raises:
      ValueError: unknown name, or a dataset that is not one of images with one label; images of several sizes while
        image_size is None.
      DataError: the data is neither under data_dir nor can it be downloaded, or it cannot be read.
    """
    return loaded(DataOptions(name, None if data_dir is None else os.fspath(data_dir), **options), say)


def loaded(options: DataOptions, say: Say = print) -> Dataset:
    """The dataset of the section config.data, see `load`."""
    return SOURCES.get(options.name, _named)(options, say)
