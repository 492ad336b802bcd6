"""Which images, and what is done to them in training."""

import dataclasses

from lipjax.config import check, flag, integer, is_number


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The section config.data.

    Attributes:
      name: one of SOURCES, such as 'digits', or a tensorflow-datasets name.
      data_dir: where tensorflow-datasets keeps its data; None: its default.
      validation_fraction: of the training images, held out to choose the best checkpoint.
      crop_padding: random crops after zero-padding by so many pixels.
      flip: random horizontal flips.
    """

    name: str = "cifar10"
    data_dir: str | None = None
    validation_fraction: float = 0.0
    crop_padding: int = 4
    flip: bool = True

    def __post_init__(self):
        check(vars(self), name=("a name", lambda value: isinstance(value, str) and bool(value)))
        check(vars(self), data_dir=("a path or None", lambda value: value is None or isinstance(value, str)))
        check(vars(self), validation_fraction=("a number in [0, 1)", lambda value: is_number(value) and 0 <= value < 1))
        check(vars(self), crop_padding=integer(0), flip=flag())
