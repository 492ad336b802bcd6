"""Networks of other programs, random or trained a little: state dicts by numpy, and what the programs make of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import bronet_program as bronet
import liresnet_program as liresnet
import numpy as np


class Case(NamedTuple):
    """A state dict of the program `like`, and its logits of images (N, H, W, C) by numpy."""

    like: str
    state: dict[str, np.ndarray]
    logits: Callable[[dict, np.ndarray], np.ndarray]
    shape: tuple[int, int, int]
    settings: dict[str, Any]


def trained(case: Case, rng, fixed: tuple[str, ...], steps: int = 40) -> Case:
    """After a random search for a smaller cross entropy, of all parameters but those with such names."""
    images, labels = rng.uniform(size=(12, *case.shape)), rng.integers(0, 3, size=12)

    def loss(state):
        z = case.logits(state, images)
        z = z - z.max(axis=1, keepdims=True)
        return float((np.log(np.exp(z).sum(axis=1)) - z[range(12), labels]).mean())

    state, least = case.state, loss(case.state)
    for _ in range(steps):
        moved = {
            name: array if name.endswith(fixed) else array + 0.1 * rng.normal(size=array.shape) * np.abs(array).max()
            for name, array in state.items()
        }
        if (now := loss(moved)) < least:
            state, least = moved, now
    assert least < 0.9 * loss(case.state)
    return case._replace(state=state)


def _liresnet(rng, side=16, stride=2):
    state = liresnet.state(rng, side=side, stride=stride)
    return Case("liresnet", state, lambda s, x: liresnet.logits(s, x, stride), (side, side, 3), {})


def _bronet(rng, settings=None, circular=False, **kind):
    state, border = bronet.state(rng, **kind), kind.get("border", False)
    return Case("bronet", state, lambda s, x: bronet.logits(s, x, border, circular), (16, 16, 3), settings or {})


_BUFFERS = ("identity", "init_x", "eval_weight", "I_low", "I_full", "identity_half")
CASES: dict[str, Callable[[np.random.Generator], Case]] = {
    "liresnet": _liresnet,
    "liresnet of stride 1": lambda rng: _liresnet(rng, 8, 1),
    "liresnet trained": lambda rng: trained(_liresnet(rng), rng, _BUFFERS),
    "bronet": _bronet,
    "bronet of dense reflectors": lambda rng: _bronet(rng, mlp="bro"),
    "bronet without padding": lambda rng: _bronet(rng, {"backbone_zero_padding": False}, True),
    "bronet of the second kind": lambda rng: _bronet(rng, border=True, hybrid=True, l2=True),
    "bronet trained": lambda rng: trained(_bronet(rng), rng, _BUFFERS),
}
