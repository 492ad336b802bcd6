"""The training loop: data in, checkpoints and metrics.jsonl out; a rerun of the same command resumes."""

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lipjax.certification import certified_accuracy, certify_features, penultimate_features
from lipjax.checkpoint import CheckpointError, Checkpoints
from lipjax.config import build_model, check_config, parse_radii, write_config
from lipjax.data import Dataset, Split, load
from lipjax.devices import dataset_on_devices, mesh_of, on_devices
from lipjax.interruption import Interrupted, Interruption
from lipjax.layers import settle
from lipjax.models import LipConvnet
from lipjax.recipe import (
    Metrics,
    TrainState,
    epoch_order,
    initial_state,
    make_optimizer,
    make_train_step,
    state_sharding,
)
from lipjax.whole_file import write_whole

METRICS_FILE = "metrics.jsonl"
PROGRESS_SECONDS = 10.0


class TrainingDiverged(RuntimeError):
    """The loss is not finite.  The last checkpoint is from before and stays as it was."""


def train(config: ConfigDict, workdir: Path, say: Callable[[str], None] = print) -> TrainState:
    """Train as the config says, from the last checkpoint in the workdir if there is one; returns the final state.

    Writes config.json once, one line an epoch to metrics.jsonl, and checkpoints.  On the CPU a run that was stopped
    and resumed on as many devices ends bit-equal to an unbroken one.

    Raises:
      ValueError: a bad config key, or a workdir that holds a run of another config.
      OSError: the workdir cannot be written to, or has no room for the checkpoints.
      CheckpointError: a damaged checkpoint.
      Interrupted: SIGTERM or SIGINT; the step was finished and is in the last checkpoint.
      TrainingDiverged: the loss is not finite; names the step.
      DataError: the data is not there and cannot be downloaded.
    """
    check_config(config)
    dataset = load(config.dataset, config.data_dir)
    training, validation = dataset.hold_out(config.validation_fraction, config.seed)
    steps_per_epoch = len(training.labels) // config.batch_size
    if steps_per_epoch == 0:
        raise ValueError(
            f"config.batch_size={config.batch_size}: must be at most {len(training.labels)}, the training images"
        )
    mesh = mesh_of()
    if config.batch_size % mesh.size:
        raise ValueError(f"config.batch_size={config.batch_size}: must be a multiple of the {mesh.size} devices")
    model = build_model(config, dataset.image_shape, dataset.num_classes)
    workdir.mkdir(parents=True, exist_ok=True)
    write_config(config, workdir)

    checkpoints = Checkpoints(workdir, config.keep_checkpoints)
    optimizer = make_optimizer(config, steps_per_epoch)
    template = jax.eval_shape(lambda: initial_state(model, optimizer, config.seed))
    _check_room(workdir, template, config.keep_checkpoints)
    metrics = Metrics.zero()
    if checkpoints.has("last"):
        state, metadata = checkpoints.restore("last", template)
        if metadata.get("metrics"):
            metrics = Metrics.from_json(metadata["metrics"])
        epochs, position = divmod(int(state.step), steps_per_epoch)
        say(f"resuming {workdir} after epoch {epochs}" + (f" and {position} steps" if position else ""))
    else:
        _check_fresh(workdir, config)
        state, epochs = initial_state(model, optimizer, config.seed), 0
    _keep_metrics(workdir / METRICS_FILE, epochs)
    done = int(state.step)
    state = jax.device_put(state, state_sharding(template, config, mesh))
    metrics = on_devices(metrics, mesh)

    train_step = make_train_step(model, optimizer, config, dataset.pixel_max, mesh)
    images, labels = (dataset_on_devices(array, mesh) for array in training)
    total, order, last_saved = config.epochs * steps_per_epoch, None, time.monotonic()
    progress = Progress(say, config, steps_per_epoch, done)
    with Interruption() as interruption:
        while done < total:
            epoch, position = done // steps_per_epoch + 1, done % steps_per_epoch
            if order is None or position == 0:
                order = on_devices(epoch_order(config.seed, epoch, len(training.labels), config.batch_size), mesh)
                started = time.monotonic()
            if position == steps_per_epoch // 2:
                state = state._replace(spectral=_settled(state.params, state.spectral))
            state, metrics = train_step(state, metrics, images, labels, order, position)
            done += 1
            progress.step(done, metrics)

            is_due = (
                interruption.requested
                or (config.checkpoint_steps and done % config.checkpoint_steps == 0)
                or time.monotonic() - last_saved >= config.checkpoint_seconds
            )
            if done % steps_per_epoch == 0:
                record = _epoch_record(epoch, metrics) | {"seconds": time.monotonic() - started}
                metrics, score = on_devices(Metrics.zero(), mesh), None
                if len(validation.labels) and (done == total or epoch % config.eval_every == 0):
                    record |= evaluate(model, state, validation, dataset, config)
                    score = next(value for key, value in record.items() if key.startswith("validation_certified"))
                # The record first: a run killed in between resumes before this epoch and drops the record.
                with (workdir / METRICS_FILE).open("a") as file:
                    file.write(json.dumps(record) + "\n")
                if is_due or done == total or score is not None or epoch % config.checkpoint_every == 0:
                    checkpoints.save(state, epoch, score)
                    last_saved = time.monotonic()
                progress.epoch(record)
            elif is_due:
                _epoch_record(epoch, metrics)  # raises where the state is no longer finite
                checkpoints.save(state, epoch - 1, None, metrics.to_json())
                last_saved = time.monotonic()
            if interruption.requested and done < total:
                raise Interrupted(f"{interruption.requested} after step {done} of {total}; the same command resumes")
    return state


