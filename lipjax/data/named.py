"""Image-classification datasets by their tensorflow-datasets name, as numpy arrays and without TensorFlow."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import math
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.core.download import downloader

from lipjax.data.dataset import DataError
from lipjax.data.pictures import Form, decoded_file, in_parallel, tell_memory
from lipjax.data.without_tensorflow import without_tensorflow
from lipjax.system.files import cache_folder

Split = tuple[np.ndarray, np.ndarray]

_FILE_FORMAT = "array_record"  # the format of tensorflow-datasets that is written and read without TensorFlow
_EXAMPLES = ("cifar10", "cifar100", "fashion_mnist", "kmnist", "mnist", "svhn_cropped")
# tensorflow-datasets waits 200 s in all through its ten growing pauses before it admits that there is no network.
_DOWNLOAD_RETRIES = 5  # 6 s
_CHUNK = 1000  # records per read; read one by one, they take three times as long
_CACHE_FORMAT = 1  # raised whenever the content of a cache file changes its meaning


_NAME = re.compile(r"(\w+)(/[\w.\-]+)?(:[\d.*]+)?")


class _Task(NamedTuple):
    image_key: str
    label_key: str
    shape: tuple[int | None, int | None, int]  # None: several
    class_names: tuple[str, ...]


def load_named(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    say: Callable[[str], None] = print,
    forms: Mapping[str, Form] | None = None,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Load the image-classification dataset ``name``, downloading and preparing it in ``data_dir`` if need be.

    A dataset found prepared in ``data_dir`` is read in place, whatever its name, in whichever version is there (the
    newest of several).  Otherwise it is downloaded, checked against the checksums recorded in tensorflow-datasets, and
    prepared as array_record files, which plain ``tfds.builder(name, data_dir=..., file_format="array_record")`` reads
    as well. The decoded arrays are kept in ``$XDG_CACHE_HOME/lipjax`` or ``~/.cache/lipjax``: CIFAR-10 (JPEG mirror)
    then loads in 0.2 s instead of 17 s, at 176 MiB (benchmarks/data_cache.py, 2 CPU cores).

    Args:
        name: a tensorflow-datasets name, ``name``, ``name/config`` or either with ``:version``.
        data_dir: the root directory of tensorflow-datasets; None for ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.
        say: takes a line before the images are read.
        forms: to what images for "train" and "test" are brought, as pictures of a folder are (`pictures.decoded`);
            None: they are of one shape, and stay what they are.

    Returns:
        ``({"train": (images, labels), "test": (images, labels)}, class_names)`` with images uint8 (N, H, W, C),
        C = 1..4 (with forms 1, grey, or 3, colours), values 0..255, and labels int32 (N,), values
        0..len(class_names) - 1, in the order of the prepared files. A dataset without a test split gives its
        validation split as "test".

    Raises:
        ValueError: the name is not known, or the dataset is not one of uint8 images with class labels in a train and a
            test (or validation) split, of one fixed shape where there are no forms.
        DataError: the dataset is not in ``data_dir`` and cannot be prepared there (no network, wrong checksum,
            damaged archive, read-only directory, preparation that needs TensorFlow), or it is there and cannot be
            read. The original exception is chained.
    """
    root = _root(data_dir)
    builder = _find_prepared(name, root) if _NAME.fullmatch(name) else None
    if builder is None:
        _check_name(name)  # that of a builder of one's own is known to nobody, once the dataset is prepared
        _prepare(name, root, forms is not None)
        builder = _find_prepared(name, root)
    if builder is None:
        raise DataError(
            f"data_dir: {root!r} holds a folder of {name!r} that is not a prepared dataset (features.json is missing);"
            f" remove the folder {os.path.join(root, _folder(name))!r} and try again"
        )
    task = _task(name, builder.info, forms is not None)
    channels = 1 if task.shape[2] == 1 else 3
    own = {split: form._replace(channels=channels) for split, form in (forms or {}).items()}
    shapes = {split: _shape(task, own.get(split)) for split in ("train", "test")}
    sources = {"train": "train", "test": _test_split(name, builder.info)}
    sizes = {split: builder.info.splits[source].num_examples for split, source in sources.items()}
    about = f"{sum(sizes.values())} images of {len(task.class_names)} classes, {name} in {root}"
    tell_memory(about, sum(sizes[split] * math.prod(shapes[split]) for split in sizes), say)
    cache = _cache_path(builder, own)
    splits = None if cache is None else _read_cache(cache, builder, shapes, sources)
    if splits is None:
        splits = {split: _decode(builder, source, task, own.get(split)) for split, source in sources.items()}
        if cache is not None:
            _write_cache(cache, splits)
    return splits, task.class_names


def _check_name(name: str) -> None:
    known = tfds.list_builders(with_community_datasets=False)  # the community's list lies on the network
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in known:
        similar = difflib.get_close_matches(name.lower(), known) or _EXAMPLES
        raise ValueError(
            f"dataset: {name!r} is not known; allowed: 'digits', 'folder', 'npz', the name of a set prepared"
            " in data_dir, or a tensorflow-datasets name such as " + ", ".join(map(repr, similar))
        )


