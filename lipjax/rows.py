"""Rows of results, on disk batch by batch, so that a certification that was killed goes on where it was."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_type_hints


class PartialRows:
    """Rows of the images done so far; every batch is on disk before the next one begins.

    The first line of the file is `key`, which says what the rows are of.  Rows of another key, and the rows of a batch
    that was cut short, are dropped.  `batch` images make a batch; only the last one of all may have fewer.

    Args:
      row: the NamedTuple of a row, of ints and floats, `index` the first: 0, 1, 2, ….  Floats keep all their digits.

    Attributes:
      rows: those that are there.
    """

    def __init__(self, path: Path, key: str, batch: int, row: type):
        self._path, self._row = path, row
        lines = path.read_text().split("\n") if path.exists() else []
        # The text after the last newline is empty, or a row cut short.
        complete = lines[1:-1] if lines and lines[0] == key else []
        self.rows = _parsed(complete, row)
        del self.rows[len(self.rows) // batch * batch :]
        write_whole(path, key + "\n" + _text(self.rows))

    def append(self, rows: Iterable[Any]) -> None:
        """Add a batch of rows."""
        rows = list(rows)
        with self._path.open("a", newline="") as file:
            file.write(_text(rows))
        self.rows += rows

    def finish(self, path: Path) -> None:
        """Write all rows to `path` under a line with their names, at once, and remove the partial file."""
        write_whole(path, ",".join(self._row._fields) + "\n" + _text(self.rows))
        self._path.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, newline="")
    temporary.replace(path)


def _parsed(lines: list[str], row: Any) -> list[Any]:
    """Rows up to the first line that is not the row it should be."""
    types = get_type_hints(row).values()
    rows: list[Any] = []
    for fields in csv.reader(lines):
        try:
            rows.append(row(*(number(field) for number, field in zip(types, fields, strict=True))))
        except ValueError:
            break
        if rows[-1].index != len(rows) - 1:
            del rows[-1]
            break
    return rows


def _text(rows: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(map(repr, row) for row in rows)
    return buffer.getvalue()
