"""GPU hours of trainings, by steps of a network of the architecture that was measured on a GPU.

Where the training has another step than that it is a model: in proportion to operations, by XLA's count of the program
before it is optimised.  What that says of a larger network is above what it takes, as larger products use a GPU better;
of a curvature head, whose inner loops are counted once, below.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.cells import Cell
from experiments.gpu_networks import config_of
from experiments.times import DATA
from lipjax.training.recipe import Metrics, Recipe, initial_state, make_train_step

# Written by `python -m benchmarks.gpu`.
MEASURED = Path(__file__).parents[1] / "benchmarks" / "results" / "gpu.json"
# Whose steps are taken, in the precision that a training has.
REFERENCES = {
    "lipconvnet": "LipConvnet-20, 32 channels",
    "liresnet": "LiResNet, 12 × 512",
    "bronet": "BRONet, 12 × 512",
    "lipnext": "LipNeXt, 32 × 1024",
}


class Cost(NamedTuple):
    """Of a training: operations of a step, steps, hours, and whose step was measured."""

    operations: float
    steps: int
    hours: float
    measured: str


def operations_of(recipe: Recipe) -> float:
    """Floating-point operations of a training step, by XLA's count on a CPU; nothing is compiled or allocated."""
    shape, classes, examples = DATA[recipe.data.name]
    model, size = recipe.model(shape, classes), recipe.run.batch_size
    optimizer = recipe.optimizer.transformation(model, 1000 * recipe.run.epochs)
    state, metrics = jax.eval_shape(lambda: (initial_state(model, optimizer, 0, recipe.loss), Metrics.zero()))
    images = jax.ShapeDtypeStruct((examples, *shape), jnp.uint8)
    labels, order = (jax.ShapeDtypeStruct(of, jnp.int32) for of in ((examples,), (examples // size, size)))
    step = make_train_step(model, optimizer, recipe, pixel_max=255)
    counted = step.lower(state, metrics, images, labels, order).cost_analysis()
    if counted is None:
        raise ValueError(f"operations: not counted on the platform {jax.default_backend()!r}; set JAX_PLATFORMS=cpu")
    return counted["flops"]


def cost_of(cell: Cell, parts: dict[str, Any]) -> Cost:
    """By a measured step of `parts`."""
    recipe = Recipe.of(cell.config())
    reference = REFERENCES[recipe.model_options["name"]]
    operations, those_measured = (operations_of(each) for each in (recipe, Recipe.of(config_of(reference))))
    steps = recipe.run.epochs * (DATA[recipe.data.name][2] // recipe.run.batch_size)
    measured = parts[f"step: {reference}: default"]
    seconds = min(measured["seconds"], measured["seconds_in_a_row"])
    return Cost(operations, steps, steps * seconds * operations / those_measured / 3600, reference)


def rendered(cells: list[tuple[str, Cell]], path: Path = MEASURED) -> str:
    """A Markdown table, a line a cell."""
    measured = json.loads(path.read_text(encoding="utf-8"))
    made = [f"Hours of one {measured['device']}, by the step that was measured.", ""]
    made += ["| network | 1e12 operations a step | steps | hours | measured: a step of |", "|---|---|---|---|---|"]
    for label, cell in cells:
        cost = cost_of(cell, measured["parts"])
        columns = label, f"{cost.operations / 1e12:.2f}", f"{cost.steps:,}", f"{cost.hours:.1f}", cost.measured
        made.append("| " + " | ".join(columns) + " |")
    return "\n".join(made) + "\n"
