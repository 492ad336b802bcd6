"""Rows of certified images, on disk batch by batch, so that a certification that was killed goes on where it was."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

COLUMNS = ("index", "label", "prediction", "rival", "radius", "exact")


class Row(NamedTuple):
    """One image, as in per_image.csv; the radius with all its digits."""

    index: int
    label: int
    prediction: int
    rival: int
    radius: float
    exact: int


class PartialRows:
    """Rows of the images certified so far; every batch is on disk before the next one begins.

    The first line of the file is `key`, which says what the rows are of.  Rows of another key, and the rows of a batch
    that was cut short, are dropped.  `batch` images make a batch; only the last one of all may have fewer.

    Attributes:
      rows: those that are there.
    """

    def __init__(self, path: Path, key: str, batch: int):
        self._path = path
        lines = path.read_text().split("\n") if path.exists() else []
        # The text after the last newline is empty, or a row cut short.
        complete = lines[1:-1] if lines and lines[0] == key else []
        self.rows = _parsed(complete)
        del self.rows[len(self.rows) // batch * batch :]
        write_whole(path, key + "\n" + _text(self.rows))

    def append(self, rows: Iterable[Row]) -> None:
        """Add a batch of rows."""
        rows = list(rows)
        with self._path.open("a", newline="") as file:
            file.write(_text(rows))
        self.rows += rows

    def finish(self, path: Path) -> None:
        """Write all rows to `path` under a line with their names, at once, and remove the partial file."""
        write_whole(path, ",".join(COLUMNS) + "\n" + _text(self.rows))
        self._path.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, newline="")
    temporary.replace(path)


def _parsed(lines: list[str]) -> list[Row]:
    """Rows up to the first line that is not the row it should be."""
    rows: list[Row] = []
    for fields in csv.reader(lines):
        try:
            index, label, prediction, rival, radius, exact = fields
            row = Row(int(index), int(label), int(prediction), int(rival), float(radius), int(exact))
        except ValueError:
            break
        if row.index != len(rows):
            break
        rows.append(row)
    return rows


def _text(rows: list[Row]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([*row[:4], repr(row.radius), row.exact] for row in rows)
    return buffer.getvalue()
