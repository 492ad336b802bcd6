"""Markdown tables of finished cells."""

from pathlib import Path
from statistics import mean

from experiments.results import read
from experiments.tables import SCALES, TABLES, cells


def render(table: str, scale: str, results: Path) -> str:
    """One line a row: means over the seeds that were run, with the smallest and the largest in brackets."""
    by_row: dict[str, list] = {}
    for label, cell in cells(table, scale):
        result = read(cell, results)
        by_row.setdefault(label, []).extend([result] if result else [])
    radii = next((list(row[0]["summary"]["certified_accuracy"]) for row in by_row.values() if row), [])
    lines = [
        f"{TABLES[table].title}. Scale: {SCALES[scale].text}.",
        "",
        "| " + " | ".join(["", "seeds", "standard", *(f"certified at {radius}" for radius in radii)]) + " |",
        "|" + "---|" * (3 + len(radii)),
    ]
    for label, row in by_row.items():
        if not row:
            lines.append(f"| {label} | not run |" + " |" * (1 + len(radii)))
            continue
        summaries = [result["summary"] for result in row]
        columns = [[s["standard_accuracy"] for s in summaries]]
        columns += [[s["certified_accuracy"][radius] for s in summaries] for radius in radii]
        lines.append(" | ".join([f"| {label}", str(len(row)), *map(_spread, columns)]) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{100 * values[0]:.2f} %"
    return f"{100 * mean(values):.2f} % ({100 * min(values):.2f} … {100 * max(values):.2f})"
