"""What every source of images gives: two splits of uint8 images with labels."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lipjax.system.memory import available_on_host, in_words

Border = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right)), in pixels


class DataError(RuntimeError):
    """A dataset is neither where it was looked for nor can it be prepared there, or it cannot be read."""


class Split(NamedTuple):
    """images (N, H, W, C) uint8, labels (N,) int32."""

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A train and a test split; pixels in [0, 1] are images / pixel_max.

    Images are of one shape, any: networks that need another one surround them by zeros themselves.

    Attributes:
      border: ((top, bottom), (left, right)), zeros that surround each image and are no part of it, in pixels: for
        networks that were trained on images in such a border, as earlier versions of lipjax made them.
      class_names: one a class; none: its number.
      enlarged: the training images have more pixels than those for testing, which are the network's: a training takes
        random crops of them (`DataOptions.resized_crop`); `larger.at_size` makes them as large as those for testing.

    Raises:
      ValueError: arrays that are no uint8 images of one shape with labels in [0, num_classes), names that are not one a
        class, a border that is not zero.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    pixel_max: int = 255
    border: Border = ((0, 0), (0, 0))
    class_names: tuple[str, ...] = ()
    enlarged: bool = False

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name.isprintable() or not self.name:
            raise ValueError(f"dataset: its name must be a text of printable letters, got {self.name!r}")
        _check_counts(self.name, self.num_classes, self.pixel_max)
        names = _checked_names(self.name, self.class_names, self.num_classes)
        for part in ("train", "test"):
            where = f"dataset {self.name!r}: {part}"
            split = _checked_split(where, getattr(self, part), self.num_classes, self.pixel_max)
            object.__setattr__(self, part, split)
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "border", tuple(tuple(map(int, ends)) for ends in self.border))
        _check_shapes(self)

    @classmethod
    def of_arrays(
        cls,
        name: str,
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        class_names: Sequence[str] | None = None,
        pixel_max: int = 255,
        enlarged: bool = False,
    ) -> "Dataset":
        """The dataset of (images, labels) and (images, labels).

        Args:
          train, test: images uint8 (N, H, W) or (N, H, W, C) in [0, pixel_max], labels (N,) or (N, 1) integers.
          class_names: of the labels 0, 1, …; None: as many classes as the training labels have, by number.
          enlarged: whether the training images have more pixels, see `Dataset`.

        Raises:
          ValueError: see `Dataset`; a number below the largest label that no training label has.
        """
        parts = {"train": _as_arrays(f"dataset {name!r}: train", train)}
        parts["test"] = _as_arrays(f"dataset {name!r}: test", test)
        if class_names is None:
            class_names = _numbers(f"dataset {name!r}: train labels:", parts["train"].labels)
        names, no_border = tuple(class_names), ((0, 0), (0, 0))
        return cls(name, parts["train"], parts["test"], len(names), pixel_max, no_border, names, enlarged)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C), as a network takes them."""
        return self.test.images.shape[1:]

    def surrounded(self, border: Border) -> "Dataset":
        """The same images in a border of zeros; DataError where they would need more memory than is left."""
        around = ((0, 0), *border, (0, 0))
        sides = [size + sum(ends) for size, ends in zip(self.image_shape[:2], border, strict=True)]
        needed = (len(self.train.labels) + len(self.test.labels)) * math.prod((*sides, self.image_shape[2]))
        check_memory(f"dataset {self.name!r}: in their border its images", needed)
        train, test = (Split(np.pad(split.images, around), split.labels) for split in (self.train, self.test))
        return dataclasses.replace(self, train=train, test=test, border=border)

    def training_sha256(self) -> str:
        """Of the training images, their labels and the classes: what a network has learned from."""
        about = (self.train.images.shape, self.class_names, self.pixel_max, self.border)
        digest = hashlib.sha256(repr(about).encode())
        digest.update(np.ascontiguousarray(self.train.images).data)
        digest.update(np.ascontiguousarray(self.train.labels, "<i4").data)
        return digest.hexdigest()

    def hold_out(self, fraction: float, seed: int) -> tuple[Split, Split]:
        """(training, validation): a random `fraction` of the training images, fixed by the seed, is held out.

        Raises:
          ValueError: a fraction > 0 that leaves either part empty.
        """
        count = round(fraction * len(self.train.labels))
        if fraction > 0 and not 0 < count < len(self.train.labels):
            raise ValueError(
                f"config.data.validation_fraction={fraction}: holds out {count} of {len(self.train.labels)} training "
                f"images of {self.name!r}; both parts need at least one"
            )
        if not count:  # no copy of them all
            return self.train, Split(*(a[:0] for a in self.train))
        order = np.random.default_rng(seed).permutation(len(self.train.labels))
        held, kept = np.sort(order[:count]), np.sort(order[count:])
        return Split(*(a[kept] for a in self.train)), Split(*(a[held] for a in self.train))


