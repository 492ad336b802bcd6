"""What layers refuse: fields that are not allowed, and variables of other shapes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lipjax.config import Allowed, integer, or_none

# Of fields that are a number of channels, or left to the layer.
OPTIONAL_COUNT: Allowed = ("None or an integer >= 1", or_none(integer(1))[1])


def check_field(owner: str, name: str, value: Any, allowed: Allowed) -> None:
    """Raise ValueError, naming the layer and its field, unless the value is allowed."""
    text, holds = allowed
    if not holds(value):
        raise ValueError(f"{owner}: {name} must be {text}, got {value!r}")


def check_shapes(owner: str, variables: Mapping[str, Any], **shapes: tuple[int, ...]) -> None:
    """Raise ValueError unless the variables have these shapes: others would be broadcast, which enlarges distances."""
    for name, shape in shapes.items():
        if np.shape(variables[name]) != shape:
            raise ValueError(f"{owner}: {name} must have shape {shape}, got {np.shape(variables[name])}")
