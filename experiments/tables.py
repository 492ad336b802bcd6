"""What stands in each table: its rows, each a few changes of the default config."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from experiments.cells import Cell
from experiments.methods import CIFAR100, CIFAR100_CRC, CONE, CRC, LLN, METHODS, PARTS, TAYLOR
from experiments.recipes import AT_U, BEST, BEST_100, DIAL, NETWORKS, NETWORKS_100, PUBLISHED
from experiments.scales import SCALES

DEPTHS = range(5, 41, 5)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows: label → changes of the default config; each is run once a seed.

    Attributes:
      kind: of its cells.
      seeds: which are run; of `more_seeds` those are shown that have a result, and `--cell` runs them.
      paper: the number of the table in the paper, None where it has none.
      dataset: the name that is printed; the rows have it in their changes.
      is_sized: whether the rows are of the sizes of the scale, which are printed.
      scales: at which there are rows.
    """

    title: str
    rows: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...] = (0, 1)
    kind: str = "accuracy"
    more_seeds: tuple[int, ...] = ()
    paper: str | None = None
    dataset: str = "cifar10"
    is_sized: bool = True
    scales: tuple[str, ...] = tuple(SCALES)


def _equiripple(degree: int, norm: float) -> dict[str, Any]:
    return {"model.degree": degree, "model.norm": norm}


def _each_depth(methods: Mapping[str, Mapping[str, Any]], is_cifar100: bool = False) -> dict[str, dict[str, Any]]:
    """'LipConvnet-5, Baseline' → its changes, depth by depth."""
    rows = {}
    for depth in DEPTHS:
        for method, changes in methods.items():
            of_set = CIFAR100 | (CIFAR100_CRC if changes.get("model.head") == "crc" else {}) if is_cifar100 else {}
            rows[f"LipConvnet-{depth}, {method}"] = {"model.depth": depth, **changes, **of_set}
    return rows


_SETTINGS = [(3, 1.4), (4, 1.0), (4, 1.4), (4, 1.9), (4, 2.4), (5, 1.9)]
_POOLINGS = {
    "max": {},
    "cone": CONE,
    "polyline, 4 vertices": {"model.pooling": "polyline"},
    "polyline, 8 vertices": {"model.pooling": "polyline", "model.pool_vertices": 8},
    "point": {"model.pooling": "point"},
}
_ACTIVATIONS = {
    "MaxMin": {},
    "Householder": {"model.activation": "householder"},
    "Householder, order 2": {"model.activation": "householder2"},
}
_TERMS = (3, 4, 6, 8, 12)
_POLYNOMIALS = {"Taylor 6": TAYLOR, "equiripple 4 at 1.9": {}}

_held_out = functools.partial(Table, seeds=(0,), kind="held_out", more_seeds=(1,))