def inside(images: np.ndarray, border: Border) -> np.ndarray:
    """The images (N, H, W, C) without their border, a view."""
    (top, bottom), (left, right) = border
    return images[:, top : images.shape[1] - bottom, left : images.shape[2] - right]


def check_memory(what: str, size: int) -> None:
    """DataError if the machine has less memory left than images need."""
    if size > (free := available_on_host()):
        raise DataError(f"{what}: need {in_words(size)} of memory, {in_words(free)} are available")


def _pair(where: str, split: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(split, tuple | list) or len(split) != 2:
        raise ValueError(f"{where}: must be (images, labels), got {type(split).__name__}")
    return np.asarray(split[0]), np.asarray(split[1])


def _numbers(where: str, labels: np.ndarray) -> tuple[str, ...]:
    """'0' to that of the largest label; ValueError where a number between has no image."""
    if not np.issubdtype(labels.dtype, np.integer) or not labels.size or labels.min() < 0:
        return ("0", "1")  # the constructor says what is wrong
    count = int(labels.max()) + 1
    if len(found := np.unique(labels)) < count:
        missing = next(number for number, label in enumerate(found) if number != label)
        raise ValueError(f"{where} none is {missing}, but one is {count - 1}; must be 0, 1, …, or give class_names")
    return tuple(map(str, range(count)))


def _as_arrays(where: str, split: Any) -> Split:
    """Images with channels, labels without an axis of length 1; whatever else is wrong, the constructor says."""
    images, labels = _pair(where, split)
    images = images[..., None] if images.ndim == 3 else images
    return Split(images, labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels)


def _check_counts(name: str, num_classes: Any, pixel_max: Any) -> None:
    for key, value, low, high in (("num_classes", num_classes, 2, 2**31 - 1), ("pixel_max", pixel_max, 1, 255)):
        if not isinstance(value, int | np.integer) or not low <= value <= high:
            raise ValueError(f"dataset {name!r}: {key}={value!r}: must be an integer from {low} to {high}")


def _checked_names(name: str, class_names: Any, num_classes: int) -> tuple[str, ...]:
    names = tuple(class_names) or tuple(map(str, range(num_classes)))
    if len(names) != num_classes:
        raise ValueError(f"dataset {name!r}: {len(names)} class_names for {num_classes} classes")
    bad = [text for text in names if not isinstance(text, str) or not text or not text.isprintable()]
    bad += [text for index, text in enumerate(names) if text in names[:index]] if len(set(names)) < len(names) else []
    if bad:
        raise ValueError(f"dataset {name!r}: class_names must be different texts of printable letters, got {bad[0]!r}")
    return tuple(map(str, names))


def _checked_split(where: str, split: Any, num_classes: int, pixel_max: int) -> Split:
    images, labels = _pair(where, split)
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"{where} images: must be uint8 (N, H, W, C), at least one, pixels 0 … {pixel_max}; got {images.dtype} "
            f"{images.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{where} labels: must be {len(images)} integers, one an image; got {labels.dtype} {labels.shape}"
        )
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"{where} labels: must lie in [0, {num_classes}), the classes; got {labels.min()} to {labels.max()}"
        )
    if pixel_max < 255 and images.max() > pixel_max:
        raise ValueError(f"{where} images: have pixels up to {images.max()}; pixel_max is {pixel_max}")
    return Split(images, labels.astype(np.int32, copy=False))


def _check_shapes(data: Dataset) -> None:
    where, shape, of_train = f"dataset {data.name!r}:", data.image_shape, data.train.images.shape[1:]
    if data.enlarged:
        if of_train[2] != shape[2] or min(of_train[0] - shape[0], of_train[1] - shape[1]) < 0:
            raise ValueError(f"{where} enlarged train images are {of_train}, must have at least the sides of {shape}")
    elif of_train != shape:
        raise ValueError(
            f"{where} train images are {of_train}, test images {shape}; must be the same, or enlarged=True"
        )
    ends = [end for pair in data.border for end in pair]
    is_inside = len(data.border) == 2 and len(ends) == 4 and min(ends) >= 0
    if not is_inside or any(sum(pair) >= side for pair, side in zip(data.border, shape[:2], strict=True)):
        raise ValueError(f"{where} border={data.border}: must be ((top, bottom), (left, right)) within the images")
    if max(ends) and data.enlarged:
        raise ValueError(f"{where} border={data.border}: enlarged images have none")
    if max(ends) and any(
        np.count_nonzero(split.images) != np.count_nonzero(inside(split.images, data.border))
        for split in (data.train, data.test)
    ):
        raise ValueError(f"{where} border={data.border}: has pixels that are not zero")
