"""What held-out training images say of a recipe, and what it costs: how recipes are chosen.  No test image is read."""

import json
import statistics
from pathlib import Path
from typing import Any

from experiments.cells import Cell
from experiments.times import TimedTraining
from lipjax.evaluation.split import certify_run
from lipjax.system.files import atomic_write
from lipjax.training.loop import train
from lipjax.training.recipe import Recipe

STEPS = 9


def measure(cell: Cell, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Train, from where it was stopped; what is proven of held-out images, and the cost in units U.

    By the proven bound: that which training estimates was up to a seventh too small.
    """
    train(cell.config(data_dir), workdir)
    summary = certify_run(workdir, data_dir, split="validation")
    units = workdir / "units.json"
    if not units.exists():
        atomic_write(units, json.dumps(units_of(cell)))
    return {
        "held_out": {key: summary[key] for key in ("standard_accuracy", "certified_accuracy", "lipschitz_bound")},
        "units": json.loads(units.read_text(encoding="utf-8")),
    }


def units_of(cell: Cell) -> float:
    """The time of the cell's steps over that of the unit's (`Cell.unit`), steps of both timed in turns."""
    recipes = [Recipe.of(each.config()) for each in (cell, cell.unit())]
    timed, counts = [TimedTraining(recipe) for recipe in recipes], [_steps(recipe) for recipe in recipes]
    _, *seconds = [[training.step() for training in timed] for _ in range(1 + STEPS)]
    costs = [
        statistics.median(column) * count for column, count in zip(zip(*seconds, strict=True), counts, strict=True)
    ]
    return costs[0] / costs[1]


def _steps(recipe: Recipe) -> float:
    """In the whole training, for as many images an epoch."""
    return recipe.run.epochs / recipe.run.batch_size
