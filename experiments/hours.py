"""GPU hours of trainings: a model, by the operations of a step and the rate of a network that was measured on a GPU.

Operations are XLA's count of the program before it is optimised.  What the model says of a larger network is above what
it takes, as larger products use a GPU better; of a curvature head, whose inner loops are counted once, below.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.cells import Cell
from experiments.times import DATA
from lipjax.training.recipe import Metrics, Recipe, initial_state, make_train_step

# Written by `python -m benchmarks.gpu`; of its steps, those whose rates are taken.
MEASURED = Path(__file__).parents[1] / "benchmarks" / "results" / "gpu.json"
_LIPCONVNET, _OTHERS = "LipConvnet-20, 32 channels: float32", "LiResNet, 8 × 96: default"


class Cost(NamedTuple):
    """Of a training: operations of a step, steps, hours, and the step of `MEASURED` that has the same rate."""

    operations: float
    steps: int
    hours: float
    rate_of: str


def operations_of(recipe: Recipe) -> float:
    """Floating-point operations of a training step, by XLA's count; nothing is compiled or allocated."""
    shape, classes, examples = DATA[recipe.data.name]
    model, size = recipe.model(shape, classes), recipe.run.batch_size
    optimizer = recipe.optimizer.transformation(model, 1000 * recipe.run.epochs)
    state, metrics = jax.eval_shape(lambda: (initial_state(model, optimizer, 0, recipe.loss), Metrics.zero()))
    images = jax.ShapeDtypeStruct((examples, *shape), jnp.uint8)
    labels, order = (jax.ShapeDtypeStruct(of, jnp.int32) for of in ((examples,), (examples // size, size)))
    step = make_train_step(model, optimizer, recipe, pixel_max=255)
    counted = step.lower(state, metrics, images, labels, order).cost_analysis()
    assert counted is not None
    return counted["flops"]


def cost_of(cell: Cell, parts: dict[str, Any]) -> Cost:
    """At the rate (operations a second) of a measured step of `parts`."""
    recipe = Recipe.of(cell.config())
    operations = operations_of(recipe)
    steps = recipe.run.epochs * (DATA[recipe.data.name][2] // recipe.run.batch_size)
    rate_of = _LIPCONVNET if recipe.model_options["name"] == "lipconvnet" else _OTHERS
    measured = parts[f"step: {rate_of}"]
    seconds = min(measured["seconds"], measured["seconds_in_a_row"])
    return Cost(operations, steps, steps * seconds * operations / measured["operations"] / 3600, rate_of)


def rendered(cells: list[tuple[str, Cell]], path: Path = MEASURED) -> str:
    """A Markdown table, a line a cell."""
    measured = json.loads(path.read_text(encoding="utf-8"))
    made = [f"Modelled, not measured: hours of one {measured['device']}.", ""]
    made += ["| network | 1e12 operations a step | steps | hours | at the rate of |", "|---|---|---|---|---|"]
    for label, cell in cells:
        cost = cost_of(cell, measured["parts"])
        columns = label, f"{cost.operations / 1e12:.2f}", f"{cost.steps:,}", f"{cost.hours:.1f}", cost.rate_of
        made.append("| " + " | ".join(columns) + " |")
    return "\n".join(made) + "\n"