def _folder(name: str) -> str:
    return name.partition(":")[0]


def _root(data_dir: str | os.PathLike[str] | None) -> str:
    """The root directory; always passed on, so that errors can name it and no other directory is searched."""
    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR
    root = os.fspath(data_dir)
    if "://" in root:
        raise ValueError(f"data_dir: {root!r} is not allowed; allowed: a directory of this machine")
    return os.path.abspath(os.path.expanduser(root))


def _find_prepared(name: str, root: str) -> Any:
    """The builder of the prepared dataset, or None. Any version serves, unless ``name`` asks for one."""
    try:
        return read_only_builder.builder_from_files(name, data_dir=root, file_format=_FILE_FORMAT)
    except tfds.core.DatasetNotFoundError:
        return None
    except Exception as error:
        raise DataError(
            f"data_dir: {root!r} holds {name!r}, but it cannot be read as {_FILE_FORMAT}, the format that needs no"
            f" TensorFlow: {_told(error)}. Set data_dir to a directory that holds it in this format, or to an empty"
            " one, in which it will be prepared"
        ) from error


def _prepare(name: str, root: str, any_shape: bool) -> None:
    logging.info("dataset %r is not prepared in %r: downloading and preparing it there", name, root)
    # A checksum must be on record for every file, and none is ever recorded from what happens to arrive.
    downloads = tfds.download.DownloadConfig(
        try_download_gcs=False, force_checksums_validation=True, register_checksums=False
    )
    with (
        without_tensorflow() as missing,
        _download_retries(_DOWNLOAD_RETRIES),
        contextlib.redirect_stdout(sys.stderr),  # tensorflow-datasets announces its downloads on standard output
    ):
        with _explained(name, root, missing):
            base, _, config = _folder(name).partition("/")
            configs = sorted({key.partition(":")[0] for key in tfds.builder_cls(base).builder_configs})
        if config and config not in configs:
            raise ValueError(f"dataset: {name!r} is not known; allowed configurations of {base!r}: {configs}")
        with _explained(name, root, missing):
            builder = tfds.builder(name, data_dir=root, file_format=_FILE_FORMAT, try_gcs=False)
            info = builder.info
        _task(name, info, any_shape)  # before a download of hours
        with _explained(name, root, missing):
            builder.download_and_prepare(download_config=downloads)


