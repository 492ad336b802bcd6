"""What is trained: the rows of each table as changes of the default config, and the scales they are trained at."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from lipjax.config import default_config

LLN: dict[str, Any] = {}
CRC: dict[str, Any] = {"head": "crc", "clip_norm": 1.0}
CONE: dict[str, Any] = {"pooling": "projection"}
_TAYLOR: dict[str, Any] = {"polynomial": "taylor"}


@dataclasses.dataclass(frozen=True)
class Scale:
    """A size of experiment; `text` is printed on every table.  Rows of deeper networks than `deepest` are left out."""

    text: str
    changes: Mapping[str, Any]
    deepest: int = 40


SCALES = {
    "paper": Scale("32 initial channels, 4096 hidden units, 200 epochs, CIFAR-10", {}),
    "small": Scale(
        "8 initial channels, 512 hidden units, 4 epochs, CIFAR-10 (JPEG mirror)",
        {"init_channels": 8, "hidden": 512, "epochs": 4},
        deepest=15,
    ),
    "smoke": Scale(
        "2 initial channels, 16 hidden units, 1 epoch, digits: shows that it runs, nothing else",
        {
            "dataset": "digits",
            "init_channels": 2,
            "hidden": 16,
            "epochs": 1,
            "mean": (0.0,),
            "std": 1.0,
            "flip": False,
            "crop_padding": 0,
        },
        deepest=5,
    ),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows: label → changes of the default config; each is trained once a seed."""

    title: str
    rows: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...] = (0, 1)


def _equiripple(degree: int, norm: float) -> dict[str, Any]:
    return {"degree": degree, "norm": norm}


_SETTINGS = [(3, 1.4), (4, 1.0), (4, 1.4), (4, 1.9), (4, 2.4), (5, 1.9)]
_POOLINGS = {
    "max": {},
    "cone": CONE,
    "polyline, 4 vertices": {"pooling": "polyline"},
    "polyline, 8 vertices": {"pooling": "polyline", "pool_vertices": 8},
    "point": {"pooling": "point"},
}
_ACTIVATIONS = {
    "MaxMin": {},
    "Householder": {"activation": "householder"},
    "Householder, order 2": {"activation": "householder2"},
}

_METHODS = {
    "Baseline": LLN | _TAYLOR | {"gradient": "exact"},
    "+ Fast": LLN | _TAYLOR,
    "+ CRC": CRC | CONE | _TAYLOR,
    "ours": CRC | CONE,
}

TABLES = {
    "3": Table(
        "Provable robustness on CIFAR-10",
        {
            f"LipConvnet-{depth}, {method}": {"depth": depth} | changes
            for depth in range(5, 41, 5)
            for method, changes in _METHODS.items()
        },
        seeds=(0,),
    ),
    "layers": Table(
        "Orthogonal layers of LipConvnet-5",
        {
            **{f"LLN, max, equiripple {d} at {n}": LLN | _equiripple(d, n) for d, n in _SETTINGS},
            "LLN, max, Taylor 6 → 15": LLN | _TAYLOR,
            **{f"CRC, cone, equiripple {d} at {n}": CRC | CONE | _equiripple(d, n) for d, n in _SETTINGS},
            "LLN, max, LipConvnet-15": LLN | {"depth": 15},
        },
    ),
    "pooling": Table(
        "Pooling of LipConvnet-5",
        {f"LLN, {name}": LLN | changes for name, changes in _POOLINGS.items()}
        | {f"CRC, {name}": CRC | changes for name, changes in _POOLINGS.items()},
    ),
    "activations": Table(
        "Activations of LipConvnet-15, LLN, max pooling",
        {name: LLN | {"depth": 15} | changes for name, changes in _ACTIVATIONS.items()},
    ),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training: a row at a scale with a seed.  Rows of several tables that change the same keys share it."""

    scale: str
    changes: Mapping[str, Any]
    seed: int

    @property
    def name(self) -> str:
        """Such as 'head-crc_norm-1.4_seed-0': the keys that differ from the default config, for file names."""
        default = default_config()
        changed = {key: value for key, value in self.changes.items() if default[key] != value}
        return "_".join(f"{key}-{value}" for key, value in sorted((changed | {"seed": self.seed}).items()))

    def config(self, data_dir: str | None = None) -> ConfigDict:
        """The whole config of the training."""
        config = default_config()
        config.update({**SCALES[self.scale].changes, **self.changes, "seed": self.seed, "data_dir": data_dir})
        return config


def cells(table: str, scale: str) -> list[tuple[str, Cell]]:
    """(row label, cell) of a table, row by row."""
    return [
        (label, Cell(scale, changes, seed))
        for label, changes in TABLES[table].rows.items()
        if changes.get("depth", 5) <= SCALES[scale].deepest
        for seed in TABLES[table].seeds
    ]
