"""The training loop: data in, checkpoints and metrics.jsonl out; a rerun of the same command resumes."""

import contextlib
import functools
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lipjax.checkpoint import CheckpointError, Checkpoints
from lipjax.config import build_model, check_config, parse_radii, write_config
from lipjax.data import Dataset, Split, load
from lipjax.models import Classifier
from lipjax.models.proven import certified_accuracy, over_bound, penultimate_features
from lipjax.system.devices import dataset_on_devices, mesh_of, on_devices, on_host, placed
from lipjax.system.event_files import EventFiles
from lipjax.system.files import atomic_write
from lipjax.system.interruption import Interrupted, Interruption
from lipjax.system.processes import any_process, broadcast_from_first, equal_in_all, is_first
from lipjax.system.profiling import StepTrace
from lipjax.system.progress import Console, Progress
from lipjax.training.overview import overview, table
from lipjax.training.recipe import (
    Metrics,
    TrainState,
    epoch_order,
    initial_state,
    make_optimizer,
    make_train_step,
    make_train_steps,
    state_sharding,
)

METRICS_FILE = "metrics.jsonl"
NETWORK_FILE = "network.txt"

# With several processes, dispatches between agreements whether to stop or to write a checkpoint: each waits for all.
AGREE_EVERY = 16


class TrainingDiverged(RuntimeError):
    """The loss is not finite.  The last checkpoint is from before and stays as it was."""


def train(config: ConfigDict, workdir: Path, say: Callable[[str], None] | None = None) -> TrainState:
    """Train as the config says, from the last checkpoint in the workdir if there is one; returns the final state.

    Writes config.json and network.txt once, one line an epoch to metrics.jsonl, and checkpoints.  On the CPU a run that
    was stopped and resumed on as many devices ends bit-equal to an unbroken one.  With several processes
    (`processes.connect`) all must call it, with a workdir that all of them see; the first writes.

    Args:
      say: takes the lines about the run; None: a `Console`.

    Raises:
      ValueError: a bad config key, a batch that the devices cannot share, or a workdir with a run of another config.
      OSError: the workdir cannot be written to, or has no room for the checkpoints.
      CheckpointError: a damaged checkpoint.
      Interrupted: SIGTERM or SIGINT; the step was finished and is in the last checkpoint.
      TrainingDiverged: the loss is not finite; names the step.
      DataError: the data is not there and cannot be downloaded.
    """
    check_config(config)
    if not equal_in_all(json.dumps({**config.to_dict(), "data_dir": None}, sort_keys=True)):
        raise ValueError("config: differs between the processes; give all the same command, but for config.data_dir")
    say = (Console() if say is None else say) if is_first() else _silent
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
    if config.shard_head and config.head == "crc" and config.hidden % mesh.size:
        raise ValueError(
            f"config.hidden={config.hidden}: must be a multiple of the {mesh.size} devices with config.shard_head=True"
        )
    model = build_model(config, dataset.image_shape, dataset.num_classes)
    optimizer = make_optimizer(config, steps_per_epoch, model)
    template = jax.eval_shape(lambda: initial_state(model, optimizer, config.seed))
    workdir.mkdir(parents=True, exist_ok=True)
    _check_room(workdir, template, config.keep_checkpoints)
    if is_first():
        write_config(config, workdir)

    checkpoints = Checkpoints(workdir, config.keep_checkpoints)
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
        if is_first():
            atomic_write(workdir / NETWORK_FILE, table(model))
            say(overview(model, {"params": state.params, "spectral": state.spectral}))
    if is_first():
        _keep_metrics(workdir / METRICS_FILE, epochs)
    done = int(state.step)
    state = placed(state, state_sharding(template, config, mesh))
    metrics = on_devices(metrics, mesh)
    images, labels = (dataset_on_devices(array, mesh) for array in training)

    is_single = config.steps_per_dispatch == 1
    step = (make_train_step if is_single else make_train_steps)(model, optimizer, config, dataset.pixel_max, mesh)
    total, order, last_saved, dispatches = config.epochs * steps_per_epoch, None, time.monotonic(), 0
    on_device_count = functools.cache(lambda count: on_devices(np.int32(count), mesh))  # there are few
    progress = Progress(say, config, steps_per_epoch)
    nothing: Any = contextlib.nullcontext()
    curves = EventFiles(workdir / "tensorboard", epochs) if config.tensorboard and is_first() else nothing
    tracing = StepTrace(workdir / "profile") if config.profile and is_first() else nothing
    with Interruption() as interruption, curves as events, tracing as trace:
        while done < total:
            epoch, position = done // steps_per_epoch + 1, done % steps_per_epoch
            if order is None or position == 0:
                order = on_devices(epoch_order(config.seed, epoch, len(training.labels), config.batch_size), mesh)
                started = time.monotonic()
            if position == steps_per_epoch // 2:
                state = state._replace(spectral=_settled(model, state.params, state.spectral))
            count = _steps_at_once(config, done, steps_per_epoch)
            amount = [] if is_single else [on_device_count(count)]
            with jax.transfer_guard("disallow"):
                state, metrics = step(state, metrics, images, labels, order, *amount)
            done, dispatches = done + count, dispatches + 1
            # By the clock of this process alone, so it raises nothing: others would wait for this one.
            progress.step(done, functools.partial(_means, epoch, metrics))
            if trace:
                trace.step(metrics)

            is_epoch_end = done % steps_per_epoch == 0
            is_stopping = is_due = False  # until the processes agree
            if jax.process_count() == 1 or is_epoch_end or dispatches % AGREE_EVERY == 0:
                is_overdue = time.monotonic() - last_saved >= config.checkpoint_seconds
                is_stopping, is_due = any_process(interruption.requested is not None, is_overdue)
            is_due |= is_stopping or bool(config.checkpoint_steps and done % config.checkpoint_steps == 0)
            if is_epoch_end:
                record = _epoch_record(epoch, metrics) | {"seconds": time.monotonic() - started}
                metrics, score = on_devices(Metrics.zero(), mesh), None
                if len(validation.labels) and (done == total or epoch % config.eval_every == 0):
                    record |= evaluate(model, on_host(state, mesh), validation, dataset, config)
                    score = broadcast_from_first(
                        next(v for key, v in record.items() if key.startswith("validation_certified"))
                    )
                if is_first():
                    # The record first: a run killed in between resumes before this epoch and drops the record.
                    with (workdir / METRICS_FILE).open("a") as file:
                        file.write(json.dumps(record) + "\n")
                if events:
                    events.write(record)
                if is_due or done == total or score is not None or epoch % config.checkpoint_every == 0:
                    _save(checkpoints, on_host(state, mesh), epoch, score)
                    last_saved = time.monotonic()
                progress.epoch(record)
            elif is_due:
                _epoch_record(epoch, metrics)  # raises where the state is no longer finite
                _save(checkpoints, on_host(state, mesh), epoch - 1, None, metrics.to_json())
                last_saved = time.monotonic()
            if is_stopping and done < total:
                signal_name = interruption.requested or "a signal to another process"
                raise Interrupted(f"{signal_name} after step {done} of {total}; the same command resumes")
    return state


