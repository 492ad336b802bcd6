"""Networks of other programs, random or trained a little: state dicts by numpy, and what the programs make of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import aol_program as aol
import bronet_program as bronet
import compared_program as compared
import liresnet_program as liresnet
import numpy as np
import potential_program as potential
import soc_program as soc


class Case(NamedTuple):
    """A state dict of the program `like`, and its logits of images (N, H, W, C) by numpy."""

    like: str
    state: dict[str, np.ndarray]
    logits: Callable[[dict, np.ndarray], np.ndarray]
    shape: tuple[int, int, int]
    settings: dict[str, Any]


def trained(case: Case, rng, fixed: tuple[str, ...], steps: int = 40) -> Case:
    """After a random search for a smaller cross entropy, of all parameters but those whose names end so."""
    images, labels = rng.uniform(size=(12, *case.shape)), rng.integers(0, 3, size=12)

    def loss(state):
        z = case.logits(state, images)
        z = z - z.max(axis=1, keepdims=True)
        return float((np.log(np.exp(z).sum(axis=1)) - z[range(12), labels]).mean())

    def moved(name, array):
        if name.endswith(fixed):
            return array
        return array + 0.1 * rng.normal(size=array.shape) * np.abs(array).max()

    start, state, least = loss(case.state), case.state, loss(case.state)
    for _ in range(steps):
        candidate = {name: moved(name, array) for name, array in state.items()}
        if (now := loss(candidate)) < least:
            state, least = candidate, now
    assert least < 0.98 * start
    return case._replace(state=state)


def _liresnet(rng, side=16, stride=2):
    state = liresnet.state(rng, side=side, stride=stride)
    return Case("liresnet", state, lambda s, x: liresnet.logits(s, x, stride), (side, side, 3), {})


def _bronet(rng, settings=None, circular=False, **kind):
    state, border = bronet.state(rng, **kind), kind.get("border", False)
    return Case("bronet", state, lambda s, x: bronet.logits(s, x, border, circular), (16, 16, 3), settings or {})


_L2 = {"neck_conv_type": "l2"}
_CIFAR = (0.49139968, 0.48215841, 0.44653091)


def _sll(rng):
    return Case("sll", potential.sll_state(rng), lambda s, x: potential.sll_logits(s, x, _CIFAR), (8, 8, 3), {})


def _cpl(rng, std=1.0, **kind):
    state = potential.cpl_state(rng, **kind)
    return Case("cpl", state, lambda s, x: potential.cpl_logits(s, x, _CIFAR, std), (8, 8, 3), {"std": std})


def _soc(rng, blocks=1, **kind):
    return Case("soc", soc.state(rng, blocks=blocks, **kind), lambda s, x: soc.logits(s, x, blocks), (32, 32, 3), {})


def _aol(rng, model):
    settings = {"image_shape": (8, 8, 3)}
    return Case("aol", aol.state(rng, model), lambda s, x: aol.logits(s, x, model), (8, 8, 3), settings)


def _compared(rng, kind):
    state, name = compared.state(rng, kind), "1LipschitzLayersCompared"
    return Case(name, state, lambda s, x: compared.logits(s, x, kind), (8, 8, 3), {})


_BUFFERS = ("identity", "init_x", "eval_weight", "I_low", "I_full", "identity_half", "pm.u", "eval_sv_max", "alpha")
_BUFFERS += ("correction", *(f"{side}{i}" for side in "uv" for i in range(1, 5)))
CASES: dict[str, Callable[[np.random.Generator], Case]] = {
    "liresnet": _liresnet,
    "liresnet of stride 1": lambda rng: _liresnet(rng, 8, 1),
    "liresnet trained": lambda rng: trained(_liresnet(rng), rng, _BUFFERS),
    "bronet": _bronet,
    "bronet of dense reflectors": lambda rng: _bronet(rng, mlp="bro"),
    "bronet without padding": lambda rng: _bronet(rng, {"backbone_zero_padding": False}, True),
    "bronet of the second kind": lambda rng: _bronet(rng, _L2, border=True, hybrid=True, l2=True),
    "bronet trained": lambda rng: trained(_bronet(rng), rng, _BUFFERS),
    "sll": _sll,
    "sll trained": lambda rng: trained(_sll(rng), rng, _BUFFERS),
    "cpl": _cpl,
    "cpl without rows, by its iterations": lambda rng: _cpl(rng, 0.25, lln=False, norm=0.0),
    "soc": lambda rng: _soc(rng, activation="hh1", lln=False),
    "soc trained": lambda rng: trained(_soc(rng, activation="hh2"), rng, _BUFFERS, 20),
    **{f"aol, {model}": lambda rng, model=model: _aol(rng, model) for model in aol.MODELS},
    "aol trained": lambda rng: trained(_aol(rng, "patchwise"), rng, ()),
    **{kind: lambda rng, kind=kind: _compared(rng, kind) for kind in compared.CONVOLUTIONS},
    "AOLConv2d trained": lambda rng: trained(_compared(rng, "AOLConv2d"), rng, ()),
    "CPLConv2d trained": lambda rng: trained(_compared(rng, "CPLConv2d"), rng, (".u",)),
}
