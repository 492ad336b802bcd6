"""Errors of the approximate kernel gradients: means over the batches, and over the seeds that were run."""

from statistics import mean

from experiments.gradients import APPROXIMATE


def lines(rows: dict[str, list[dict]]) -> list[str]:
    """A line a network: relative error and cosine of each approximate gradient against the exact one."""
    head = ["", *(f"{how}: {what}" for how in APPROXIMATE for what in ("relative error", "cosine"))]
    made = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for label, row in rows.items():
        columns = []
        for how in APPROXIMATE:
            errors = [value for result in row for value in result["errors"][how]["relative_error"]]
            cosines = [value for result in row for value in result["errors"][how]["cosine"]]
            if row:
                columns += [f"{100 * mean(errors):.2f} % ({100 * min(errors):.2f} … {100 * max(errors):.2f})"]
                columns += [f"{mean(cosines):.5f}"]
        columns = columns or ["not run"] + [""] * (len(head) - 2)
        made.append("|" + "".join(f" {text} |" if text else " |" for text in [label, *columns]))
    return made