def _silent(line: str) -> None:
    del line


def _save(checkpoints: Checkpoints, *arguments: Any) -> None:
    """Written once, by the first process; the others need not wait, as none reads before it starts anew."""
    if is_first():
        checkpoints.save(*arguments)


def _steps_at_once(config: ConfigDict, done: int, steps_per_epoch: int) -> int:
    """Steps of the next dispatch: none beyond the middle or end of the epoch, or the next checkpoint by steps."""
    position, half = done % steps_per_epoch, steps_per_epoch // 2
    count = min(config.steps_per_dispatch, (half if position < half else steps_per_epoch) - position)
    return min(count, config.checkpoint_steps - done % config.checkpoint_steps) if config.checkpoint_steps else count


def evaluate(
    model: Classifier, state: TrainState, split: Split, dataset: Dataset, config: ConfigDict
) -> dict[str, Any]:
    """Accuracy and certified accuracy on held-out images.

    An estimate, used to choose a checkpoint and for nothing else: the convolutions are taken as 1-Lipschitz, which
    their proven bounds, computed by certify.py, may miss by a little.
    """
    variables = {"params": state.params, "spectral": state.spectral}
    images = split.images.astype(np.float32) / np.float32(dataset.pixel_max)
    features = penultimate_features(model, variables, images)
    certifier = model.parts()[1].certifier({"params": variables["params"]["head"]})
    certificate = over_bound(certifier(features, split.labels), model.nominal_bound())
    record = {"validation_accuracy": float(np.mean(certificate.prediction == split.labels))}
    for text, radius in parse_radii(config.radii).items():
        record[f"validation_certified_estimate_{text}"] = certified_accuracy(certificate, radius)
    return record


@jax.jit(static_argnums=0)
def _settled(model, params, spectral):
    return model.settled({"params": params, "spectral": spectral}).get("spectral", {})


def _epoch_record(epoch: int, metrics: Metrics) -> dict[str, Any]:
    bad_step = int(metrics.first_bad_step)
    if bad_step >= 0:
        raise TrainingDiverged(
            f"the loss at step {bad_step} (epoch {epoch}) is not finite, or the parameters after it are not; "
            "the last checkpoint is kept. A smaller config.learning_rate may help"
        )
    return _means(epoch, metrics)


def _means(epoch: int, metrics: Metrics) -> dict[str, Any]:
    examples = int(metrics.examples)
    return {
        "epoch": epoch,
        "loss": float(metrics.loss) / examples,
        "accuracy": int(metrics.correct) / examples,
    }


def _check_room(workdir: Path, template: TrainState, kept: int) -> None:
    """Raise OSError unless the workdir can be written to and has room for the checkpoints that are kept, the best and
    the one being written.
    """
    if not os.access(workdir, os.W_OK | os.X_OK):
        raise OSError(f"workdir={str(workdir)!r}: no permission to write there")
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(template))
    there = sum(path.stat().st_size for path in (workdir / "checkpoints").rglob("*") if path.is_file())
    needed = max((kept + 2) * state - there, state)
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
    atomic_write(path, "".join(kept))