TABLES = {
    "1": Table(
        "Seconds an epoch of training, batch 128, CIFAR-10",
        {f"LipConvnet-{depth}": {"model.depth": depth} for depth in DEPTHS},
        seeds=(0,),
        kind="time",
        paper="1",
    ),
    "3": Table("Provable robustness on CIFAR-10", _each_depth(METHODS), seeds=(0,), more_seeds=(1,), paper="3"),
    "4": Table(
        "Provable robustness on CIFAR-100",
        _each_depth(METHODS, is_cifar100=True),
        seeds=(0,),
        more_seeds=(1,),
        paper="4",
        dataset="cifar100",
    ),
    "5": Table(
        "Projection pooling and CRC-Lip added separately, CIFAR-10",
        _each_depth(PARTS),
        seeds=(0,),
        more_seeds=(1,),
        paper="5",
    ),
    "6": Table(
        "Projection pooling and CRC-Lip added separately, CIFAR-100",
        _each_depth(PARTS, is_cifar100=True),
        seeds=(0,),
        more_seeds=(1,),
        paper="6",
        dataset="cifar100",
    ),
    "8": Table(
        "Seconds an epoch of training, batch 128, CIFAR-100",
        {f"LipConvnet-{depth}": {"model.depth": depth} | CIFAR100 for depth in DEPTHS},
        seeds=(0,),
        kind="time",
        paper="8",
        dataset="cifar100",
    ),
    "terms": Table(
        "Taylor terms in training, 15 in evaluation, LipConvnet-5, LLN, max, fast gradient",
        {f"{terms} terms": TAYLOR | {"model.terms": terms} for terms in _TERMS},
        seeds=(0,),
        more_seeds=(1,),
    ),
    "gradient": Table(
        "Error of the kernel gradient after one epoch, LLN, max",
        {
            f"LipConvnet-{depth}, {name}": {"model.depth": depth, "run.epochs": 1} | changes
            for name, changes in _POLYNOMIALS.items()
            for depth in (5, 10, 15, 20)
        },
        seeds=(0,),
        kind="gradient",
    ),
    "layers": Table(
        "Orthogonal layers of LipConvnet-5",
        {
            **{f"LLN, max, equiripple {d} at {n}": LLN | _equiripple(d, n) for d, n in _SETTINGS},
            "LLN, max, Taylor 6 → 15": LLN | TAYLOR,
            **{f"CRC, cone, equiripple {d} at {n}": CRC | CONE | _equiripple(d, n) for d, n in _SETTINGS},
            "LLN, max, LipConvnet-15": LLN | {"model.depth": 15},
        },
    ),
    "pooling": Table(
        "Pooling of LipConvnet-5",
        {f"LLN, {name}": LLN | changes for name, changes in _POOLINGS.items()}
        | {f"CRC, {name}": CRC | changes for name, changes in _POOLINGS.items()},
    ),
    "activations": Table(
        "Activations of LipConvnet-15, LLN, max pooling",
        {name: LLN | {"model.depth": 15} | changes for name, changes in _ACTIVATIONS.items()},
    ),
    "recipes": _held_out("Recipes at equal cost U, judged by held-out training images", AT_U),
    "best": Table("The recipes that were chosen", BEST, is_sized=False),
    "best100": Table("The recipe that was chosen, CIFAR-100", BEST_100, dataset="cifar100", is_sized=False),
    "networks": _held_out("Architectures at about U, judged by held-out training images", NETWORKS),
    "networks100": _held_out(
        "Architectures with a curvature head, CIFAR-100, judged by held-out training images",
        NETWORKS_100,
        dataset="cifar100",
    ),
    "dial": _held_out("The loss as a dial, at equal cost U, judged by held-out training images", DIAL),
    "published": Table(
        "Every architecture at its published size, by its published recipe",
        PUBLISHED,
        seeds=(0,),
        is_sized=False,
        scales=("paper", "smoke"),
    ),
}


def rows(table: str, scale: str) -> dict[str, dict[str, Any]]:
    """The rows of a table at a scale, on the data of the scale."""
    size, wanted = SCALES[scale], TABLES[table]
    if scale not in wanted.scales:
        return {}
    of_dataset = {} if size.dataset is None else CIFAR100 | CIFAR100_CRC
    kept = {
        label: {key: value for key, value in changes.items() if key not in of_dataset}
        for label, changes in wanted.rows.items()
        if changes.get("model.depth", 5) <= size.deepest[wanted.kind]
    }
    if not size.is_short:
        return kept
    depths = {label: changes.get("model.depth", 5) for label, changes in kept.items()}
    alike = [label for label, depth in depths.items() if depth == next(iter(depths.values()))]
    ends = (alike[0], alike[-1]) if wanted.paper else (alike[0],)
    return {label: {**kept[label], "model.depth": 5} for label in ends}


def cells(table: str, scale: str, seeds: tuple[int, ...] | None = None) -> list[tuple[str, Cell]]:
    """(row label, cell) of a table, row by row; seeds: None for those that are run."""
    seeds = TABLES[table].seeds if seeds is None else seeds
    seeds = seeds[:1] if SCALES[scale].is_short else seeds
    kind = TABLES[table].kind
    return [
        (label, Cell(scale, changes, seed, kind)) for label, changes in rows(table, scale).items() for seed in seeds
    ]


def all_seeds(table: str) -> tuple[int, ...]:
    """Those that are run, then those that are shown where they were."""
    return (*TABLES[table].seeds, *TABLES[table].more_seeds)


def scale_text(table: str, scale: str) -> str:
    """The scale as it is printed on a table."""
    return SCALES[scale].text(TABLES[table].kind, TABLES[table].dataset, TABLES[table].is_sized)
