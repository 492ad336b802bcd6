"""What no state dict says: the settings of a reader are its keywords; what each may be stands here."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lipjax.config import Allowed, flag, integer, is_number, positive


def _each(called: str, holds: Callable[[Any], bool], *lengths: int) -> Allowed:
    """A list of so many values, of any length but 0 where none is given, all of which hold."""

    def all_hold(value: Any) -> bool:
        is_list = isinstance(value, list | tuple) and (len(value) in lengths if lengths else len(value) > 0)
        return is_list and all(map(holds, value))

    return called, all_hold


def _numbers(kind: str, holds: Callable[[Any], bool]) -> Allowed:
    called, are = _each(f"{kind}, or a list of one for each channel", holds)
    return called, lambda value: holds(value) or are(value)


def _word(*words: str) -> Allowed:
    return f"one of {words}, in any letters", lambda value: isinstance(value, str) and value.lower() in words


_TEXT: Allowed = ("a text", lambda value: isinstance(value, str))
ALLOWED: dict[str, Allowed] = {
    "mean": _numbers("a finite number", is_number),
    "std": _numbers(*positive()),
    "num_classes": integer(2),
    "image_shape": _each("three positive integers, (H, W, C)", integer(1)[1], 3),
    "layers": _each("a list of dictionaries", lambda value: isinstance(value, Mapping)),
    "act_name": _TEXT,
    "use_lln": flag(),
    "backbone_type": _TEXT,
    "backbone_zero_padding": flag(),
    "backbone_quasi_residual": flag(),
    "neck_conv_type": _word("cholesky", "bro", "l2"),
    "neck_linear_type": _word("cholesky", "bro"),
    "neck_conv_patch_size": integer(0),
    "neck_conv_patch_size_2": integer(0),
}


def settings_of(program: str, read: Callable[..., Any], given: Mapping[str, Any], kept: Mapping[str, Any]) -> dict:
    """The keywords of `read` that the caller gives or, where it says nothing or None, that the file keeps.

    Raises:
      ValueError: a setting given that the program does not have; a value, given or kept, that is none of that setting.
    """
    takes = list(inspect.signature(read).parameters)[1:]
    for name in given:
        if name not in takes:
            raise ValueError(f"{program}: {name}={given[name]!r}: unknown setting; there are {', '.join(takes)}")
    found = {name: kept.get(name) if given.get(name) is None else given[name] for name in takes}
    found = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in found.items() if v is not None}
    found = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    for name, value in found.items():
        called, holds = ALLOWED[name]
        if not holds(value):
            raise ValueError(f"{program}: {name}={value!r}: must be {called}")
    return found
