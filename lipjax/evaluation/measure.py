"""What is measured of images: columns of numbers, batch by batch, on disk as they come."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lipjax.data import Split
from lipjax.system.files import atomic_write, naming
from lipjax.system.progress import Count

_DIGEST = hashlib.sha256().digest_size

Columns = Mapping[str, np.ndarray]  # each (N,), integers or floats


class Batch(NamedTuple):
    """Images (N, H, W, C) float32 in [0, 1] and labels (N,), the first at `start`; their radii once they are known.

    `stage` takes what is being done to them, where that takes a while.
    """

    start: int
    images: np.ndarray
    labels: np.ndarray
    radius: np.ndarray | None = None
    stage: Callable[[str], None] = lambda text: None


class Measure:
    """One number or more of each image.

    Attributes:
      name: of the file of its columns.
      done: what has been done to an image, for progress.
      columns: their names, after `index`, each 'i8' or 'f8'.
    """

    name: ClassVar[str]
    done: ClassVar[str]
    columns: ClassVar[Mapping[str, str]]

    def key(self) -> list[Any]:
        """What its numbers depend on, beside the network, the images and the batch size."""
        return []

    def batch(self, batch: Batch) -> Columns:
        """The columns of a batch."""
        raise NotImplementedError

    def summary(self, found: np.ndarray, radii: Mapping[str, float]) -> dict[str, Any]:
        """What summary.json says of all images; `found` has the columns, `radii` are named as typed."""
        raise NotImplementedError


class Rows:
    """The columns of the images done so far; every batch is on disk before the next one begins.

    NAME.partial: a line with `key`, which says what they are of, then for each batch one record an image and the
    SHA-256 of all that stands before.  Those of another key are dropped, and so is what follows a batch that was cut
    short or changed.  `batch` images make a batch; only the last one of all may have fewer.

    Attributes:
      found: a structured array, `index` first.
    """

    def __init__(self, folder: Path, measure: Measure, key: str, batch: int):
        self._folder, self._name = folder, measure.name
        self._path = folder / f"{measure.name}.partial"
        dtype = np.dtype([("index", "i8"), *measure.columns.items()])
        start, _, rest = (self._path.read_bytes() if self._path.exists() else b"").partition(b"\n")
        self._digest, records, whole = hashlib.sha256(key.encode() + b"\n"), b"", key.encode() + b"\n"
        size = dtype.itemsize * batch
        while start == key.encode() and len(rest) >= size + _DIGEST:
            digest = self._digest.copy()
            digest.update(rest[:size])
            if digest.digest() != rest[size : size + _DIGEST]:
                break
            self._digest, records, whole = digest, records + rest[:size], whole + rest[: size + _DIGEST]
            rest = rest[size + _DIGEST :]
        self.found = np.frombuffer(records, dtype)
        atomic_write(self._path, whole)

    def append(self, columns: Columns) -> None:
        """Add those of a batch."""
        size = len(next(iter(columns.values())))
        records = np.empty(size, self.found.dtype)
        records["index"] = len(self.found) + np.arange(size)
        for name, column in columns.items():
            records[name] = column
        self._digest.update(records.tobytes())
        with naming(self._path), self._path.open("ab") as file:
            file.write(records.tobytes() + self._digest.digest())
            file.flush()
            os.fsync(file.fileno())
        self.found = np.concatenate([self.found, records])

    def text(self) -> str:
        """NAME.csv; floats keep all their digits."""
        names = self.found.dtype.names or ()
        lines = [",".join(map(repr, row)) for row in self.found.tolist()]
        return "\n".join([",".join(names), *lines, ""])

    def write(self) -> None:
        """Write NAME.csv at once."""
        atomic_write(self._folder / f"{self._name}.csv", self.text())

    def remove(self) -> None:
        """Remove the partial file."""
        self._path.unlink()


def measured(
    measure: Measure,
    split: Split,
    pixel_max: int,
    folder: Path,
    network: list[Any],
    batch_size: int,
    say: Callable[[str], None],
    radius: np.ndarray | None = None,
) -> Rows:
    """The rows of all images: those on disk, and those of the batches that are missing.

    Args:
      network: what every measure depends on, to the last bit; the rows on disk must be of the same.
      say: takes a line.
      radius: (N,) certified radii, for a measure that asks for them.
    """
    of = None if radius is None else hashlib.sha256(np.ascontiguousarray(radius, "<f8").tobytes()).hexdigest()
    key = json.dumps([*network, batch_size, len(split.labels), of, *measure.key()])
    rows = Rows(folder, measure, key, batch_size)
    first, total = len(rows.found), len(split.labels)
    if first:
        say(f"{measure.done} already: {first} images; going on")
    with Count(say, measure.done, total, first) as count:
        for start in range(first, total, batch_size):
            batch = batch_at(start, split, pixel_max, batch_size, radius)._replace(stage=count.stage)
            rows.append(measure.batch(batch))
            count.add(len(batch.labels))
    return rows


def batch_at(start: int, split: Split, pixel_max: int, batch_size: int, radius: np.ndarray | None = None) -> Batch:
    """The batch whose first image is the one at `start`."""
    part = slice(start, start + batch_size)
    images = split.images[part].astype(np.float32) / np.float32(pixel_max)
    return Batch(start, images, split.labels[part], None if radius is None else radius[part])
