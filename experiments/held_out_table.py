"""Recipes by what held-out images say of them: a line a recipe, with its cost."""

from statistics import mean

from experiments.accuracy_table import spread


def lines(rows: dict[str, list[dict]]) -> list[str]:
    """Means over the seeds that were run, with the smallest and the largest in brackets; the cost in units U."""
    radii = next((list(row[0]["held_out"]["certified_accuracy"]) for row in rows.values() if row), [])
    head = ["", "cost in U", "seeds", "standard", *(f"certified at {radius}" for radius in radii)]
    made = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for label, row in rows.items():
        if not row:
            made.append(f"| {label} | not run |" + " |" * (len(head) - 2))
            continue
        found = [result["held_out"] for result in row]
        columns = [[f["standard_accuracy"] for f in found]]
        columns += [[f["certified_accuracy"][radius] for f in found] for radius in radii]
        cost = mean(result["units"] for result in row)
        made.append("| " + " | ".join([label, f"{cost:.2f}", str(len(row)), *map(spread, columns)]) + " |")
    return made
