"""Rows of results, on disk batch by batch, so that a certification that was killed goes on where it was."""

import csv
import dataclasses
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_type_hints

from lipjax.system.files import atomic_write


class PartialRows:
    """Rows of the images done so far; every batch is on disk before the next one begins.

    The first line of the file is `key`, which says what the rows are of.  Rows of another key, and the rows of a batch
    that was cut short, are dropped.  `batch` images make a batch; only the last one of all may have fewer.

    Args:
      row: the dataclass of a row, of ints and floats, `index` the first: 0, 1, 2, ….  Floats keep all their digits.

    Attributes:
      rows: those that are there.
    """

    def __init__(self, path: Path, key: str, batch: int, row: type):
        self._path, self._row = path, row
        lines = path.read_text(errors="replace").split("\n") if path.exists() else []
        # The text after the last newline is empty, or a row cut short.
        complete = lines[1:-1] if lines and lines[0] == key else []
        self.rows = _parsed(complete, row)
        del self.rows[len(self.rows) // batch * batch :]
        atomic_write(path, key + "\n" + _text(self.rows))

    def append(self, rows: Iterable[Any]) -> None:
        """Add a batch of rows."""
        rows = list(rows)
        with self._path.open("a", newline="") as file:
            file.write(_text(rows))
            file.flush()
            os.fsync(file.fileno())
        self.rows += rows

    def write(self, path: Path) -> None:
        """Write all rows to `path` under a line with their names, at once."""
        atomic_write(path, ",".join(field.name for field in dataclasses.fields(self._row)) + "\n" + _text(self.rows))

    def remove(self) -> None:
        """Remove the partial file."""
        self._path.unlink()


def _parsed(lines: list[str], row: Any) -> list[Any]:
    """Rows up to the first line that is not the row it should be."""
    types = get_type_hints(row).values()
    rows: list[Any] = []
    for line in lines:
        try:
            (fields,) = csv.reader([line])
            rows.append(row(*(number(field) for number, field in zip(types, fields, strict=True))))
        except (ValueError, csv.Error):
            break
        if rows[-1].index != len(rows) - 1:
            del rows[-1]
            break
    return rows


def _text(rows: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(map(repr, dataclasses.astuple(row)) for row in rows)
    return buffer.getvalue()
