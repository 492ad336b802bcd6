"""The methods that are compared, as changes of the default config."""

from typing import Any

LLN: dict[str, Any] = {}
CRC: dict[str, Any] = {"model.head": "crc", "optimizer.clip_norm": 1.0}
CONE: dict[str, Any] = {"model.pooling": "projection"}
TAYLOR: dict[str, Any] = {"model.polynomial": "taylor"}
EXACT: dict[str, Any] = {"model.gradient": "exact"}

# CIFAR-100 has its own ρ and γ for the curvature head (paper, section 7); an LLN training does not read them.
CIFAR100: dict[str, Any] = {"data.name": "cifar100"}
CIFAR100_CRC: dict[str, Any] = {"loss.attack_radius": 0.2, "loss.curvature_weight": 0.75}

# The rows of Tables 3 and 4.  'ours' differ from the paper's by the equiripple polynomial and the held norms.
METHODS = {
    "Baseline": LLN | TAYLOR | EXACT,
    "+ Fast": LLN | TAYLOR,
    "+ CRC": CRC | CONE | TAYLOR,
    "ours, LLN": LLN,
    "ours, CRC": CRC | CONE,
    "ours, CRC, rate 0.2": CRC | CONE | {"optimizer.learning_rate": 0.2},
}

# The rows of Tables 5 and 6: '+ CRC' of Tables 3 and 4 in two parts.
PARTS = {
    "+ Fast": LLN | TAYLOR,
    "+ projection": LLN | CONE | TAYLOR,
    "+ CRC-Lip": CRC | TAYLOR,
    "+ both": CRC | CONE | TAYLOR,
}

# The columns of Tables 1 and 8; the first one is what the others are compared with.
TIMED = {
    "Previous": LLN | TAYLOR | EXACT,
    "+ Fast": LLN | TAYLOR,
    "Ours (paper)": CRC | CONE | TAYLOR,
    "equiripple + fast": LLN,
    "equiripple + fast + CRC + projection": CRC | CONE,
}
