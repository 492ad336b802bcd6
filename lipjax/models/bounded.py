"""The bound of a backbone, of one kernel or of an ordinary network, with no head."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lipjax.layers import Layer, Proof
from lipjax.layers.layer import Shape, Variables, remade
from lipjax.models import plain
from lipjax.models.network import proof_of
from lipjax.models.program import cast
from lipjax.models.proven import check_nobody_listens, copied_variables


def bound(
    network: Any,
    image_shape: Sequence[int] | None = None,
    *,
    variables: Variables | None = None,
    size: int | tuple[int, int] | None = None,
) -> Proof:
    """The proof of a network or a kernel, a tree; `.lipschitz` bounds Lip(g), l2 of the input to l2 of what it gives.

    ‖g(u) − g(v)‖ <= lipschitz · ‖u − v‖ for all u, v of the shape, in real arithmetic with these very numbers, cast up
    to float64; for a network with a head there is `lipjax.prove`.

    Args:
      network: one of
        a `Layer`, such as `Sequential`, with the variables that its `init` or `tightened` gives;
        a kernel, an array (k, l, C_in, C_out) of a convolution of stride 1 with as many outputs as pixels, zero-padded
          by ⌊(k − 1)/2⌋ before and ⌊k/2⌋ after the image; other strides and paddings: as a plain description;
        a matrix, an array (D_in, D_out);
        a plain description, a list of dicts, or the path of an .npz of one (docs/plain.md);
        a torch `nn.Sequential` in evaluation, of the modules that docs/plain.md names.
      image_shape: (H, W, C), or (D,), of one input; not needed for a file or a matrix.
      variables: of a `Layer`, and of nothing else.
      size: of a kernel, instead of image_shape: (height, width) of the images, or an integer for both.

    Raises:
      TypeError: what is none of these; a `Layer` that was changed after its definition.
      ValueError: variables of half precision or not finite (named), a layer of which nothing is proven, a shape that a
        layer does not take, a method interceptor at work; see `models.plain.read` and `models.torch_reader.described`.
    """
    check_nobody_listens()
    if variables is not None and not isinstance(network, Layer):
        raise TypeError(f"bound: variables are those of a lipjax Layer, got a {type(network).__name__}")
    if size is not None and not (np.ndim(network) == 4 and image_shape is None):
        raise ValueError("bound: size is that of the images of a kernel (k, l, C_in, C_out), without image_shape")
    if isinstance(network, Layer):
        if variables is None:
            raise ValueError("bound: a Layer needs its variables, as its init or tightened gives them")
        layer, own, shape = network, variables, _given(image_shape)
    else:
        description, shape = _described(network, image_shape if size is None else _sides(size))
        layer, own = plain.read(description, shape)
    own = cast(copied_variables(own), "float64")
    return proof_of(remade(layer.clone(parent=None, name=None)), own, shape)


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(isinstance(n, int | np.integer) and n >= 1 for n in sides):
        raise ValueError(f"bound: size must be an integer >= 1, or (height, width), got {size!r}")
    return int(sides[0]), int(sides[1])


def _given(image_shape: Sequence[int] | None) -> Shape:
    if image_shape is None:
        raise ValueError("bound: give image_shape, (H, W, C) or (D,), of one input")
    return tuple(image_shape)


def _described(network: Any, image_shape: Sequence[int] | None) -> tuple[plain.Description, Shape]:
    """(plain description, shape of one input) of what is no `Layer`."""
    if isinstance(network, str | os.PathLike):
        description, shape = plain.load(Path(network))
        if image_shape is not None and tuple(image_shape) != shape:
            raise ValueError(f"bound: image_shape={tuple(image_shape)} must be {shape}, that of {network}")
        return description, shape
    if any(cls.__module__.startswith("torch.nn") for cls in type(network).__mro__):
        from lipjax.models.torch_reader import described

        return described(network), _given(image_shape)
    if isinstance(network, list | tuple) and all(isinstance(item, Mapping) for item in network):
        return network, _given(image_shape)
    if hasattr(network, "shape") and hasattr(network, "dtype") and hasattr(network, "__array__"):
        return _kernel(np.asarray(network), image_shape)
    kind = type(network).__name__
    raise TypeError(
        f"bound: network must be a lipjax Layer, which states its proof, an array, a list of dicts, a file or a torch "
        f"Sequential; {kind} is none (of a network with a head it is lipjax.prove(…).proof)"
    )


def _kernel(kernel: np.ndarray, image_shape: Sequence[int] | None) -> tuple[plain.Description, Shape]:
    """Of one convolution with as many outputs as pixels, or of one matrix."""
    if kernel.ndim == 2:
        return [{"kind": "dense", "kernel": kernel}], tuple(image_shape or kernel.shape[:1])
    if kernel.ndim != 4:
        raise ValueError(f"bound: a kernel must be (k, l, C_in, C_out) or (D_in, D_out), got shape {kernel.shape}")
    shape = _given(image_shape)
    shape = (*shape, kernel.shape[2]) if len(shape) == 2 else shape
    padding = tuple(((k - 1) // 2, k // 2) for k in kernel.shape[:2])
    return [{"kind": "conv", "kernel": kernel, "padding": padding}], shape
