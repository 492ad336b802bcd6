"""What every source of images gives: two splits of uint8 images with labels."""

import dataclasses
from typing import NamedTuple

import numpy as np


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

    Images are square with a power of two pixels a side: others (28×28, say) have been surrounded by zeros, which is an
    isometry, so that a radius proven for the surrounded image holds for the original.

    Attributes:
      border: ((top, bottom), (left, right)), the zeros that surround each image and are no part of it, in pixels.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    pixel_max: int
    border: Border = ((0, 0), (0, 0))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.train.images.shape[1:]

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
        order = np.random.default_rng(seed).permutation(len(self.train.labels))
        held, kept = np.sort(order[:count]), np.sort(order[count:])
        return Split(*(a[kept] for a in self.train)), Split(*(a[held] for a in self.train))
