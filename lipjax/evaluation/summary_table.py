"""The summary of a certification as certify.py prints it."""

from collections.abc import Mapping
from typing import Any


def table(summary: Mapping[str, Any]) -> str:
    """The summary as printed by certify.py."""
    certified = summary["certified_accuracy"].items()
    rows = [("standard accuracy", f"{summary['standard_accuracy']:.2%}")]
    rows += [(f"certified accuracy at {radius}", f"{accuracy:.2%}") for radius, accuracy in certified]
    if summary["attack"]:
        upper = summary["attack"]["robust_accuracy_upper_bound"].items()
        rows += [(f"not broken by the attack at {radius}", f"{accuracy:.2%}") for radius, accuracy in upper]
    rows += [
        ("average certified radius", _shown(summary["average_certified_radius"], ".4f")),
        ("proven bound of Lip(features)", f"{summary['lipschitz_bound']:.5f}"),
        ("head certificates that are exact", _shown(summary["exact_fraction"], ".2%")),
    ]
    if summary["float_slack"]:
        rows.append(("taken off for rounding of the features", f"{summary['float_slack']:.1e}"))
    for radius, accuracy in (summary["paper_protocol_not_a_proof"] or {}).items():
        rows.append((f"paper's protocol at {radius}, not a proof", f"{accuracy:.2%}"))
    for name, difference in (summary["precision"] or {}).items():
        rows.append((f"features in {name} off by at most", f"{difference['features_max']:.1e}"))
    head = f"{summary['dataset']}, {summary['split']} split, {summary['num_examples']} images"
    head += f" ({summary['seconds']:.1f} s); radii: l2, pixels in [0, 1]"
    width = max(len(name) for name, _ in rows)
    return "\n".join([head, *(f"  {name:<{width}}  {value:>9}" for name, value in rows)])


def _shown(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)
