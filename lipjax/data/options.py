"""Which images, and what is done to them in training."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from lipjax.config import check, flag, integer, is_number, number, one_of, text

FITS = ("crop", "pad", "stretch")


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The section config.data.

    Attributes:
      name: 'digits', 'folder' (of images), 'npz' (arrays), or a tensorflow-datasets name (docs/own_data.md).
      data_dir: the folder of images, the .npz file, or where tensorflow-datasets keeps its data; None: its default.
      image_size: of a folder or a tensorflow-datasets name: to what its images are brought, in pixels: the side of a
        square, or (height, width); None: all have one size.
      fit: how: 'crop' the middle of the resized image; 'pad' it with zeros; 'stretch' it.
      channels: of a folder: 1, grey; 3, colours; None: as found, the same in all.
      test_fraction: of each class, held out for testing where a folder or .npz file has no test images.
      validation_fraction: of the training images, held out to choose the best checkpoint.
      resized_crop: the smallest fraction of its area that is cut from a training image at random and resized to the
        whole (`augmentation.random_resized_crop`); 0: none.  Where image_size is given, training images are kept with
        8/7 of its sides for it.
      crop_padding: random crops after zero-padding by so many pixels.
      flip: random horizontal flips.
      color: strength, from 0 to 1, of random changes of brightness, contrast and saturation.
      affine: strength, from 0 to 1, of random rotations, shears and magnifications.
      cutout: side in pixels of a square that is blanked at random; 0: none.
      mixup: α of Beta(α, α), from which the weight of one image in its mixture with another is drawn; 0: no mixtures.
    """

    name: str = "cifar10"
    data_dir: str | None = None
    image_size: int | tuple[int, int] | None = None
    fit: str = "crop"
    channels: int | None = None
    test_fraction: float = 0.2
    validation_fraction: float = 0.0
    resized_crop: float = 0.0
    crop_padding: int = 4
    flip: bool = True
    color: float = 0.0
    affine: float = 0.0
    cutout: int = 0
    mixup: float = 0.0

    def __post_init__(self):
        check(vars(self), name=text("a name"))
        check(vars(self), data_dir=("a path or None", lambda value: value is None or isinstance(value, str)))
        if isinstance(self.image_size, list):  # from JSON
            object.__setattr__(self, "image_size", tuple(self.image_size))
        check(vars(self), image_size=("an integer from 1 to 4096, (height, width) of such, or None", _is_size))
        check(vars(self), fit=one_of(*FITS), resized_crop=number(0, 1))
        check(vars(self), channels=("1, 3 or None", lambda value: value in (1, 3, None)))
        check(vars(self), test_fraction=("a number in (0, 1)", lambda value: is_number(value) and 0 < value < 1))
        check(vars(self), validation_fraction=("a number in [0, 1)", lambda value: is_number(value) and 0 <= value < 1))
        check(vars(self), crop_padding=integer(0), flip=flag())
        check(vars(self), color=number(0, 1), affine=number(0, 1), cutout=integer(0), mixup=number(0))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "channels" and self.name != "folder" and value != field.default:
                raise ValueError(f"{field.name}={value!r}: is for name='folder' only, got name={self.name!r}")
            if field.name in ("image_size", "fit") and self.name in ("digits", "npz") and value != field.default:
                raise ValueError(f"{field.name}={value!r}: is not for name={self.name!r}, whose images have one size")
        if self.data_dir is not None and "://" not in self.data_dir:  # a later command may be given elsewhere
            object.__setattr__(self, "data_dir", os.path.abspath(os.path.expanduser(self.data_dir)))

    @property
    def size(self) -> tuple[int, int] | None:
        """image_size as (height, width)."""
        return both_sides(self.image_size)

    def path(self, what: str) -> Path:
        """data_dir; ValueError where it is None."""
        if self.data_dir is None:
            raise ValueError(f"config.data.data_dir=None: must name {what} with config.data.name={self.name!r}")
        return Path(self.data_dir)


def both_sides(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) of an image_size."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, tuple) else (value, value)
    return value is None or (len(sides) == 2 and all(integer(1, 4096)[1](side) for side in sides))
