"""Files of weights: .pth and .pt of PyTorch, .safetensors, .npz.  None of them can execute anything."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lipjax.interop import pickled

# Under which names programs keep the state dict within what they save, and under which their settings.
_STATES = ("state_dict", "model_state_dict", "backbone", "model")
_SETTINGS = ("configs", "config", "cfg")
SUFFIXES = (".pth", ".pt", ".safetensors", ".npz")


class Weights(NamedTuple):
    """What a file holds: arrays by their names in the program, and the settings that it keeps beside them."""

    state: dict[str, np.ndarray]
    settings: dict[str, Any]


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The state dict in a file, as arrays by the names of the program, without the prefix 'module.' of DataParallel.

    A .pth or .pt file may hold the state dict itself, or a dictionary with it under one of 'state_dict',
    'model_state_dict', 'backbone' or 'model'; it is read without PyTorch, and nothing in it is executed.

    Raises:
      FileNotFoundError: no such file.
      ValueError: another kind of file, a damaged one, one that asks for anything but tensors, one without a state dict.
    """
    return read_file(path).state


def read_file(path: str | os.PathLike) -> Weights:
    """`read_weights`, with the settings that the file keeps beside the state dict."""
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: must be one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    content, settings = _READERS[path.suffix](path), {}
    if isinstance(content, Mapping):
        settings = _flat(next((content[name] for name in _SETTINGS if isinstance(content.get(name), Mapping)), {}))
        states = [name for name in _STATES if _is_state(content.get(name))]
        if len(states) > 1:  # such as averages of the weights: which of them is meant is not ours to say
            raise ValueError(f"{path}: has several state dicts, {', '.join(states)}; keep one of them")
        content = next((content[name] for name in _STATES if isinstance(content.get(name), Mapping)), content)
    is_state = isinstance(content, Mapping) and content
    strange = [k for k, v in content.items() if not isinstance(v, np.ndarray)] if is_state else []
    if not is_state or strange:
        held = f"{strange[0]!r} is no tensor" if strange else f"it holds a {type(content).__name__}"
        raise ValueError(f"{path}: has no state dict ({held}); looked under {', '.join(_STATES)} and at the whole")
    state = {str(name).removeprefix("module."): array for name, array in content.items()}
    if len(state) < len(content):
        raise ValueError(f"{path}: has two arrays of one name, but for 'module.' before it")
    return Weights(state, settings)


def _is_state(content: Any) -> bool:
    is_mapping = isinstance(content, Mapping) and bool(content)
    return is_mapping and all(isinstance(array, np.ndarray) for array in content.values())


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path}: is no .npz file of plain arrays ({error})") from error


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is no .safetensors file that numpy can hold ({error})") from error


_READERS = {".pth": pickled.read, ".pt": pickled.read, ".npz": _npz, ".safetensors": _safetensors}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of all sections; of different values in several the dictionary of these, which no setting can be."""
    found: dict[str, dict[str, Any]] = {}

    def visit(section: str, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, Mapping):
                visit(f"{section}{key}.", value)
            elif value is not None:
                found.setdefault(str(key), {})[f"{section}{key}"] = value

    visit("", settings)
    return {
        name: values if len(set(map(repr, values.values()))) > 1 else next(iter(values.values()))
        for name, values in found.items()
    }
