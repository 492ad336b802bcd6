"""The sizes at which the tables are run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

KINDS = ("accuracy", "held_out", "time", "gradient")
_NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "digits"}


@dataclasses.dataclass(frozen=True)
class Scale:
    """A size of experiment.

    Attributes:
      channels, hidden, epochs: what `text` prints on every table.
      changes: of the default config.
      deepest: by kind of table; rows of deeper networks are left out.
      dataset: on which every table is run, whatever it asks for; None: the table's own.
      is_short: one seed, LipConvnet-5, and of each table the first row; of the paper's also the last one of that depth.
      note: printed at the end of `text`.
    """

    channels: int
    hidden: int
    epochs: int
    changes: Mapping[str, Any]
    deepest: Mapping[str, int]
    dataset: str | None = None
    is_short: bool = False
    data: str = ""
    note: str = ""

    def text(self, kind: str, dataset: str, is_sized: bool = True) -> str:
        """Such as '8 initial channels, 512 hidden units, 4 epochs, CIFAR-10 (JPEG mirror)'; is_sized: see `Table`."""
        name = _NAMES[self.dataset or dataset]
        name += self.data if name == "CIFAR-10" and kind != "time" else ""
        if kind == "held_out":
            return f"{name}, 45,000 training images, 5,000 held out, U = {self.epochs} epochs of lipjax 0.1{self.note}"
        if not is_sized:
            return f"{name}, test split, U = {self.epochs} epochs of lipjax 0.1{self.note}"
        epochs = "1 epoch" if kind == "gradient" or self.epochs == 1 else f"{self.epochs} epochs"
        steps = f"random images of the size of {name}" if kind == "time" else f"{epochs}, {name}"
        hidden = "" if kind == "gradient" else f"{self.hidden} hidden units, "
        return f"{self.channels} initial channels, {hidden}{steps}{self.note}"


def _sizes(channels: int, hidden: int, epochs: int) -> dict[str, int]:
    return {"model.init_channels": channels, "model.hidden": hidden, "run.epochs": epochs}


_DIGITS = {"data.name": "digits", "model.mean": (0.0,), "model.std": 1.0, "data.flip": False, "data.crop_padding": 0}

SCALES = {
    "paper": Scale(32, 4096, 200, {}, dict.fromkeys(KINDS, 40)),
    "small": Scale(
        8,
        512,
        4,
        _sizes(8, 512, 4),
        {"accuracy": 15, "held_out": 40, "time": 40, "gradient": 20},
        data=" (JPEG mirror)",
    ),
    "smoke": Scale(
        2,
        16,
        1,
        _sizes(2, 16, 1) | _DIGITS,
        dict.fromkeys(KINDS, 40),
        dataset="digits",
        is_short=True,
        note=", LipConvnet-5: shows that it runs, nothing else",
    ),
}
