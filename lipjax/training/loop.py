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
import tqdm
from ml_collections import ConfigDict

from lipjax.certificates.certificate import over_bound
from lipjax.checkpoint import CheckpointError, Checkpoints
from lipjax.config import Run, parse_radii
from lipjax.data import Split, load
from lipjax.layers import CurvatureHead
from lipjax.models import Classifier
from lipjax.models.program import penultimate_features
from lipjax.models.proven import certified_accuracy
from lipjax.system.devices import dataset_on_devices, mesh_of, on_devices, on_host, placed
from lipjax.system.event_files import EventFiles
from lipjax.system.files import atomic_write
from lipjax.system.interruption import Interrupted, Interruption
from lipjax.system.processes import any_process, broadcast_from_first, equal_in_all, is_first
from lipjax.system.profiling import StepTrace
from lipjax.system.progress import Progress
from lipjax.training.overview import overview, table
from lipjax.training.recipe import (
    Metrics,
    Recipe,
    TrainState,
    epoch_order,
    initial_state,
    make_train_step,
    state_sharding,
)
from lipjax.workdir import CONFIG_FILE, check_same, read_config, sectioned, what_is_trained, write_config

METRICS_FILE = "metrics.jsonl"
NETWORK_FILE = "network.txt"

# With several processes, steps between agreements whether to stop or to write a checkpoint: each waits for all.
AGREE_EVERY = 16


class TrainingDiverged(RuntimeError):
    """The loss is not finite.  The last checkpoint is from before and stays as it was."""


def train(config: ConfigDict, workdir: Path, say: Callable[[str], None] | None = None) -> TrainState:
    """Train as the config says, from the last checkpoint in the workdir if there is one; returns the final state.

    Writes config.json and network.txt once, one line an epoch to metrics.jsonl, and checkpoints.  On the CPU a run that
    was stopped and resumed on as many devices ends bit-equal to an unbroken one.  With several processes
    (`processes.connect`) all must call it, with a workdir that all of them see; the first writes.

    Args:
      say: takes the lines about the run; None prints them.

    Raises:
      ValueError: a bad config key, a batch that the devices cannot share, or a workdir with a run of another config.
      OSError: the workdir cannot be written to, or has no room for the checkpoints.
      CheckpointError: a damaged checkpoint.
      Interrupted: SIGTERM or SIGINT; the step was finished and is in the last checkpoint.
      TrainingDiverged: the loss is not finite; names the step.
      DataError: the data is not there and cannot be downloaded.
    """
    recipe = Recipe.of(sectioned(config))
    whole = recipe.whole()
    if not equal_in_all(json.dumps({**whole, "data": {**whole["data"], "data_dir": None}}, sort_keys=True)):
        raise ValueError("config: differs between the processes; give all the same, but for config.data.data_dir")
    training = Training(recipe, workdir, (tqdm.tqdm.write if say is None else say) if is_first() else _silent)
    return training.run(*training.start())


