"""The chain of proof: each map of a network, its Lipschitz bound, and how that was obtained (docs/soundness.md)."""

import math
from collections.abc import Iterable
from typing import NamedTuple


class Link(NamedTuple):
    """‖T(u) − T(v)‖ <= lipschitz ‖u − v‖ for one map T.

    Attributes:
      layer: its name in the network.
      kind: what it computes.
      lipschitz: the proven bound.
      method: how it was obtained.
      norm: of a convolution p(A), the proven bound of ‖A‖; None for other maps.
    """

    layer: str
    kind: str
    lipschitz: float
    method: str
    norm: float | None = None


def product(links: Iterable[Link]) -> float:
    """The product of the bounds, rounded up."""
    bound = 1.0
    for link in links:
        if link.lipschitz != 1.0:
            bound = math.nextafter(bound * link.lipschitz, math.inf)
    return bound
