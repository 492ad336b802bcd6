"""A cell: one training or measurement, with one results file."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.methods import TIMED
from experiments.scales import SCALES
from lipjax.config import default_config
from lipjax.training.recipe import Recipe
from lipjax.workdir import flattened

# Of the training images, by which recipes are chosen: 5,000 of CIFAR.
HELD_OUT = 0.1


_LONGEST = 245  # of a name, to which .json.tmp is added: file systems take 255


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row at a scale with a seed.  Rows of several tables that change the same keys share it.

    kind: 'accuracy', a network trained and certified; 'held_out', one trained on 90 % of the training images and judged
    by the others; 'time', steps of `TIMED` networks of a depth; 'gradient', the error of the approximate kernel
    gradients in a trained network.
    """

    scale: str
    changes: Mapping[str, Any]
    seed: int
    kind: str = "accuracy"

    @property
    def name(self) -> str:
        """Such as 'head-crc_norm-1.4_seed-0': the keys that differ from the default config, for file names.

        Names of the other kinds begin with the kind; of one that is too long for a file's the end is a digest.
        """
        default, is_accuracy = _defaults(), self.kind == "accuracy"
        always = {"model.depth"} if self.kind in ("time", "gradient") else set()
        shown = {k: v for k, v in self.changes.items() if default.get(k) != v or k in always}
        of_leaf = {_leaf(key): value for key, value in shown.items()} | {"seed": self.seed}
        keys = [f"{key}-{value}" for key, value in sorted(of_leaf.items())]
        name = "_".join(keys if is_accuracy else [self.kind, *keys])
        return name if len(name) <= _LONGEST else f"{name[:220]}_{hashlib.sha256(name.encode()).hexdigest()[:12]}"

    def config(self, data_dir: str | None = None) -> ConfigDict:
        """The whole config of the training; of a time, what its variants have in common."""
        config = default_config()
        fixed: dict[str, Any] = {"run.seed": self.seed, "data.data_dir": data_dir}
        if self.kind == "held_out":
            fixed["data.validation_fraction"] = HELD_OUT
        if self.changes.get("model.head") == "crc":
            config.loss = {"name": "crc"}
        of_scale = SCALES[self.scale].changes
        if self.changes.get("model.name", config.model.name) != config.model.name:  # another network has other keys
            of_scale = {key: value for key, value in of_scale.items() if not key.startswith("model.")}
        config.update_from_flattened_dict({**of_scale, **self.changes, **fixed})
        return config

    def unit(self) -> "Cell":
        """The default recipe of lipjax 0.1 on the same images: what U, the unit of cost, is the training of."""
        return Cell(self.scale, {k: v for k, v in self.changes.items() if k == "data.name"}, self.seed)

    def identity(self) -> dict[str, Any]:
        """All that the result depends on, as JSON gives it back: a results file with another one is not this cell's."""
        return published(self.config()) | ({"variants": TIMED} if self.kind == "time" else {})


def published(config: ConfigDict) -> dict[str, Any]:
    """{'section.key': value}, all values of a config, without where the data was on the machine."""
    return {key: value for key, value in _whole(config).items() if key != "data.data_dir"}


def _defaults() -> dict[str, Any]:
    """Of all keys, those of the loss of a curvature head too."""
    config = default_config()
    config.model.head, config.loss = "crc", {"name": "crc"}
    return _whole(config) | _whole(default_config())


def _whole(config: ConfigDict) -> dict[str, Any]:
    return flattened(Recipe.of(config).whole())


def _leaf(key: str) -> str:
    """'depth' of 'model.depth'; 'dataset' of 'data.name', 'loss' of 'loss.name'."""
    sections, _, last = key.rpartition(".")
    return "dataset" if key == "data.name" else sections.rpartition(".")[2] if last == "name" else last
