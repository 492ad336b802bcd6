"""What a network needs to know of the data that it was trained on, to be used where the data is not."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lipjax.data.dataset import Border, DataError, Dataset, check_memory, inside
from lipjax.data.options import DataOptions, both_sides


@dataclasses.dataclass(frozen=True)
class Description:
    """Everything about a dataset but its images; kept with the parameters of a network.

    Attributes:
      name, image_shape, class_names, pixel_max, border: as of `Dataset`; a border that is not zero is of a training by
        an older lipjax.
      image_size, fit, channels: as of `DataOptions`.
      given: whether the dataset was given from Python: then it is in no file that could be loaded.
      training_sha256: of `Dataset`; None: of a training by an older lipjax, which kept none.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    pixel_max: int
    border: Border
    image_size: int | tuple[int, int] | None = None
    fit: str = "crop"
    channels: int | None = None
    given: bool = False
    training_sha256: str | None = None

    @classmethod
    def of(cls, dataset: Dataset, options: DataOptions, given: bool = False) -> "Description":
        """Of a dataset that was loaded as the options say, or given."""
        return cls(
            *(dataset.name, dataset.image_shape, dataset.class_names, int(dataset.pixel_max), dataset.border),
            *(options.image_size, options.fit, options.channels),
            *(given, dataset.training_sha256()),
        )

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "Description":
        """What `dataclasses.asdict`, written as JSON, gives back."""
        shape, names = tuple(given["image_shape"]), tuple(given["class_names"])
        border, size = tuple(map(tuple, given["border"])), given.get("image_size")
        size = tuple(size) if isinstance(size, list | tuple) else size
        return cls(**{**given, "image_shape": shape, "class_names": names, "border": border, "image_size": size})

    @property
    def num_classes(self) -> int:
        """As many as there are names."""
        return len(self.class_names)

    def surrounded(self, dataset: Dataset) -> Dataset:
        """The dataset, in the border that its images had in the training if they are those without it."""
        (top, bottom), (left, right) = self.border
        inner = self.image_shape[0] - top - bottom, self.image_shape[1] - left - right
        has_border = any(map(any, self.border))
        if has_border and not any(map(any, dataset.border)) and dataset.image_shape[:2] == inner:
            return dataset.surrounded(self.border)
        return dataset

    def check(self, dataset: Dataset) -> None:
        """ValueError, naming what differs with both values, unless a network trained on this may judge the dataset."""
        names = ["image_shape", "class_names", "pixel_max", "border"]
        for name in [*names, "training_sha256"] if self.training_sha256 else names:
            there, here = getattr(self, name), getattr(dataset, name)
            here = here() if callable(here) else here
            if there != here:
                raise ValueError(
                    f"dataset {dataset.name!r}: is not the one of the training: {name} was {there}, is {here}"
                )

    def read(self, paths: Sequence[Path]) -> np.ndarray:
        """Pictures from files as the network takes them, (N, H, W, C) float32 in [0, 1].

        As in training: what was trained on a folder with an `image_size` or `channels` brings pictures to these, what
        was not takes pictures of the very size and channels; a border of zeros is added.

        Raises:
          DataError: a file that cannot be decoded, or is of another size or number of channels, or has values of 0 …
            pixel_max < 255 where 255 is white, by its name; too little memory.
        """
        from lipjax.data.pictures import Form, decode_into

        bytes_each = 1 + np.dtype(np.float32).itemsize
        check_memory(f"{len(paths)} pictures", len(paths) * math.prod(self.image_shape) * bytes_each)
        images = np.zeros((len(paths), *self.image_shape), np.uint8)
        form = Form(both_sides(self.image_size), self.fit, self.channels)
        decode_into(inside(images, self.border), paths, form, f", as the images of {self.name!r} have")
        self._check_white(paths, images)
        return images.astype(np.float32) / np.float32(255)

    def _check_white(self, paths: Sequence[Path], images: np.ndarray) -> None:
        """DataError for a picture that seems to have the dataset's values; one of zeros is the same in both."""
        if self.pixel_max == 255:
            return
        for path, largest in zip(paths, images.max((1, 2, 3)), strict=True):
            if 0 < largest <= self.pixel_max:
                raise DataError(
                    f"{path}: its largest value is {largest}, as in the images of {self.name!r}, which are 0 … "
                    f"{self.pixel_max}; needed: 0 … 255, of which 255 is white"
                )
