"""Time of a training step, fast against exact kernel gradients, interleaved in one run.

    python benchmarks/step_time.py [--depth=5 --init_channels=8 --batch_size=128 --steps=20]

Random images; prints the median of the interleaved steps for each gradient and their ratio.
"""

import statistics
import time

import jax
from absl import app, flags

from lipjax import compilation, ops
from lipjax.config import build_model, default_config
from lipjax.recipe import Metrics, epoch_order, initial_state, make_optimizer, make_train_step

DEPTH = flags.DEFINE_integer("depth", 5, "n of LipConvnet-n.")
INIT_CHANNELS = flags.DEFINE_integer("init_channels", 8, "Channels after the first convolution.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images a step.")
STEPS = flags.DEFINE_integer("steps", 20, "Timed steps of each gradient.")


def main(_):
    compilation.use_cache()
    images = jax.random.randint(jax.random.key(0), (2 * BATCH_SIZE.value, 32, 32, 3), 0, 256).astype("uint8")
    labels = jax.random.randint(jax.random.key(1), (2 * BATCH_SIZE.value,), 0, 10)
    order = epoch_order(0, 1, len(labels), BATCH_SIZE.value)
    runs = {}
    for gradient in ops.GRADIENTS:
        config = default_config()
        config.update({"depth": DEPTH.value, "init_channels": INIT_CHANNELS.value, "gradient": gradient})
        model = build_model(config, (32, 32, 3), 10)
        optimizer = make_optimizer(config, steps_per_epoch=390)
        step = make_train_step(model, optimizer, config, pixel_max=255)
        runs[gradient] = [step, step(initial_state(model, optimizer, 0), Metrics.zero(), images, labels, order, 0)]
    seconds = {gradient: [] for gradient in runs}
    for _ in range(STEPS.value):
        for gradient, run in runs.items():
            jax.block_until_ready(run[1])
            started = time.perf_counter()
            run[1] = jax.block_until_ready(run[0](*run[1], images, labels, order, 0))
            seconds[gradient].append(time.perf_counter() - started)
    medians = {gradient: statistics.median(times) for gradient, times in seconds.items()}
    print(
        f"LipConvnet-{DEPTH.value}, {INIT_CHANNELS.value} channels, batch {BATCH_SIZE.value}, "
        f"{jax.default_backend()}, median of {STEPS.value}"
    )
    for gradient, median in medians.items():
        print(f"  {gradient:6} {median:.3f} s  ({median / medians['exact']:.2f} of exact)")


if __name__ == "__main__":
    app.run(main)
