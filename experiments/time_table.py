"""Seconds an epoch by depth, and the reductions, beside the paper's Table 1."""

from statistics import median

from experiments import paper
from experiments.methods import TIMED

BASELINE = "Previous"


def lines(table: str, rows: dict[str, list[dict]]) -> list[str]:
    """A line a network: seconds an epoch of each variant, reductions in %, the paper's of both."""
    head = [
        "",
        *TIMED,
        "reduction by + Fast",
        "the paper's reduction",
        "reduction by equiripple + fast",
        "the paper's seconds, Previous → Ours",
    ]
    made = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for label, row in rows.items():
        published = paper.times(table, int(label.removeprefix("LipConvnet-")))
        theirs = f"{published.reduction:.2f} %" if published else ""
        seconds = f"{published.previous:.2f} → {published.ours:.2f}" if published else ""
        if row:
            ours = [f"{epoch_seconds(row[0], name):.1f}" for name in TIMED]
            reductions = [f"{reduction(row[0], name):.1f} %" for name in ("+ Fast", "equiripple + fast")]
        else:
            ours, reductions = ["not run"] + [""] * (len(TIMED) - 1), ["", ""]
        cells = [label, *ours, reductions[0], theirs, reductions[1], seconds]
        made.append("|" + "".join(f" {text} |" if text else " |" for text in cells))
    return made


def epoch_seconds(result: dict, name: str) -> float:
    """Of a variant."""
    return result["timed"][name]["epoch_seconds"]


def reduction(result: dict, name: str) -> float:
    """In %, negative where the variant is faster: the median over the rounds of steps.

    Steps of one round follow each other, so their ratio suffers less from a busy machine than that of two medians.
    """
    pairs = zip(result["timed"][name]["step_seconds"], result["timed"][BASELINE]["step_seconds"], strict=True)
    return 100 * (median(step / baseline for step, baseline in pairs) - 1)
