"""A cell: one training or measurement, with one results file."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.methods import TIMED
from experiments.scales import SCALES
from lipjax.config import default_config
from lipjax.training.recipe import Recipe
from lipjax.workdir import flattened


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row at a scale with a seed.  Rows of several tables that change the same keys share it.

    kind: 'accuracy', a network trained and certified; 'time', steps of `TIMED` networks of a depth; 'gradient', the
    error of the approximate kernel gradients in a trained network.
    """

    scale: str
    changes: Mapping[str, Any]
    seed: int
    kind: str = "accuracy"

    @property
    def name(self) -> str:
        """Such as 'head-crc_norm-1.4_seed-0': the keys that differ from the default config, for file names.

        Names of the other kinds begin with the kind, and always have the depth.
        """
        default, is_accuracy = _defaults(), self.kind == "accuracy"
        shown = {k: v for k, v in self.changes.items() if default[k] != v or (k == "model.depth" and not is_accuracy)}
        of_leaf = {_leaf(key): value for key, value in shown.items()} | {"seed": self.seed}
        keys = [f"{key}-{value}" for key, value in sorted(of_leaf.items())]
        return "_".join(keys if is_accuracy else [self.kind, *keys])

    def config(self, data_dir: str | None = None) -> ConfigDict:
        """The whole config of the training; of a time, what its variants have in common."""
        config = default_config()
        fixed = {"run.seed": self.seed, "data.data_dir": data_dir}
        if self.changes.get("model.head") == "crc":
            config.loss = {"name": "crc"}
        config.update_from_flattened_dict({**SCALES[self.scale].changes, **self.changes, **fixed})
        return config

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
    """'depth' of 'model.depth'; 'dataset' of 'data.name'."""
    return "dataset" if key == "data.name" else key.rpartition(".")[2]
