"""Networks of other programs, as ours: what they are, what they claim, and what is proven of them (docs/interop.md)."""

import os
from collections.abc import Mapping
from typing import Any

from lipjax.interop import aol, bronet, cpl, exported, layers_compared, liresnet, sll, soc
from lipjax.interop.claim import Claim, Claimed
from lipjax.interop.files import read_file, read_weights
from lipjax.interop.lipconvnet import from_pytorch
from lipjax.interop.network import Foreign, Reader
from lipjax.interop.settings import settings_of

# A program more is its file and its line here.
PROGRAMS: dict[str, Reader] = {
    "liresnet": liresnet.read,
    "bronet": bronet.read,
    "sll": sll.read,
    "cpl": cpl.read,
    "soc": soc.read,
    "aol": aol.read,
    layers_compared.NAME: layers_compared.read,
    "torchlip": exported.reader("torchlip"),
    "orthogonium": exported.reader("orthogonium"),
}


def read(path: str | os.PathLike, like: str, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """(model, variables) of the weights in a file of the program `like`; see `read_network`."""
    found = read_network(path, like, **settings)
    return found.model, found.variables


def read_network(path: str | os.PathLike, like: str, **settings: Any) -> Foreign:
    """The network in a file, with what its program claims of it: `network_of` with the settings as keywords."""
    return network_of(path, like, settings)


def network_of(path: str | os.PathLike, like: str, settings: Mapping[str, Any]) -> Foreign:
    """The network in a file, with what its program claims of it.

    Parameters that a program normalises before it uses them are normalised by its formula in float64, and what is
    proven is proven of the result; all variables are float64.

    Args:
      path: a .pth, .pt, .safetensors or .npz file (`read_weights`).
      like: a key of PROGRAMS.
      settings: what is in no state dict, where it is not as the program has it by default (docs/interop.md); the
        configuration that the file keeps counts where nothing is said here.

    Raises:
      ValueError: an unknown program; a file that is none, asks for code, or has names or shapes that are not those of
        the program, each by its name; a setting that the program does not have, or a value that it cannot be.
    """
    if like not in PROGRAMS:
        raise ValueError(f"like={like!r}: must be one of {', '.join(PROGRAMS)}")
    weights, reader = read_file(path), PROGRAMS[like]
    return reader(weights.state, **settings_of(like, reader, settings, weights.settings))


__all__ = [
    "PROGRAMS",
    "Claim",
    "Claimed",
    "Foreign",
    "from_pytorch",
    "network_of",
    "read",
    "read_file",
    "read_network",
    "read_weights",
]
