"""The report of an audit, as printed by certify.py: numbers side by side, and sentences chosen from them."""

import math
from collections.abc import Mapping
from typing import Any

from lipjax.system import printed

_SAME = 1e-6  # of a constant: what float32 makes of one number twice


def reasons(result: Mapping[str, Any]) -> list[str]:
    """Where claims and proofs differ and why, a sentence each."""
    found = [*_of_layers(result["layers"]), *_of_product(result), *_of_formula(result)]
    return found or ["The claims are what is proven."]


def _of_layers(layers: list[Mapping[str, Any]]) -> list[str]:
    sentences = []
    for row in sorted(layers, key=lambda row: row["claimed"] / max(row["proven"], 1e-300)):
        claimed, proven, gain = row["claimed"], row["proven"], row["found"]
        about = f"{row['layer']}, claimed {claimed:.6g} ({row['how']})"
        if gain is not None and gain > claimed * (1 + _SAME):
            more = _times(gain, claimed) - 1
            times = printed.lower(gain, ".6g")
            sentences.append(f"{about}: wrong, a change was found that it enlarges {times} times, {more:.2g} more.")
        elif proven > claimed * (1 + _SAME):
            more = _times(proven, claimed) - 1
            sentences.append(f"{about}: proven is {printed.upper(proven, '.6g')} only, {more:.2g} more.")
    shown = sentences[:5]
    return shown + ([f"… and so {len(sentences) - 5} other layers."] if len(sentences) > 5 else [])


def _times(one: float, other: float) -> float:
    """one ÷ other; a program may claim 0."""
    return one / other if other else 1.0 if one == other else math.inf


def _of_product(result: Mapping[str, Any]) -> list[str]:
    ratio = _times(result["proven"], result["claimed"])
    if ratio > 1 + _SAME:
        return [f"The constant of the network is {ratio - 1:.2g} above the claim, so each radius is as much smaller."]
    if ratio < 1 - _SAME:
        return [f"The constant of the network is proven to be {1 - ratio:.2g} below the claim: radii are larger."]
    return []


def _of_formula(result: Mapping[str, Any]) -> list[str]:
    sentences = []
    accuracy = {name: row for name, row in result["accuracy"].items() if name != "standard"}
    if result["formula"] != "rows" and any(row["only_proven"] for row in accuracy.values()):
        divisor = "√2 L" if result["formula"] == "root two" else "2 L"
        sentences.append(
            f"The program divides margins by {divisor}; the proof by the distances of the rows of the last layer, and "
            "by a smaller constant where there is one, so it certifies images that the program does not."
        )
    if result["ties"]:
        sentences.append(f"{result['ties']} images whose two largest logits are equal count as certified there.")
    if result["refuted"]:
        of = result["refuted"]
        sentences.append(f"Of {of} images the attack found a misclassified one within the claimed radius.")
    return sentences


def table(result: Mapping[str, Any]) -> str:
    """The whole report."""
    rows = [("layer", "proven", "claimed", "found", "claim")]
    for row in result["layers"]:
        gain = "" if row["found"] is None else printed.lower(row["found"], ".6f")
        rows.append((row["layer"], printed.upper(row["proven"], ".6f"), f"{row['claimed']:.6f}", gain, row["how"]))
    ratio = _times(result["proven"], result["claimed"])
    of_both = printed.upper(result["proven"], ".6f"), f"{result['claimed']:.6f}"
    total = ("the network", *of_both, "", f"proven ÷ claimed {ratio:.6f}")
    widths = [max(len(row[i]) for row in [*rows, total]) for i in range(4)]
    lines = [f"Lipschitz constants, l2, of {result['weights']} (read as {result['source']})"]
    for name, *numbers, how in [*rows, total]:
        columns = "  ".join(f"{text:>{width}}" for text, width in zip(numbers, widths[1:], strict=True))
        lines.append(f"  {name:<{widths[0]}}  {columns}  {how}")
    lines.append(f"certified accuracy of {result['num_examples']} images of {result['dataset']}")
    for name, row in result["accuracy"].items():
        text = f"  {name:<10} proven {row['proven']:>7.2%}  by its formula {row['claimed']:>7.2%}"
        if name != "standard":
            text += f", {row['only_claimed']} images only claimed, {row['only_proven']} only proven"
        lines.append(text)
    return "\n".join([*lines, *(f"* {sentence}" for sentence in result["reasons"])])