class Training:
    """One run of a recipe in a workdir: what stays the same from step to step."""

    def __init__(self, recipe: Recipe, workdir: Path, say: Callable[[str], None]):
        self.recipe, self.workdir, self.say = recipe, workdir, say
        self.dataset = load(recipe.data.name, recipe.data.data_dir)
        self.split, self.validation = self.dataset.hold_out(recipe.data.validation_fraction, recipe.run.seed)
        self.mesh = mesh_of()
        self.steps_per_epoch = len(self.split.labels) // recipe.run.batch_size
        self.total = recipe.run.epochs * self.steps_per_epoch
        self.model = recipe.model(self.dataset.image_shape, self.dataset.num_classes)
        _check_batches(recipe.run, len(self.split.labels), self.mesh.size)
        _check_shards(recipe.run, self.model, self.mesh.size)
        self.optimizer = recipe.optimizer.transformation(self.model, self.total)
        self.checkpoints = Checkpoints(workdir, recipe.run.keep_checkpoints, what_is_trained(recipe.whole()))

    def start(self) -> tuple[TrainState, Metrics]:
        """The state of the last checkpoint, or a new one, on the devices; the files of the run are begun."""
        run, workdir, metrics = self.recipe.run, self.workdir, Metrics.zero()
        template = jax.eval_shape(lambda: initial_state(self.model, self.optimizer, run.seed))
        workdir.mkdir(parents=True, exist_ok=True)
        _check_room(workdir, template, run.keep_checkpoints)
        if is_first():
            self._write_config()
        if self.checkpoints.has("last"):
            state, metadata = self.checkpoints.restore("last", template)
            if metadata.get("metrics"):
                metrics = Metrics.from_json(metadata["metrics"])
            epochs, position = divmod(int(state.step), self.steps_per_epoch)
            self.say(f"resuming {workdir} after epoch {epochs}" + (f" and {position} steps" if position else ""))
        else:
            _check_fresh(workdir, self.recipe)
            state, epochs = initial_state(self.model, self.optimizer, run.seed), 0
            if is_first():
                atomic_write(workdir / NETWORK_FILE, table(self.model))
                self.say(overview(self.model, {"params": state.params, "spectral": state.spectral}))
        if is_first():
            _keep_metrics(workdir / METRICS_FILE, epochs)
        sharding = state_sharding(template, self.model, run, self.mesh)
        return placed(state, sharding), on_devices(metrics, self.mesh)

    def _write_config(self) -> None:
        """On the first run; later ones must have the same config, but for where and how they run."""
        whole = self.recipe.whole()
        if not (self.workdir / CONFIG_FILE).exists():
            write_config(whole, self.workdir)
            return
        there = read_config(self.workdir)
        if "sha256" in there.model:
            there.model.name = whole["model"]["name"]  # the file may lie elsewhere; its content may not change
        check_same(_filled(there), whole, self.workdir)

    def run(self, state: TrainState, metrics: Metrics) -> TrainState:
        """From here to the last step."""
        run, mesh, done = self.recipe.run, self.mesh, int(state.step)
        images, labels = (dataset_on_devices(array, mesh) for array in self.split)
        step = make_train_step(self.model, self.optimizer, self.recipe, self.dataset.pixel_max, mesh)
        progress = Progress(self.say, run.epochs, self.steps_per_epoch, run.batch_size, done)
        order, last_saved, epochs_done = None, time.monotonic(), done // self.steps_per_epoch
        with Interruption() as interruption, self._curves(epochs_done) as events, self._tracing() as trace, progress:
            while done < self.total:
                epoch, position = done // self.steps_per_epoch + 1, done % self.steps_per_epoch
                if order is None or position == 0:
                    order = on_devices(epoch_order(run.seed, epoch, len(self.split.labels), run.batch_size), mesh)
                    started = time.monotonic()
                if position == self.steps_per_epoch // 2:
                    state = state._replace(spectral=_settled(self.model, state.params, state.spectral))
                with jax.transfer_guard("disallow"):
                    state, metrics = step(state, metrics, images, labels, order)
                done += 1
                # By the clock of this process alone, so it raises nothing: others would wait for this one.
                progress.step(done, functools.partial(_means, epoch, metrics))
                if trace:
                    trace.step(metrics)
                is_epoch_end = done % self.steps_per_epoch == 0
                is_stopping, is_due = self._agreed(done, interruption, last_saved)
                if is_epoch_end:
                    record = _epoch_record(epoch, metrics) | {"seconds": time.monotonic() - started}
                    metrics = on_devices(Metrics.zero(), mesh)
                    if self._end_epoch(state, record, done, is_due, events):
                        last_saved = time.monotonic()
                    progress.epoch(record)
                elif is_due:
                    _epoch_record(epoch, metrics)  # raises where the state is no longer finite
                    _save(self.checkpoints, on_host(state, mesh), epoch - 1, None, metrics.to_json())
                    last_saved = time.monotonic()
                if is_stopping and done < self.total:
                    signal_name = interruption.requested or "a signal to another process"
                    raise Interrupted(f"{signal_name} after step {done} of {self.total}; the same command resumes")
        return state

    def _curves(self, epochs: int) -> Any:
        wanted = self.recipe.run.tensorboard and is_first()
        return EventFiles(self.workdir / "tensorboard", epochs) if wanted else contextlib.nullcontext()

    def _tracing(self) -> Any:
        wanted = self.recipe.run.profile and is_first()
        return StepTrace(self.workdir / "profile") if wanted else contextlib.nullcontext()

    def _agreed(self, done: int, interruption: Interruption, last_saved: float) -> tuple[bool, bool]:
        """(whether to stop, whether a checkpoint is due), the same in all processes."""
        run, is_stopping, is_due = self.recipe.run, False, False
        if jax.process_count() == 1 or done % self.steps_per_epoch == 0 or done % AGREE_EVERY == 0:
            is_overdue = time.monotonic() - last_saved >= run.checkpoint_seconds
            is_stopping, is_due = any_process(interruption.requested is not None, is_overdue)
        is_due |= is_stopping or bool(run.checkpoint_steps and done % run.checkpoint_steps == 0)
        return is_stopping, is_due

    def _end_epoch(self, state: TrainState, record: dict[str, Any], done: int, is_due: bool, events: Any) -> bool:
        """The record, with what held-out images say, to the files; whether a checkpoint was written."""
        run, epoch, score, is_last = self.recipe.run, record["epoch"], None, done == self.total
        if len(self.validation.labels) and (is_last or epoch % run.eval_every == 0):
            record |= evaluate(
                self.model, on_host(state, self.mesh), self.validation, self.dataset.pixel_max, run.radii
            )
            score = broadcast_from_first(next(v for key, v in record.items() if key.startswith("validation_certified")))
        if is_first():
            # The record first: a run killed in between resumes before this epoch and drops the record.
            with (self.workdir / METRICS_FILE).open("a") as file:
                file.write(json.dumps(record) + "\n")
        if events:
            events.write(record)
        if is_due or is_last or score is not None or epoch % run.checkpoint_every == 0:
            _save(self.checkpoints, on_host(state, self.mesh), epoch, score)
            return True
        return False


