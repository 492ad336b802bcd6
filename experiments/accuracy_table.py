"""Standard and certified accuracy: a line a row, beside it the paper's and below it the authors' program's numbers."""

from statistics import mean

from experiments import paper
from experiments.paper import RADII, Accuracies
from experiments.tables import TABLES

_SEPARATOR = " · "


def lines(table: str, scale: str, rows: dict[str, list[dict]]) -> list[str]:
    """Means over the seeds that were run, with the smallest and the largest in brackets."""
    radii = next((list(row[0]["summary"]["certified_accuracy"]) for row in rows.values() if row), list(RADII))
    has_paper = TABLES[table].paper is not None
    head = ["", "seeds", "standard", *(f"certified at {radius}" for radius in radii)]
    head += [f"paper (32 channels, 200 epochs): {_SEPARATOR.join(['standard', *radii])}"] if has_paper else []
    made = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for label, row in rows.items():
        columns = _ours(row, radii)
        line = f"| {label} | {columns[0]} |" + "".join(f" {text} |" if text else " |" for text in columns[1:])
        if not has_paper:
            made.append(line)
            continue
        depth, method = split_label(label)
        published = paper.accuracies(table, depth, method)
        made.append(f"{line} {_published(published)} |" if published else f"{line} |")
        authors = paper.authors_program(table, scale, depth, method)
        if authors:
            shown = " | ".join(f"{value:.2f} %" for value in authors)
            made.append(f"| {label}, authors' program | 1 | {shown} | |")
    return made


def split_label(label: str) -> tuple[int, str]:
    """'LipConvnet-15, + Fast' → (15, '+ Fast')."""
    network, _, method = label.partition(", ")
    return int(network.removeprefix("LipConvnet-")), method


def _ours(row: list[dict], radii: list[str]) -> list[str]:
    if not row:
        return ["not run"] + [""] * (1 + len(radii))
    summaries = [result["summary"] for result in row]
    columns = [[s["standard_accuracy"] for s in summaries]]
    columns += [[s["certified_accuracy"][radius] for s in summaries] for radius in radii]
    return [str(len(row)), *map(spread, columns)]


def spread(values: list[float]) -> str:
    """'50.00 % (49.00 … 51.00)', the mean of fractions with the smallest and the largest."""
    if len(values) == 1:
        return f"{100 * values[0]:.2f} %"
    return f"{100 * mean(values):.2f} % ({100 * min(values):.2f} … {100 * max(values):.2f})"


def _published(accuracies: Accuracies) -> str:
    return _SEPARATOR.join("–" if value is None else f"{value:.2f}" for value in accuracies)