def evaluate(
    model: LipConvnet, state: TrainState, split: Split, dataset: Dataset, config: ConfigDict
) -> dict[str, Any]:
    """Accuracy and certified accuracy on held-out images.

    An estimate, used to choose a checkpoint and for nothing else: the convolutions are taken as 1-Lipschitz, which
    their proven bounds, computed by certify.py, may miss by a little.
    """
    variables = {"params": state.params, "spectral": state.spectral}
    images = split.images.astype(np.float32) / np.float32(dataset.pixel_max)
    features = penultimate_features(model, variables, images)
    lipschitz = 1 / float(model.input_scale()[1].min())
    certificate = certify_features(model.head, variables["params"]["head"], features, split.labels, lipschitz)
    record = {"validation_accuracy": float(np.mean(certificate.prediction == split.labels))}
    for text, radius in parse_radii(config.radii).items():
        record[f"validation_certified_estimate_{text}"] = certified_accuracy(certificate, radius)
    return record


@jax.jit
def _settled(params, spectral):
    return settle({"params": params, "spectral": spectral})["spectral"]


def _epoch_record(epoch: int, metrics: Metrics) -> dict[str, Any]:
    bad_step = int(metrics.first_bad_step)
    if bad_step >= 0:
        raise TrainingDiverged(
            f"the loss at step {bad_step} (epoch {epoch}) is not finite, or the parameters after it are not; "
            "the last checkpoint is kept. A smaller config.learning_rate may help"
        )
    examples = int(metrics.examples)
    return {
        "epoch": epoch,
        "loss": float(metrics.loss) / examples,
        "accuracy": int(metrics.correct) / examples,
    }


def _check_room(workdir: Path, template: TrainState, kept: int) -> None:
    """Raise OSError unless the disk has room for the checkpoints that are kept, the best and the one being written."""
    needed = (kept + 2) * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(template))
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise OSError(f"workdir={str(workdir)!r}: checkpoints need {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free")


def _check_fresh(workdir: Path, config: ConfigDict) -> None:
    """Raise CheckpointError if epochs are on record for which there must have been a checkpoint, now gone."""
    path = workdir / METRICS_FILE
    lines = len(path.read_text().splitlines()) if path.exists() else 0
    first_checkpoint = min(config.checkpoint_every, config.eval_every if config.validation_fraction else math.inf)
    if lines > first_checkpoint:
        raise CheckpointError(
            f"workdir={str(workdir)!r} records {lines} epochs but has no 'last' checkpoint: bring it back, or remove "
            f"{METRICS_FILE} and checkpoints/ to start anew"
        )


def _keep_metrics(path: Path, epochs: int) -> None:
    """Drop lines of epochs after the checkpoint, which will be trained again, and a last line cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["epoch"] <= epochs:
                kept.append(line + "\n")
        except ValueError:
            continue
    write_whole(path, "".join(kept))


class Progress:
    """A line every ten seconds with loss, accuracy, images/s and time left; checks the loss each time it looks."""

    def __init__(self, say: Callable[[str], None], config: ConfigDict, steps_per_epoch: int, done: int):
        self._say, self._config, self._steps_per_epoch = say, config, steps_per_epoch
        self._first_step = done + 1  # the first step compiles: it is not timed
        self._started = self._last = time.perf_counter()

    def step(self, done: int, metrics: Metrics) -> None:
        if done == self._first_step:
            self._started = self._last = time.perf_counter()
        if time.perf_counter() - self._last < PROGRESS_SECONDS:
            return
        epoch, position = (done - 1) // self._steps_per_epoch + 1, (done - 1) % self._steps_per_epoch
        record = _epoch_record(epoch, metrics)  # waits for the device, once in ten seconds
        self._last = time.perf_counter()
        rate = (done - self._first_step) / (self._last - self._started)
        left = (self._config.epochs * self._steps_per_epoch - done) / rate
        self._say(
            f"epoch {epoch}/{self._config.epochs} step {position + 1}/{self._steps_per_epoch}  "
            f"loss {record['loss']:.4f}  accuracy {record['accuracy']:.2%}  "
            f"{rate * self._config.batch_size:.0f} images/s  {_clock(left)} left"
        )

    def epoch(self, record: dict[str, Any]) -> None:
        shown = "  ".join(f"{k} {v:.4f}" for k, v in record.items() if k not in ("epoch", "seconds"))
        self._say(f"epoch {record['epoch']}/{self._config.epochs}  {shown}  ({record['seconds']:.1f} s)")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