def _filled(there: ConfigDict) -> dict[str, Any]:
    """A config as it was written, by this version or an earlier one, with the values of what that one did not have."""
    try:
        return Recipe.of(there).whole()
    except ValueError:  # it differs, and `check_same` says in what
        return there.to_dict()


def _check_batches(run: Run, images: int, devices: int) -> None:
    if run.batch_size > images:
        raise ValueError(f"config.run.batch_size={run.batch_size}: must be at most {images}, the training images")
    if run.batch_size % devices:
        raise ValueError(f"config.run.batch_size={run.batch_size}: must be a multiple of the {devices} devices")


def _check_shards(run: Run, model: Classifier, devices: int) -> None:
    head = model.parts()[1]
    if run.shard_head and isinstance(head, CurvatureHead) and head.hidden % devices:
        raise ValueError(
            f"config.model.hidden={head.hidden}: must be a multiple of the {devices} devices with "
            "config.run.shard_head=True"
        )


def _silent(line: str) -> None:
    del line


def _save(checkpoints: Checkpoints, *arguments: Any) -> None:
    """Written once, by the first process; the others need not wait, as none reads before it starts anew."""
    if is_first():
        checkpoints.save(*arguments)


def evaluate(model: Classifier, state: TrainState, split: Split, pixel_max: int, radii: Any) -> dict[str, Any]:
    """Accuracy and certified accuracy on held-out images.

    An estimate, used to choose a checkpoint and for nothing else: the convolutions are taken as 1-Lipschitz, which
    their proven bounds, computed by certify.py, may miss by a little.
    """
    variables = {"params": state.params, "spectral": state.spectral}
    images = split.images.astype(np.float32) / np.float32(pixel_max)
    features = penultimate_features(model, variables, images)
    certifier = model.parts()[1].certifier({"params": variables["params"]["head"]})
    certificate = over_bound(certifier(features, split.labels), model.nominal_bound())
    record = {"validation_accuracy": float(np.mean(certificate.prediction == split.labels))}
    for text, radius in parse_radii(radii).items():
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
            "the last checkpoint is kept. A smaller config.optimizer.learning_rate may help"
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


def _check_fresh(workdir: Path, recipe: Recipe) -> None:
    """Raise CheckpointError if epochs are on record for which there must have been a checkpoint, now gone."""
    path = workdir / METRICS_FILE
    lines = len(path.read_text().splitlines()) if path.exists() else 0
    held_out, run = recipe.data.validation_fraction, recipe.run
    first_checkpoint = min(run.checkpoint_every, run.eval_every if held_out else math.inf)
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
