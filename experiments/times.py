"""Seconds of a training step of networks of one depth, and of the epoch that it makes."""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cells import Cell
from experiments.methods import TIMED
from lipjax.training.recipe import Metrics, Recipe, TrainState, epoch_order, make_train_step

STEPS = 5
# Image shape, classes and training images: no image is needed to time a step.
DATA = {
    "cifar10": ((32, 32, 3), 10, 50_000),
    "cifar100": ((32, 32, 3), 100, 50_000),
    "digits": ((8, 8, 1), 10, 1_437),
}


def measure(cell: Cell) -> dict[str, Any]:
    """Random images and weights; the steps of all variants alternate, so that a busy moment slows all of them.

    The first step of each is not counted.
    """
    recipe = Recipe.of(cell.config())
    _, _, examples = DATA[recipe.data.name]
    runs: dict[str, TimedTraining] = {}
    seconds: dict[str, list[float]] = {name: [] for name in TIMED}
    for name, changes in TIMED.items():
        variant = cell.config()
        variant.update_from_flattened_dict(changes)
        runs[name] = TimedTraining(Recipe.of(variant))
        runs[name].step()
    for _ in range(STEPS):
        for name, run in runs.items():
            seconds[name].append(run.step())
    steps_per_epoch = examples // recipe.run.batch_size
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "steps_per_epoch": steps_per_epoch,
        "timed": {
            name: {
                "step_seconds": seconds[name],
                "median_step_seconds": median,
                "epoch_seconds": median * steps_per_epoch,
            }
            for name, median in medians.items()
        },
    }


class TimedTraining:
    """A network in training on random images, its step compiled; the first that runs takes longer than others."""

    def __init__(self, recipe: Recipe):
        shape, classes, _ = DATA[recipe.data.name]
        seed, size = recipe.run.seed, recipe.run.batch_size
        rng = np.random.default_rng(seed)
        self.images = jnp.asarray(rng.integers(0, 256, (2 * size, *shape), dtype=np.uint8))
        self.labels = jnp.asarray(rng.integers(0, classes, 2 * size))
        self.order = epoch_order(seed, 1, len(self.labels), size)
        model = recipe.model(shape, classes)
        optimizer = recipe.optimizer.transformation(model, 1000 * recipe.run.epochs)
        self.carry = _random_state(model, optimizer, recipe, rng), Metrics.zero()
        step: Any = make_train_step(model, optimizer, recipe, pixel_max=255)
        # Ahead of time: called as it is, the step would be compiled again for the placement of its own outputs.
        self.compiled = step.lower(*self.carry, self.images, self.labels, self.order).compile()

    def step(self) -> float:
        """Seconds of one step."""
        return self.steps_in_a_row(1)

    def steps_in_a_row(self, count: int) -> float:
        """Seconds a step of many: the host sends each while the device is still at those before, as in a training."""
        started = time.perf_counter()
        for _ in range(count):
            self.carry = self.compiled(*self.carry, self.images, self.labels, self.order)
        jax.block_until_ready(self.carry)
        return (time.perf_counter() - started) / count


def _random_state(model, optimizer, recipe: Recipe, rng: np.random.Generator) -> TrainState:
    """Small random numbers in the right shapes: the network's own initialisation takes longer than the steps."""
    image = np.zeros((1, *model.shape_of_images()), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)

    def draw(leaf):
        scale = max(leaf.shape[-1] if leaf.shape else 1, 1) ** -0.5
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype)

    params = jax.tree.map(draw, dict(shapes["params"]))
    spectral = jax.tree.map(lambda leaf: jnp.full(leaf.shape, max(leaf.size, 1) ** -0.5), shapes.get("spectral", {}))
    state = TrainState(jnp.zeros((), jnp.int32), params, spectral, (), recipe.loss.parameters())
    # Lookahead begins with the parameters themselves, and a step donates no array twice.
    return state._replace(opt_state=jax.tree.map(jnp.copy, optimizer.init(state.trained())))
