"""A model, not a measurement, of a training step on N devices, from steps measured on one.

    python benchmarks/scale_model.py [--depth=15 --init_channels=32 --batch_size=128 --bandwidth=10]

One device is measured: seconds of a step at several batch sizes b give a line t(b) = t0 + t1·b, by least squares.  t0
is what every device does anew whatever its share of the batch (power iterations, the update of all parameters).  N
devices take t0 + t1·B/N + 2 (N − 1)/N · P / bandwidth for a global batch B: the last term is a ring all-reduce of the
gradients, P bytes of float32, not hidden behind computation.  Latency, and the images of the batch, are left out.
Prints markdown.
"""

import statistics
import time

import jax
import numpy as np
from absl import app, flags

from lipjax.config import default_config
from lipjax.training.recipe import Metrics, Recipe, epoch_order, initial_state, make_train_step

DEPTH = flags.DEFINE_integer("depth", 15, "n of LipConvnet-n.")
INIT_CHANNELS = flags.DEFINE_integer("init_channels", 32, "Channels after the first convolution.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "B, over all devices.")
MEASURED = flags.DEFINE_list("measured", ["16", "32", "64"], "Batch sizes at which one device is measured.")
STEPS = flags.DEFINE_integer("steps", 3, "Timed steps of each.")
BANDWIDTH = flags.DEFINE_float(
    "bandwidth", 10.0, "Of the slowest link, in GB/s (10: PCIe or fast network; 100: NVLink)."
)


def main(_):
    config = default_config()
    config.update_from_flattened_dict({"model.depth": DEPTH.value, "model.init_channels": INIT_CHANNELS.value})
    model = Recipe.of(config).model((32, 32, 3), 10)
    optimizer = Recipe.of(config).optimizer.transformation(model, 390 * Recipe.of(config).run.epochs)
    state = initial_state(model, optimizer, 0)
    gigabytes = 4e-9 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    step = make_train_step(model, optimizer, Recipe.of(config), pixel_max=255)
    sizes = [int(size) for size in MEASURED.value]
    seconds = []
    for size in sizes:
        state, times = timed_steps(step, state, size)
        seconds.append(statistics.median(times))
    slope, fixed = np.polyfit(sizes, seconds, 1)
    fixed = max(fixed, 0.0)
    measured = ", ".join(f"{s:.2f} s at {b}" for b, s in zip(sizes, seconds, strict=True))
    print(
        f"LipConvnet-{DEPTH.value}, {INIT_CHANNELS.value} channels, LLN; one {jax.default_backend()} device: {measured}"
    )
    print(f"t(b) = {fixed:.3f} s + {1e3 * slope:.2f} ms · b; gradients: {gigabytes:.3f} GB; at {BANDWIDTH.value} GB/s:")
    print("\n| devices | s/step | of it gradients | speed-up |\n|---|---|---|---|")
    for devices in (1, 2, 4, 8, 16):
        traffic = 2 * (devices - 1) / devices * gigabytes / BANDWIDTH.value
        total = fixed + slope * BATCH_SIZE.value / devices + traffic
        print(f"| {devices} | {total:.3f} | {traffic:.3f} | {(fixed + slope * BATCH_SIZE.value) / total:.1f} |")


def timed_steps(step, state, batch_size: int):
    """(state, seconds of each step) on random images; the first, which compiles, is not timed."""
    rng = np.random.default_rng(0)
    images = jax.numpy.asarray(rng.integers(0, 256, (2 * batch_size, 32, 32, 3), dtype=np.uint8))
    labels = jax.numpy.asarray(rng.integers(0, 10, 2 * batch_size))
    order, metrics, times = epoch_order(0, 1, len(labels), batch_size), Metrics.zero(), []
    for _ in range(STEPS.value + 1):
        started = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, metrics, images, labels, order))
        times.append(time.perf_counter() - started)
    return state, times[1:]


if __name__ == "__main__":
    app.run(main)
