"""Checkpoints of the training state by orbax, with hashes that catch every changed byte."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

STILL = 0.5  # seconds without a new folder, after which the threads of a write that failed are taken to have ended
KEPT = 2  # the newest checkpoints that stay on disk beside the best, unless the config says otherwise


class CheckpointError(RuntimeError):
    """A checkpoint is missing, unreadable or not what was saved."""


def flat_leaves(tree: Any) -> dict[str, Any]:
    """{'/'-joined path: leaf} of any tree of arrays or of their shapes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def sha256(tree: Any) -> str:
    """SHA-256 over the leaves of a tree, sorted by '/'-joined path: path, dtype, shape, little-endian bytes.

    Path, dtype name and shape are hashed as UTF-8 text (shape as in str(tuple)), then the C-order bytes.
    """
    digest = hashlib.sha256()
    leaves = flat_leaves(tree)
    for path in sorted(leaves):
        array = np.asarray(leaves[path])
        digest.update(f"{path}{array.dtype.name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _sha256_of_metadata(metadata: dict[str, Any]) -> str:
    sealed = {key: value for key, value in metadata.items() if key != "metadata_sha256"}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()


class Checkpoints:
    """The checkpoints of a workdir: the newest, and the best by a score on held-out images if there are any.

    A state is a tree of arrays with attributes `step` and `params`, written as nested dicts under the paths of its
    leaves.  It is saved with the SHA-256 of its whole content and of its parameters, checked whenever it is read.

    Args:
      kept: how many of the newest stay on disk.
      config: values of the config, by key, that are kept in the metadata: what the parameters mean.
      data: a description of the data, kept there too.
    """

    def __init__(
        self,
        workdir: Path,
        kept: int = KEPT,
        config: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
    ):
        self.directory = Path(workdir).absolute() / "checkpoints"
        self.kept, self.config, self.data = kept, config, data

    def save(self, state: Any, epoch: int, score: float | None, metrics: dict[str, Any] | None = None) -> None:
        """Save the state in 'last' and, if it has the highest score so far, in 'best'.

        Args:
          epoch: epochs that are complete.
          score: on held-out images; None: not measured now.
          metrics: sums over the steps of an epoch that is not complete; None: there are none.

        Raises:
          CheckpointError: it could not be written; those that were there still are, and nothing of it is left.
        """
        metadata = {
            "epoch": epoch,
            "step": int(state.step),
            "score": score,
            "metrics": metrics,
            "config": self.config,
            "data": self.data,
            "state_sha256": sha256(state),
            "params_sha256": sha256(state.params),
        }
        metadata["metadata_sha256"] = _sha256_of_metadata(metadata)
        # 'best' first: a run killed in between resumes before this epoch and finds the same best again.
        if score is not None and score > self.best_score():
            self._save("best", 1, state, metadata)
        self._save("last", self.kept, state, metadata)

    def _save(self, kind, kept, state, metadata):
        nested = traverse_util.unflatten_dict(flat_leaves(jax.tree.map(np.asarray, state)), sep="/")
        items = ocp.args.Composite(state=ocp.args.StandardSave(nested), metadata=ocp.args.JsonSave(metadata))
        with self._whole_or_not_at_all(kind, metadata["step"]), self._manager(kind, kept) as manager:
            # A run that was killed may come by again with other numbers, on other devices; orbax keeps what it has.
            for step in manager.all_steps():
                if step >= metadata["step"]:
                    manager.delete(step)
            if not manager.save(metadata["step"], args=items):
                raise CheckpointError(f"orbax did not save step {metadata['step']} in {self.directory / kind}")

    @contextlib.contextmanager
    def _whole_or_not_at_all(self, kind: str, step: int) -> Iterator[None]:
        """While a checkpoint is written: a full disk is told in a line, and what was begun is removed."""
        folder = self.directory / kind
        # orbax's threads and callbacks would print and log their own tracebacks.
        hooks, level = (threading.excepthook, sys.unraisablehook), logging.root.manager.disable
        silent: Any = lambda arguments: None  # noqa: E731
        threading.excepthook, sys.unraisablehook = silent, silent
        logging.disable(logging.CRITICAL)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished(folder)  # of a run that was killed
            yield
        except CheckpointError:
            raise
        except Exception as error:  # orbax and tensorstore raise many types here, all of which mean the same
            self._remove_unfinished(folder, seconds=STILL)
            raise CheckpointError(
                f"checkpoint {folder / str(step)} cannot be written ({_cause(error)}); those before it are kept, and "
                "the same command goes on once it can be"
            ) from error
        finally:
            threading.excepthook, sys.unraisablehook = hooks
            logging.disable(level)

    @staticmethod
    def _remove_unfinished(folder: Path, seconds: float = 0.0) -> None:
        """Remove what was begun, until there has been nothing for so many seconds, for 60 times as long at most.

        After the first write that fails tensorstore's threads go on with the others, and make their folders anew.
        """
        gone, end = time.monotonic(), time.monotonic() + 60 * seconds
        while True:
            unfinished = list(folder.glob("*.orbax-checkpoint-tmp*"))
            for path in unfinished:
                shutil.rmtree(path, ignore_errors=True)
                gone = time.monotonic()
            if time.monotonic() >= (end if unfinished else min(gone + seconds, end)):
                return
            time.sleep(0.01)

    def best_score(self) -> float:
        """The score of the best checkpoint, −inf if there is none."""
        return self.metadata("best")["score"] if self.has("best") else -np.inf

    def has(self, kind: str) -> bool:
        """Whether there is a 'last' or a 'best' checkpoint."""
        return self._newest(kind) is not None

    def _newest(self, kind: str) -> int | None:
        if not (self.directory / kind).is_dir():
            return None
        with self._manager(kind, KEPT) as manager:
            return manager.latest_step()

    @contextlib.contextmanager
    def _manager(self, kind: str, kept: int) -> Iterator[ocp.CheckpointManager]:
        # Each process by itself: one saves, all read, and none waits in here for another.
        own = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(own, {own}, f"process{own}")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=kept,
            enable_async_checkpointing=False,
            create=False,
            multiprocessing_options=alone if jax.process_count() > 1 else ocp.options.MultiprocessingOptions(),
        )
        with _plainly_named(self.directory / kind) as folder, ocp.CheckpointManager(folder, options=options) as manager:
            yield manager

    def metadata(self, kind: str) -> dict[str, Any]:
        """epoch, step, score, metrics, config, data, state_sha256 and params_sha256 of the 'last' or 'best' checkpoint.

        Raises:
          CheckpointError: no such checkpoint, or metadata that cannot be read or was altered.
        """
        return self._at_one_step(kind, lambda step: self._metadata(kind, step))

    def _at_one_step(self, kind: str, read: Callable[[int | None], Any]) -> Any:
        """read(step) of the newest step, again where a training that goes on has replaced it meanwhile."""
        while True:
            step = self._newest(kind)
            try:
                return read(step)
            except CheckpointError:
                if self._newest(kind) == step:
                    raise

    def _metadata(self, kind: str, step: int | None) -> dict[str, Any]:
        metadata = self._read(kind, step, "metadata", ocp.args.JsonRestore())
        if not isinstance(metadata, dict) or metadata.get("metadata_sha256") != _sha256_of_metadata(metadata):
            raise CheckpointError(f"checkpoint {self.directory / kind}: its metadata was altered")
        return metadata

    def restore(self, kind: str, template: Any, partial: bool = False) -> tuple[Any, dict[str, Any]]:
        """(state, metadata) of the 'last' or 'best' checkpoint, the state with the structure of the template.

        Args:
          partial: the template is a dict of some of the state's parts, such as params and spectral; read these alone.

        Raises:
          CheckpointError: no such checkpoint, one that cannot be read, one whose content is not what was saved, or one
            of another architecture (the first leaf that differs is named).
        """
        return self._at_one_step(kind, lambda step: self._restored(kind, step, template, partial))

    def _restored(self, kind: str, step: int | None, template: Any, partial: bool) -> tuple[Any, dict[str, Any]]:
        metadata = self._metadata(kind, step)
        found = flat_leaves(self._read(kind, step, "state", ocp.args.StandardRestore()))
        where = self.directory / kind / str(step)
        if sha256(found) != metadata.get("state_sha256"):
            raise CheckpointError(f"checkpoint {where} was altered: its SHA-256 is not the recorded one")
        wanted = flat_leaves(template)
        if partial:
            found = {path: leaf for path, leaf in found.items() if path.split("/")[0] in template}
        for path in sorted({*found, *wanted}):
            there, here = _describe(found.get(path)), _describe(wanted.get(path))
            if there != here:
                raise CheckpointError(f"checkpoint {where} is of another network: {path} is {there} there, {here} here")
        return jax.tree.unflatten(jax.tree.structure(template), [found[path] for path in wanted]), metadata

    def _read(self, kind: str, step: int | None, item: str, arguments) -> Any:
        if step is None:
            raise CheckpointError(f"no {kind!r} checkpoint in {self.directory}: train first, or choose another workdir")
        where = self.directory / kind / str(step)
        try:
            with self._manager(kind, KEPT) as manager:
                value = manager.restore(step, args=ocp.args.Composite(**{item: arguments}))[item]
        except Exception as error:  # orbax, tensorstore and json raise many types here, all of which mean the same
            raise CheckpointError(f"checkpoint {where} cannot be read ({item}): {error}") from error
        if value is None:
            raise CheckpointError(f"checkpoint {where} is incomplete: it has no {item}")
        return value


@contextlib.contextmanager
def _plainly_named(folder: Path) -> Iterator[Path]:
    """The folder by a path that orbax, which looks for patterns and URLs in names, takes for that folder."""
    if re.fullmatch(r"[\w/ .,+=@-]*", str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="lipjax") as place:
        link = Path(place) / folder.name
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _cause(error: Exception) -> str:
    """What the system said, where tensorstore tells its number in a long message."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(number[1])) if number else str(error)


def _describe(leaf: Any) -> str:
    return "absent" if leaf is None else f"{leaf.dtype} {leaf.shape}"
