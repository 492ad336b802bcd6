"""The training loop: data in, checkpoints and metrics.jsonl out; a rerun of the same command resumes."""

import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import tqdm
from ml_collections import ConfigDict

from lipjax.checkpoint import Checkpoints
from lipjax.config import Run
from lipjax.data import Dataset, Description, loaded
from lipjax.data.larger import at_size
from lipjax.layers import CurvatureHead
from lipjax.models import Classifier
from lipjax.system.devices import (
    dataset_on_devices,
    in_float32,
    mesh_of,
    on_devices,
    on_host,
    placed,
    shape_on_devices,
    whole_on_each,
)
from lipjax.system.event_files import EventFiles
from lipjax.system.files import atomic_write, naming
from lipjax.system.interruption import Interrupted, Interruption
from lipjax.system.lock import FolderLock
from lipjax.system.processes import any_process, broadcast_from_first, equal_in_all, is_first
from lipjax.system.profiling import StepTrace
from lipjax.system.progress import Progress
from lipjax.training.memory import compiled_step, parameters_of, shapes_of
from lipjax.training.overview import table
from lipjax.training.recipe import (
    Metrics,
    Recipe,
    TrainState,
    epoch_order,
    initial_state,
    make_train_step,
    state_sharding,
)
from lipjax.training.resume import METRICS_FILE, as_begun, check_config, check_fresh, check_room, keep_metrics
from lipjax.training.start import check_unseen, source_of, started_from
from lipjax.training.validation import evaluate
from lipjax.workdir import LOCK_FILE, flattened, folder_of, sectioned, what_is_trained, write_config

NETWORK_FILE = "network.txt"

# With several processes, steps between agreements whether to stop or to write a checkpoint: each waits for all.
AGREE_EVERY = 16


class TrainingDiverged(RuntimeError):
    """The loss is not finite.  The last checkpoint, if there is one, is from before and stays as it was."""


@in_float32
def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    say: Callable[[str], None] | None = None,
    dataset: Dataset | None = None,
    on_record: Callable[[dict[str, Any]], None] | None = None,
) -> TrainState:
    """Train as the config says, from the last checkpoint in the workdir if there is one; returns the final state.

    Writes config.json and network.txt once, one line an epoch to metrics.jsonl, and checkpoints.  On the CPU a run that
    was stopped and resumed on as many devices ends bit-equal to an unbroken one.  With several processes
    (`processes.connect`) all must call it, with a workdir that all of them see; the first writes.

    Args:
      say: takes the lines about the run; None prints them.
      dataset: to train on, in place of the one that config.data names.
      on_record: takes each line of metrics.jsonl as a dict, once it is written, in the first process.

    Raises:
      ValueError: a bad config key, a batch that the devices cannot share, more memory than is free, or a workdir with a
        run of another config or other images, or within the folder of its images.
      OSError: the workdir cannot be written to, or has no room for the checkpoints, or another process trains there.
      CheckpointError: a damaged checkpoint.
      Interrupted: SIGTERM or SIGINT; the step was finished and is in the last checkpoint.
      TrainingDiverged: the loss is not finite; names the step.
      DataError: the data is not there and cannot be downloaded.
    """
    recipe = Recipe.of(sectioned(config))
    if dataset is not None:
        if recipe.data.image_size is not None:
            raise ValueError(
                f"config.data.image_size={recipe.data.image_size!r}: must be None with a dataset given from Python, "
                f"whose images have the shape {dataset.image_shape}"
            )
        recipe = recipe._replace(data=dataclasses.replace(recipe.data, name=dataset.name, data_dir=None))
    whole = recipe.whole()
    flattened(whole)  # raises where config.json could not hold a value
    if not equal_in_all(json.dumps({**whole, "data": {**whole["data"], "data_dir": None}}, sort_keys=True)):
        raise ValueError("config: differs between the processes; give all the same, but for config.data.data_dir")
    say = (tqdm.tqdm.write if say is None else say) if is_first() else _silent
    workdir = folder_of(workdir)
    _check_outside(workdir, recipe)
    with Interruption() as interruption:
        training = Training(recipe, workdir, say, interruption, dataset, on_record)
        workdir.mkdir(parents=True, exist_ok=True)
        with FolderLock(workdir, LOCK_FILE, "training", say) if is_first() else contextlib.nullcontext() as lock:
            return training.run(*training.start(lock))


def _check_outside(workdir: Path, recipe: Recipe) -> None:
    """ValueError where a folder of images has the workdir in it: read again, it would be a class."""
    data_dir = recipe.data.data_dir
    if recipe.data.name != "folder" or data_dir is None:
        return
    here, images = workdir.resolve(), Path(data_dir).resolve()
    inside = here.is_relative_to(images)
    if inside and not any(part.startswith(".") for part in here.relative_to(images).parts):  # hidden ones are not read
        raise ValueError(
            f"workdir={str(workdir)!r}: is in config.data.data_dir={data_dir!r}, the images; must be outside of it"
        )


