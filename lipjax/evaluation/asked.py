"""What is asked of a certification."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lipjax.config import parse_radii
from lipjax.models.pgd import DOMAINS, STRENGTHS
from lipjax.models.program import BATCH_SIZE, PRECISIONS

SPLITS = ("test", "train", "validation")
ATTACKS = ("none", *STRENGTHS)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of a certification of a split.

    Attributes:
      num_examples: only the first so many images; None: all.
      radii: l2, pixels in [0, 1], such as '36/255,0.5'; None: as in the config.
      split: one of SPLITS.
      batch_size: images at a time.
      attack, attack_domain: one of ATTACKS; what it may reach, one of `pgd.DOMAINS`.
      float_slack, precisions, paper_protocol: see `Radius`, `Precision`, `PaperProtocol`.
      precision: 'float32' certifies the float32 program beside that of float64, see `Float32`.

    Raises:
      ValueError: "KEY=VALUE: must be …".
    """

    num_examples: int | None = None
    radii: str | None = None
    split: str = "test"
    batch_size: int = BATCH_SIZE
    attack: str = "none"
    attack_domain: str = "images"
    float_slack: float = 0.0
    precisions: bool = False
    paper_protocol: bool = False
    precision: str = "float64"

    def __post_init__(self):
        if self.radii is not None:
            parse_radii(self.radii)
        for name, value in {"num_examples": self.num_examples, "batch_size": self.batch_size}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not 0 <= self.float_slack < np.inf:
            raise ValueError(f"float_slack={self.float_slack!r}: must be a finite number >= 0")
        allowed = {"split": SPLITS, "attack": ATTACKS, "attack_domain": DOMAINS, "precision": PRECISIONS}
        for name, names in allowed.items():
            if (choice := getattr(self, name)) not in names:
                raise ValueError(f"{name}={choice!r}: must be one of {names}")

    @classmethod
    def of_summary(cls, summary: Mapping[str, Any]) -> "Asked":
        """What gave a summary.json."""
        attack = summary.get("attack")
        return cls(
            summary["num_examples"],
            ",".join(summary["certified_accuracy"]),
            summary["split"],
            attack=attack["strength"] if attack else "none",
            attack_domain=attack.get("domain", "space") if attack else "images",
            float_slack=summary.get("float_slack", 0.0),
            paper_protocol=bool(summary.get("paper_protocol_not_a_proof")),
            precision="float32" if summary.get("float32") else "float64",
        )

    def folder(self, workdir: Path) -> Path:
        """Where the certificates of the split are."""
        return workdir / ("certificates" if self.split == "test" else f"certificates_{self.split}")
