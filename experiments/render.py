"""Markdown tables of finished cells."""

from pathlib import Path

from experiments import accuracy_table, gradient_table, held_out_table, time_table
from experiments.results import read
from experiments.tables import TABLES, all_seeds, cells, scale_text


def render(table: str, scale: str, results: Path) -> str:
    """The title with the scale, then the table.

    Raises:
      ResultError: a results file of the table cannot be used.
    """
    rows = read_rows(table, scale, results)
    if TABLES[table].kind == "time":
        lines = time_table.lines(table, rows)
    elif TABLES[table].kind == "gradient":
        lines = gradient_table.lines(rows)
    elif TABLES[table].kind == "held_out":
        lines = held_out_table.lines(rows)
    else:
        lines = accuracy_table.lines(table, scale, rows)
    return "\n".join([f"{TABLES[table].title}. Scale: {scale_text(table, scale)}.", "", *lines]) + "\n"


def read_rows(table: str, scale: str, results: Path) -> dict[str, list[dict]]:
    """Row label → the results of the seeds that were run."""
    rows: dict[str, list[dict]] = {}
    for label, cell in cells(table, scale, all_seeds(table)):
        result = read(cell, results)
        rows.setdefault(label, []).extend([result] if result else [])
    return rows
