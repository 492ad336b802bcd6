"""Curvature bounds of one head, tight where asked for, kept in a file if there is one."""

import contextlib
import functools
import hashlib
import logging
import os
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import threadpoolctl
import tqdm

from lipjax.ops.curvature import cheap_of_parts, checked_pairs, checked_weights, pair_bound, part_bound
from lipjax.system.versions import program

_SAVE_SECONDS = 10.0
_TIGHT_AT_ONCE = 2e11  # multiplications; all pairs of 10 classes × 512 × 512 are 1.2e10, of 100 × 4096 × 2048 1.7e14


class CurvatureCache:
    """The proven bounds m(l, i) of a head (`ops.curvature_bound`), computed when first needed.

    `bounds()` is tight for every pair if that costs a few seconds at most, otherwise cheap; `tight(pairs)` is for the
    pairs of a refinement.  With a path, what has been computed is kept in that .npz under a SHA-256 of weights,
    values and this program, every few seconds and when it is interrupted: computed again it goes on from there, to the
    same bytes.  A file that is damaged or of other weights or another program is ignored and replaced.  The digest
    guards against accidents, not against a forger: keep the file where the checkpoint is.

    Args:
      path: a .npz file beside the checkpoint, or None.
      w1, w2: (H, D) and (K, H).

    Raises:
      ValueError: weights of the wrong shape or dtype or not finite.
    """

    def __init__(self, path: str | os.PathLike | None, w1, w2):
        self._path = None if path is None else Path(path)
        self._w1, self._w2 = checked_weights(w1, w2)
        self._head = hashlib.sha256(f"{program()} {self._w1.shape} {self._w2.shape}".encode())
        for weights in (self._w1, self._w2):
            self._head.update(np.ascontiguousarray(weights, dtype="<f8").tobytes())
        side = len(self._w2)
        self._cheap: np.ndarray | None = None
        self._parts = np.full(2 * side + 1, np.nan)
        self._tight = np.where(np.eye(side, dtype=bool), 0.0, np.nan)
        self._load()

    def is_of(self, w1: np.ndarray, w2: np.ndarray) -> bool:
        """Whether the bounds are those of the head with these weights, in float64."""
        return np.array_equal(self._w1, w1) and np.array_equal(self._w2, w2)

    def bounds(self) -> np.ndarray:
        """(K, K) float64, a bound of m(l, i) at [l, i]; diagonal 0.

        It does not depend on what was asked before: certificates are the same in whatever order images come.
        """
        rows, columns = self._w1.shape
        everything = len(self._w2) * (len(self._w2) - 1) * rows * columns * min(rows, columns)
        if np.isnan(self._tight).any() and everything <= _TIGHT_AT_ONCE:
            self.tight(np.argwhere(np.isnan(self._tight)))
        if everything <= _TIGHT_AT_ONCE:
            return self._tight.copy()
        if self._cheap is None:
            missing, centred = np.argwhere(np.isnan(self._parts)), self._w2 - self._w2.mean(axis=0)
            self._fill(self._parts, missing, functools.partial(part_bound, self._w1, centred), "curvature, all pairs")
            self._cheap = cheap_of_parts(self._w2, self._parts)
            self._save()
        return self._cheap.copy()

    def tight(self, pairs) -> np.ndarray:
        """(P,) tight bounds of the pairs (P, 2); computes, and saves, those that are not known yet."""
        labels, rivals = checked_pairs(pairs, len(self._w2)).T
        asked = np.zeros_like(self._tight, dtype=bool)
        asked[labels, rivals] = True
        missing = np.argwhere(asked & np.isnan(self._tight))
        if len(missing):
            self._fill(self._tight, missing, functools.partial(pair_bound, self._w1, self._w2), "curvature, tight")
        return self._tight[labels, rivals]

    def _fill(self, values: np.ndarray, missing: np.ndarray, bound: Callable[..., float], what: str) -> None:
        """values[i] = bound(*i) for all `missing` indices i (P, dimensions), saved as they come.

        One thread each: BLAS's own stall on a busy machine, and would change the last bits with their number.
        """
        keys, saved = [tuple(key) for key in missing.tolist()], time.monotonic()
        bar = tqdm.tqdm(total=len(keys), desc=what, unit=" bounds", disable=None, leave=False, delay=2)
        limits = threadpoolctl.threadpool_limits(1, user_api="blas")
        with limits, ThreadPoolExecutor(os.cpu_count()) as pool, bar:
            try:
                for key, value in zip(keys, pool.map(lambda key: bound(*key), keys), strict=True):
                    values[key] = value
                    bar.update()
                    if time.monotonic() - saved > _SAVE_SECONDS:
                        self._save()
                        saved = time.monotonic()
            finally:
                pool.shutdown(cancel_futures=True)
                self._save()

    def _digest(self, *values: np.ndarray) -> str:
        digest = self._head.copy()
        for array in values:
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()

    def _load(self) -> None:
        if self._path is None:
            return
        # Whatever is wrong with the file, its values can be computed again.
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with np.load(self._path, allow_pickle=False) as file:
                cheap, parts, tight, digest = file["cheap"], file["parts"], file["tight"], str(file["sha256"])
            fits = (parts.shape, tight.shape) == (self._parts.shape, self._tight.shape)
            if fits and cheap.shape in (tight.shape, (0, 0)) and digest == self._digest(cheap, parts, tight):
                self._cheap, self._parts, self._tight = (cheap if cheap.size else None), parts, tight

    def _save(self) -> None:
        """Where it cannot be written, that is told once: the bounds are known all the same."""
        if self._path is None:
            return
        try:
            self._write(self._path)
        except OSError as error:
            text = "%s cannot be written (%s): curvature bounds will be computed again"
            logging.getLogger("lipjax").warning(text, self._path, error.strerror or error)
            self._path = None

    def _write(self, path: Path) -> None:
        cheap = np.zeros((0, 0)) if self._cheap is None else self._cheap
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside its place and then moved: a reader sees the old file or the new one.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                digest = self._digest(cheap, self._parts, self._tight)
                np.savez(file, cheap=cheap, parts=self._parts, tight=self._tight, sha256=digest)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
