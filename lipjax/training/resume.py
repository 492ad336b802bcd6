"""What a workdir holds of earlier runs, and whether a training can go on there."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lipjax.checkpoint import CheckpointError, Checkpoints
from lipjax.data import Dataset, Description
from lipjax.system.files import atomic_write
from lipjax.training.recipe import Recipe, TrainState
from lipjax.workdir import CONFIG_FILE, METRICS_FILE, check_same, read_config


def check_config(workdir: Path, recipe: Recipe, done: int, say: Callable[[str], None]) -> None:
    """Raise ValueError unless config.json, if there is one, is of the same training, but for where and how it runs.

    The epochs may be others, as long as those that are done are among them; nothing is written.

    Args:
      done: epochs that the last checkpoint has begun.

    Raises:
      ValueError: a run of another config, each key that differs named; fewer epochs than are done.
    """
    if not (workdir / CONFIG_FILE).exists():
        return
    whole, there = recipe.whole(), read_config(workdir)
    if "sha256" in there.model:
        there.model.name = whole["model"]["name"]  # the file may lie elsewhere; its content may not change
    before, now = there.run.get("epochs", whole["run"]["epochs"]), whole["run"]["epochs"]
    there.run.epochs = now
    check_same(_filled(there), whole, workdir)
    if now < done:
        raise ValueError(f"config.run.epochs={now}: must be >= {done}, the epochs trained in workdir={str(workdir)!r}")
    if before != now:
        say(
            f"{'lengthened' if now > before else 'shortened'} from {before} to {now} epochs: from here on the schedule "
            f"is that of {now} epochs, so the result is not that of a run that was so long from its start"
        )


def as_begun(workdir: Path, dataset: Dataset) -> Dataset:
    """The dataset, in the border of zeros with which an older lipjax began the training in a workdir, where it did."""
    checkpoints = Checkpoints(workdir)
    there = checkpoints.metadata("last").get("data") if checkpoints.has("last") else None
    return Description.from_json(there).surrounded(dataset) if there else dataset


def _filled(there: ConfigDict) -> dict[str, Any]:
    """A config as it was written, by this version or an earlier one, with the values of what that one did not have."""
    try:
        return Recipe.of(there).whole()
    except ValueError:  # it differs, and `check_same` says in what
        return there.to_dict()


def check_room(workdir: Path, template: TrainState, kept: int) -> None:
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


def check_fresh(workdir: Path, recipe: Recipe) -> None:
    """Raise CheckpointError if epochs are on record for which there must have been a checkpoint, now gone.

    Where there was none yet, config.json may be of another run, of which nothing was trained that is to be kept.
    """
    path = workdir / METRICS_FILE
    lines = len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0
    with contextlib.suppress(FileNotFoundError, ValueError):
        recipe = Recipe.of(read_config(workdir))  # that by which the epochs were recorded
    held_out, run = recipe.data.validation_fraction, recipe.run
    first_checkpoint = min(run.checkpoint_every, run.eval_every if held_out else math.inf)
    if lines > first_checkpoint:
        raise CheckpointError(
            f"workdir={str(workdir)!r} records {lines} epochs but has no 'last' checkpoint: bring it back, or remove "
            f"{METRICS_FILE} and checkpoints/ to start anew"
        )


def keep_metrics(path: Path, epochs: int) -> None:
    """Drop lines of epochs after the checkpoint, which will be trained again, and a last line cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):  # no record of an epoch
            if json.loads(line)["epoch"] <= epochs:
                kept.append(line + "\n")
    atomic_write(path, "".join(kept))