@contextlib.contextmanager
def _explained(name: str, root: str, missing: list[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _not_prepared(name, root, missing, error) from error


def _not_prepared(name: str, root: str, missing: list[str], error: Exception) -> DataError:
    cause = _told(error)
    needs_tensorflow = list(missing)
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] == "tensorflow":
        needs_tensorflow.append(str(error.name))
    if needs_tensorflow:
        cause = f"its preparation uses {needs_tensorflow[-1]} and so needs TensorFlow, which is not installed ({cause})"
    return DataError(
        f"data_dir: {root!r} holds no prepared {name!r} (looked for"
        f" {os.path.join(root, _folder(name), '<version>', 'features.json')!r}), and preparing it there failed:"
        f" {cause}."
        " Either remove this cause and try again, or run"
        f" `tfds.builder({name!r}, data_dir=D, file_format={_FILE_FORMAT!r}).download_and_prepare()` on a machine that"
        " has network and, if need be, TensorFlow, and set data_dir to a copy of D"
    )


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _download_retries(retries: int) -> Iterator[None]:
    before = downloader.MAX_RETRIES
    downloader.MAX_RETRIES = retries
    try:
        yield
    finally:
        downloader.MAX_RETRIES = before


def _task(name: str, info: Any, any_shape: bool = False) -> _Task:
    """The features to use, or ValueError if they are not those of an image-classification dataset.

    Args:
        any_shape: whether images may have several shapes, as each is brought to one.
    """

    def wrong(found: str) -> ValueError:
        return ValueError(
            f"dataset: {name!r} has {found}; allowed: datasets with exactly one Image feature of shape"
            " (H, W, 1..4) and dtype uint8, and with a ClassLabel, named as (image, label) by supervised_keys"
        )

    keys = info.supervised_keys
    features = info.features if isinstance(info.features, tfds.features.FeaturesDict) else {}
    if not isinstance(keys, tuple) or len(keys) != 2 or not all(isinstance(k, str) and k in features for k in keys):
        raise wrong(f"supervised_keys {keys!r} and features {sorted(features)}")
    images = sorted(key for key in features if isinstance(features[key], tfds.features.Image))
    if images != [keys[0]]:
        raise wrong(f"the Image features {images} and supervised_keys {keys!r}")
    image, label = features[keys[0]], features[keys[1]]
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise wrong(f"the label feature {label!r}")
    shape = tuple(image.shape)
    if len(shape) != 3 or shape[2] not in (1, 2, 3, 4) or image.np_dtype != np.uint8:
        raise wrong(f"images of shape {shape} and dtype {np.dtype(image.np_dtype)}")
    if None in shape and not any_shape:
        raise ValueError(
            f"config.data.image_size=None: the images of {name!r} have several sizes, {shape}; set"
            " config.data.image_size to the side in pixels, or to (height, width), and config.data.fit to crop, pad or"
            " stretch"
        )
    return _Task(keys[0], keys[1], shape, tuple(label.names))


def _shape(task: _Task, form: Form | None) -> tuple[int, ...]:
    """(H, W, C) of the images, brought to a form where there is one."""
    return task.shape if form is None else (*form.size, form.channels)  # type: ignore


def _test_split(name: str, info: Any) -> str:
    found = sorted(info.splits)
    test = next((split for split in ("test", "validation") if split in found), None)
    if "train" not in found or test is None:
        raise ValueError(f"dataset: {name!r} has the splits {found}; needed: 'train' and 'test' (or 'validation')")
    return test


def _decode(builder: Any, split: str, task: _Task, form: Form | None) -> Split:
    """Images uint8 (N, H, W, C) and labels int32 (N,) of one split, in file order."""
    feature, shape = builder.info.features[task.image_key], _shape(task, form)
    try:
        source = builder.as_data_source(split, decoders={task.image_key: tfds.decode.SkipDecoding()})
        images = np.empty((len(source), *shape), np.uint8)
        labels = np.empty(len(source), np.int32)

        def decode(numbered: tuple[int, Any]) -> None:
            index, example = numbered
            if form is not None:
                image = decoded_file(io.BytesIO(example[task.image_key]), form)
            else:  # Pillow even if OpenCV is there: the pixels of a JPEG must not depend on what is installed
                image = feature.decode_example_np_with_pil(example[task.image_key], task.shape[-1])
            if image.shape != shape:  # numpy would broadcast a smaller image
                raise ValueError(f"image {index} has shape {image.shape}, expected {shape}")
            images[index], labels[index] = image, example[task.label_key]

        def numbered_examples() -> Iterator[tuple[int, Any]]:
            for start in range(0, len(source), _CHUNK):
                yield from enumerate(source.__getitems__(range(start, min(start + _CHUNK, len(source)))), start)

        in_parallel(decode, numbered_examples(), len(source), f"decoding {split}")
    except Exception as error:
        raise DataError(
            f"data_dir: the split {split!r} of {builder.info.full_name!r} prepared in {os.fspath(builder.data_dir)!r}"
            f" cannot be read: {_told(error)}. Remove this folder to have it prepared again"
        ) from error
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(task.class_names):
        raise ValueError(
            f"dataset: {builder.info.full_name!r}, split {split!r}, has labels {labels.min()}..{labels.max()};"
            f" allowed: 0..{len(task.class_names) - 1} (-1 marks images without a label)"
        )
    return images, labels


def _cache_path(builder: Any, forms: Mapping[str, Form]) -> Path | None:
    """Where the decoded arrays belong; another file name as soon as any file of the prepared dataset changes."""
    of_forms = (sorted((split, tuple(form)) for split, form in forms.items()),) if forms else ()
    files = sorted((entry.name, entry.stat()) for entry in os.scandir(builder.data_dir) if entry.is_file())
    state = [
        os.path.realpath(builder.data_dir),
        *((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in files),
    ]
    full_name = builder.info.full_name
    key = hashlib.sha256(repr((_CACHE_FORMAT, full_name, state, *of_forms)).encode()).hexdigest()[:32]
    folder = cache_folder()
    return folder and folder / f"{full_name.replace('/', '-')}-{key}.npz"


def _read_cache(
    path: Path, builder: Any, shapes: Mapping[str, tuple[int, ...]], sources: dict[str, str]
) -> dict[str, Split] | None:
    """The cached arrays, or None if there are none or they are damaged (zip files carry a checksum of each array)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            splits = {split: (arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in sources}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logging.warning("the cache file %s is damaged, decoding again: %s", path, _told(error))
        return None
    for split, (images, labels) in splits.items():
        size = builder.info.splits[sources[split]].num_examples
        fits = images.shape == (size, *shapes[split]) and labels.shape == (size,)
        if not fits or (images.dtype, labels.dtype) != (np.uint8, np.int32):
            logging.warning("the cache file %s does not fit its dataset, decoding again", path)
            return None
    return splits


def _write_cache(path: Path, splits: dict[str, Split]) -> None:
    """Written beside its place and moved there whole, since other runs may read or write the same file."""
    arrays: dict[str, Any] = {}
    for split, (images, labels) in splits.items():
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False) as file:
            try:
                np.savez(file, **arrays)
                file.flush()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        logging.warning("the decoded dataset cannot be cached and will be decoded each time: %s", _told(error))