class Training:
    """One run of a recipe in a workdir: what stays the same from step to step."""

    def __init__(
        self,
        recipe: Recipe,
        workdir: Path,
        say: Callable[[str], None],
        interruption: Interruption,
        dataset: Dataset | None = None,
        on_record: Callable[[dict[str, Any]], None] | None = None,
    ):
        self.recipe, self.workdir, self.say, self.interruption = recipe, workdir, say, interruption
        self.on_record = on_record
        if dataset is None:
            say(f"reading {recipe.data.name} …")
        self.dataset = as_begun(workdir, loaded(recipe.data, say) if dataset is None else dataset)
        self.data = Description.of(self.dataset, recipe.data, given=dataset is not None)
        if not equal_in_all(repr(dataclasses.replace(self.data, name=""))):
            raise ValueError("config.data: the processes have read different images; give all the same")
        self.split, held_out = self.dataset.hold_out(recipe.data.validation_fraction, recipe.run.seed)
        self.validation = at_size(self.dataset, held_out)
        self.mesh = mesh_of()
        self.steps_per_epoch = len(self.split.labels) // recipe.run.batch_size
        self.total = recipe.run.epochs * self.steps_per_epoch
        self.model = recipe.model(self.dataset.image_shape, self.dataset.num_classes)
        _check_batches(recipe.run, len(self.split.labels), self.mesh.size)
        _check_shards(recipe.run, self.model, self.mesh.size)
        self.optimizer = recipe.optimizer.transformation(self.model, self.total)
        trained = what_is_trained(recipe.whole()), dataclasses.asdict(self.data)
        self.checkpoints = Checkpoints(workdir, recipe.run.keep_checkpoints, *trained)

    def start(self, lock: FolderLock | None) -> tuple[TrainState, Metrics]:
        """The state of the last checkpoint, or a new one, on the devices; the files of the run are begun.

        They are written last: a command that is refused changes none.
        """
        run, workdir, metrics, self.lock = self.recipe.run, self.workdir, Metrics.zero(), lock
        template = jax.eval_shape(lambda: initial_state(self.model, self.optimizer, run.seed, self.recipe.loss))
        check_room(workdir, template, run.keep_checkpoints)
        there = self.checkpoints.metadata("last") if self.checkpoints.has("last") else None
        if there is None:
            check_fresh(workdir, self.recipe)
        elif is_first():
            check_config(workdir, self.recipe, -(-there["step"] // self.steps_per_epoch), self.say)
        if there is not None and there.get("data"):
            Description.from_json(there["data"]).check(self.dataset)
        self.say(f"{type(self.model).__name__}: {parameters_of(template):,} parameters")
        if there is None or there["step"] < self.total:
            self._compile(template)
        if there is not None:
            state, metadata = self.checkpoints.restore("last", template)
            if metadata.get("metrics"):
                metrics = Metrics.from_json(metadata["metrics"])
            epochs, position = divmod(int(state.step), self.steps_per_epoch)
            self.say(f"resuming {workdir} after epoch {epochs}" + (f" and {position} steps" if position else ""))
        else:
            state, epochs = initial_state(self.model, self.optimizer, run.seed, self.recipe.loss), 0
            if run.start_from is not None:
                source = source_of(run.start_from)
                check_unseen(source, self.recipe, str(self.data.training_sha256), self.say)
                state = started_from(source, self.model, state, self.optimizer, self.say)
        started = placed(state, self._places(template)), on_devices(metrics, self.mesh)
        if is_first():
            if there is None:
                atomic_write(workdir / NETWORK_FILE, table(self.model))
            keep_metrics(workdir / METRICS_FILE, epochs)
            write_config(self.recipe.whole(), workdir)
        return started

    def _places(self, state: TrainState) -> TrainState:
        return state_sharding(state, self.model, self.recipe.run, self.mesh)

    def _compile(self, template: TrainState) -> None:
        run, whole = self.recipe.run, whole_on_each(self.mesh)
        order = jax.eval_shape(lambda: epoch_order(run.seed, 1, len(self.split.labels), run.batch_size))
        state, metrics = shapes_of(template, self._places(template)), shapes_of(jax.eval_shape(Metrics.zero), whole)
        data = (shape_on_devices(array, self.mesh) for array in self.split)
        arguments = (state, metrics, *data, shapes_of(order, whole))
        step = make_train_step(self.model, self.optimizer, self.recipe, self.dataset.pixel_max, self.mesh, self.total)
        self.step = compiled_step(step, arguments, self.say, run.check_memory)

    def run(self, state: TrainState, metrics: Metrics) -> TrainState:
        """From here to the last step."""
        run, mesh, done = self.recipe.run, self.mesh, int(state.step)
        if done >= self.total:
            return state
        images, labels = (dataset_on_devices(array, mesh) for array in self.split)
        progress = Progress(self.say, run.epochs, self.steps_per_epoch, run.batch_size, done)
        order, last_saved, epochs_done = None, time.monotonic(), done // self.steps_per_epoch
        patient, curves, tracing = self.interruption.patient(), self._curves(epochs_done), self._tracing()
        with patient, curves as events, tracing as trace, progress:
            while done < self.total:
                epoch, position = done // self.steps_per_epoch + 1, done % self.steps_per_epoch
                if order is None or position == 0:
                    order = on_devices(epoch_order(run.seed, epoch, len(self.split.labels), run.batch_size), mesh)
                    started = time.monotonic()
                if position == self.steps_per_epoch // 2:
                    settled = _settled(self.model, state.params, state.spectral)
                    state = placed(state._replace(spectral=settled), self._places(state))
                with jax.transfer_guard("disallow"):
                    state, metrics = self.step(state, metrics, images, labels, order)
                done += 1
                # By the clock of this process alone, so it raises nothing: others would wait for this one.
                progress.step(done, functools.partial(_means, epoch, metrics))
                if trace:
                    trace.step(metrics)
                is_epoch_end = done % self.steps_per_epoch == 0
                is_stopping, is_due = self._agreed(done, last_saved)
                if is_epoch_end:
                    record = _epoch_record(epoch, metrics, self.checkpoints) | {"seconds": time.monotonic() - started}
                    metrics = on_devices(Metrics.zero(), mesh)
                    if self._end_epoch(state, record, done, is_due, events):
                        last_saved = time.monotonic()
                    progress.epoch(record)
                elif is_due:
                    _epoch_record(epoch, metrics, self.checkpoints)  # raises where the state is no longer finite
                    self._save(on_host(state, mesh), epoch - 1, None, metrics.to_json())
                    last_saved = time.monotonic()
                if is_stopping and done < self.total:
                    signal_name = self.interruption.requested or "a signal to another process"
                    raise Interrupted(f"{signal_name} after step {done} of {self.total}; the same command resumes")
        return state

    def _curves(self, epochs: int) -> Any:
        wanted = self.recipe.run.tensorboard and is_first()
        return EventFiles(self.workdir / "tensorboard", epochs) if wanted else contextlib.nullcontext()

    def _tracing(self) -> Any:
        wanted = self.recipe.run.profile and is_first()
        return StepTrace(self.workdir / "profile") if wanted else contextlib.nullcontext()

    def _agreed(self, done: int, last_saved: float) -> tuple[bool, bool]:
        """(whether to stop, whether a checkpoint is due), the same in all processes."""
        run, is_stopping, is_due = self.recipe.run, False, False
        if jax.process_count() == 1 or done % self.steps_per_epoch == 0 or done % AGREE_EVERY == 0:
            is_overdue = time.monotonic() - last_saved >= run.checkpoint_seconds
            is_stopping, is_due = any_process(self.interruption.requested is not None, is_overdue)
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
            if self.lock:
                self.lock.check()
            path = self.workdir / METRICS_FILE
            with naming(path), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            if self.on_record is not None:
                self.on_record(dict(record))
        if events:
            events.write(record)
        if is_due or is_last or score is not None or epoch % run.checkpoint_every == 0:
            self._save(on_host(state, self.mesh), epoch, score)
            return True
        return False

    def _save(self, *arguments: Any) -> None:
        """Written once, by the first process; the others need not wait, as none reads before it starts anew."""
        if self.lock:
            self.lock.check()
            self.checkpoints.save(*arguments)


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


@jax.jit(static_argnums=0)
def _settled(model, params, spectral):
    return model.settled({"params": params, "spectral": spectral}).get("spectral", {})


def _epoch_record(epoch: int, metrics: Metrics, checkpoints: Checkpoints) -> dict[str, Any]:
    bad_step = int(metrics.first_bad_step)
    if bad_step >= 0:
        kept = "; the last checkpoint is kept" if checkpoints.has("last") else ""
        raise TrainingDiverged(
            f"the loss at step {bad_step} (epoch {epoch}) is not finite, or the parameters after it are not{kept}. "
            "A smaller config.optimizer.learning_rate may help"
        )
    return _means(epoch, metrics)


def _means(epoch: int, metrics: Metrics) -> dict[str, Any]:
    examples = int(metrics.examples)
    return {"epoch": epoch, "loss": float(metrics.loss) / examples, "accuracy": int(metrics.correct) / examples}
