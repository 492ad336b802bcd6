"""What the training loop costs beyond its steps: `train` against the same compiled steps with nothing around them.

    python benchmarks/loop.py [--dataset=cifar10 --data_dir=DIR --init_channels=8 --batch_size=128 --epochs=3]

Both do whole epochs of one network from the same start: the steps and the settling of norms in the middle.  `train`
also draws the order of each epoch, asks for signals and checkpoints, and writes records and lines; checkpoints
themselves are outside the measured seconds.  Rounds of both alternate; of each the fastest epoch after the first
counts, since noise of the machine only adds.  Prints one line.
"""

import json
import tempfile
import time
from pathlib import Path

import jax
from absl import app, flags, logging

from lipjax.config import default_config
from lipjax.data import load
from lipjax.system import compilation
from lipjax.training.loop import _settled, train
from lipjax.training.recipe import Metrics, Recipe, epoch_order, initial_state, make_train_step
from lipjax.training.resume import METRICS_FILE

DATASET = flags.DEFINE_string("dataset", "digits", "As config.data.name.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "As config.data.data_dir.")
INIT_CHANNELS = flags.DEFINE_integer("init_channels", 8, "Channels after the first convolution.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images a step.")
EPOCHS = flags.DEFINE_integer(
    "epochs", 3, "Epochs of a round; the first, which compiles, does not count.", lower_bound=2
)
REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds.")


def main(_):
    logging.set_verbosity(logging.WARNING)
    compilation.use_cache()
    config = default_config()
    config.update_from_flattened_dict(
        {"data.name": DATASET.value, "data.data_dir": DATA_DIR.value, "model.init_channels": INIT_CHANNELS.value}
    )
    config.update_from_flattened_dict({"run.batch_size": BATCH_SIZE.value, "run.epochs": EPOCHS.value})
    dataset = load(config.data.name, config.data.data_dir)
    config.model.mean = (0.5,) * dataset.image_shape[-1]
    seconds = {"train": [], "steps": []}
    for _ in range(REPEATS.value):
        seconds["train"] += epochs_of_train(config)
        seconds["steps"] += epochs_of_steps(config, dataset)
    steps = len(dataset.train.labels) // config.run.batch_size
    loop, bare = (min(times) / steps for times in seconds.values())
    print(
        f"{config.data.name}, LipConvnet-5, {config.model.init_channels} channels, batch {config.run.batch_size}, "
        f"{jax.default_backend()}: {1e3 * bare:.3f} ms a step alone, {1e3 * loop:.3f} ms in train, "
        f"{loop / bare - 1:+.1%}"
    )


def epochs_of_train(config) -> list[float]:
    """Seconds of each epoch but the first."""
    with tempfile.TemporaryDirectory() as workdir:
        train(config, Path(workdir), say=lambda line: None)
        records = map(json.loads, (Path(workdir) / METRICS_FILE).read_text(encoding="utf-8").splitlines())
        return [record["seconds"] for record in records][1:]


def epochs_of_steps(config, dataset) -> list[float]:
    """The same epochs, step after step."""
    model = Recipe.of(config).model(dataset.image_shape, dataset.num_classes)
    images, labels = map(jax.numpy.asarray, dataset.train)
    steps = len(labels) // config.run.batch_size
    optimizer = Recipe.of(config).optimizer.transformation(model, steps * Recipe.of(config).run.epochs)
    step = make_train_step(model, optimizer, Recipe.of(config), dataset.pixel_max)
    state, metrics, seconds = initial_state(model, optimizer, config.run.seed), Metrics.zero(), []
    for epoch in range(1, config.run.epochs + 1):
        order = jax.block_until_ready(epoch_order(config.run.seed, epoch, len(labels), config.run.batch_size))
        started = time.perf_counter()
        for position in range(steps):
            if position == steps // 2:
                state = state._replace(spectral=_settled(model, state.params, state.spectral))
            state, metrics = step(state, metrics, images, labels, order)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


if __name__ == "__main__":
    app.run(main)
