"""The summary of a certification as certify.py prints it."""

from collections.abc import Callable, Mapping
from typing import Any

from lipjax.system import printed


def table(summary: Mapping[str, Any]) -> str:
    """The summary as printed by certify.py."""
    head = f"{summary['dataset']}, {summary['split']} split, {summary['num_examples']} images"
    head += f" ({summary['seconds']:.1f} s); radii: l2, pixels in [0, 1]"
    rows = lines(summary)
    width = max(len(name) for name, _ in rows)
    return "\n".join([head, *(f"  {name:<{width}}  {value:>9}" for name, value in rows)])


def lines(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of each line of it."""
    certified = summary["certified_accuracy"].items()
    rows = [("standard accuracy", f"{summary['standard_accuracy']:.2%}")]
    rows += [(f"certified accuracy at {radius}", f"{accuracy:.2%}") for radius, accuracy in certified]
    if summary["attack"]:
        upper = summary["attack"]["robust_accuracy_upper_bound"].items()
        rows += [(f"not broken by the attack at {radius}", f"{accuracy:.2%}") for radius, accuracy in upper]
        rows.append(("the attack may reach", summary["attack"]["domain"]))
        factor = _shown(summary["attack"]["detection_factor"], printed.upper, ".4f")
        rows.append(("radii enlarged so many times would be found wrong", factor))
    rows += [
        ("average certified radius", _shown(summary["average_certified_radius"], printed.lower, ".4f")),
        ("proven bound of Lip(features)", printed.upper(summary["lipschitz_bound"], ".5f")),
        ("head certificates that are exact", _shown(summary["exact_fraction"], format, ".2%")),
    ]
    rounding = summary["rounding"]["error_bound"]
    rows.append(("rounding of the features, at most", _shown(rounding, printed.upper, ".1e", "unknown")))
    if summary["float_slack"]:
        rows.append(("taken off beside it", printed.lower(summary["float_slack"], ".1e")))
    if summary["float32"]:
        of_32 = summary["float32"]
        certified = of_32["certified_accuracy"].items()
        rows += [(f"float32 program, certified at {radius}", f"{accuracy:.2%}") for radius, accuracy in certified]
        rows.append(("  its features off by at most, proven", printed.upper(of_32["error_bound_max"], ".1e")))
        rows.append(("  its features off by at most, measured", printed.upper(of_32["error_measured_max"], ".1e")))
    for radius, accuracy in (summary["paper_protocol_not_a_proof"] or {}).items():
        rows.append((f"paper's protocol at {radius}, not a proof", f"{accuracy:.2%}"))
    for name, difference in (summary["precision"] or {}).items():
        rows.append((f"features in {name} off by at most", printed.upper(difference["features_max"], ".1e")))
    return rows


def _shown(value: float | None, form: Callable[[float, str], str], how: str, missing: str = "none") -> str:
    return missing if value is None else form(value, how)
