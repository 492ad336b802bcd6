"""Users' own networks of lipjax layers: their chain of proof is found by watching them run.

A Linen network may compute anything between its layers, so a list of its layers proves nothing.  Here the network is
traced on abstract images while every call of a layer is watched.  The chain holds only if the input of each layer *is*
the output of the one before (the same traced value, not an equal one), from the pixels to the head.  What is not a
layer that states a bound, a residual sum or a forgotten reshape say, breaks the chain and is refused.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from lipjax.layers.heads import CurvatureHead, LastLayerNormalization
from lipjax.layers.proof import Link
from lipjax.layers.skew_orthogonal_conv import SkewOrthogonalConv, settle
from lipjax.models.lipconvnet import LipConvnet

HEADS: dict[type[nn.Module], str] = {LastLayerNormalization: "lln", CurvatureHead: "crc"}


class _Call(NamedTuple):
    layer: nn.Module
    path: tuple[str, ...]
    input: Any
    others: tuple[Any, ...]
    keywords: dict[str, Any]
    output: Any

    @property
    def name(self) -> str:
        return _name(self.path, self.layer)


def chain_of_proof(model: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, ...]) -> list[Link]:
    """A link for each layer of a network from pixels to features, in the order of their calls.

    Args:
      model: a Linen network, called as `model.apply(variables, images)`, of layers that have a method
        `lipschitz_bound(variables, size)`: those of lipjax, or others that state a bound they can prove.  A layer that
        also has `proof(variables, size)` gives its `Link` itself.  The last layer is a `LastLayerNormalization` or a
        `CurvatureHead`.
      image_shape: (H, W, C).

    Raises:
      ValueError: names the first layer that states no bound, or the two between which something else is computed; a
        bound that is negative or not finite; images that are not square.
    """
    return [_link(call, variables) for call in _traced(model, variables, image_shape)[:-1]]


def head_of(model: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    """('lln' or 'crc', its parameters).  Raises as `chain_of_proof`."""
    head = _traced(model, variables, image_shape)[-1]
    return HEADS[type(head.layer)], _own(variables, head.path)["params"]


def features(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """Penultimate features (N, D): what the head is given.  Raises as `chain_of_proof`."""
    return _watched(model, variables, images)[-1].input


def tightened(model: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, ...]) -> dict[str, Any]:
    """The variables with each held norm settled and inside its interval by proof (`SkewOrthogonalConv.tightened`).

    Call it after training, before evaluation.  Raises as `chain_of_proof`.
    """
    if "spectral" not in variables:
        return dict(variables)
    variables = settle(variables)
    for call in _traced(model, variables, image_shape):
        if isinstance(call.layer, SkewOrthogonalConv) and call.layer.polynomial.norm is not None:
            own = call.layer.tightened(_own(variables, call.path), call.input.shape[1])
            variables = {**variables, "spectral": _replaced(variables["spectral"], call.path, own["spectral"])}
    return variables


def _traced(model, variables, image_shape) -> list[_Call]:
    """The calls for one abstract image."""
    calls: list[_Call] = []

    def run(images):
        calls.extend(_watched(model, variables, images))
        for call in calls:
            _check_reads_its_input_alone(call, _own(variables, call.path))
        return calls[-1].output

    jax.eval_shape(run, jax.ShapeDtypeStruct((1, *image_shape), np.float32))
    return calls


def _check_reads_its_input_alone(call: _Call, own: Mapping[str, Any]) -> None:
    """Raise ValueError if a layer also reads a value that depends on the images: an argument, an attribute, a closure.

    Traced by itself, as a function of its input, such a value would be a constant of it.
    """
    function = jax.make_jaxpr(lambda x: call.layer.apply(own, x, *call.others, **call.keywords))(call.input)
    if any(isinstance(constant, jax.core.Tracer) for constant in function.consts):
        raise ValueError(f"{call.name}: reads more than its input, so its bound proves nothing")


def _watched(model, variables, images) -> list[_Call]:
    """The calls of a run in order, checked to be a chain from the images to a head."""
    calls: list[_Call] = []
    is_inside = False

    def watch(method, arguments, keywords, context):
        nonlocal is_inside
        layer = context.module
        if is_inside or context.method_name != "__call__" or layer.path == ():
            return method(*arguments, **keywords)
        name = _name(layer.path, layer)
        if isinstance(layer, LipConvnet):
            raise ValueError(f"{name}: a LipConvnet inside a network; certify it by itself")
        if not (type(layer) in HEADS or hasattr(layer, "lipschitz_bound")):
            before = len(calls)
            output = method(*arguments, **keywords)
            if len(calls) == before and not (arguments and output is arguments[0]):
                raise ValueError(f"{name}: states no Lipschitz bound; layers need lipschitz_bound(variables, size)")
            return output
        others = [*arguments[1:], *keywords.values()]
        if not arguments or any(value is True for value in others):
            raise ValueError(f"{name}: in evaluation a layer is called with its input alone, got {others}")
        is_inside = True
        try:
            output = method(*arguments, **keywords)
        finally:
            is_inside = False
        apart = layer.clone(parent=None, name=None)
        calls.append(_Call(apart, layer.path, arguments[0], arguments[1:], keywords, output))
        return output

    with nn.intercept_methods(watch):
        logits = model.apply(variables, images)
    current, previous = images, "the images"
    for call in calls:
        if call.input is not current:
            raise ValueError(f"between {previous} and {call.name} something is computed that is no layer")
        current, previous = call.output, call.name
    if not calls or type(calls[-1].layer) not in HEADS:
        raise ValueError(f"the last layer must be one of {[head.__name__ for head in HEADS]}, got {previous}")
    if logits is not current:
        raise ValueError(f"after {previous} something is computed that is no layer")
    for call in calls[:-1]:
        if type(call.layer) in HEADS:
            raise ValueError(f"{call.name}: a head before the end")
    return calls


def _link(call: _Call, variables) -> Link:
    own, size, layer = _own(variables, call.path), _size(call), call.layer
    definer = _definer(type(layer), "proof", "lipschitz_bound")
    has_proof = definer is not None and "proof" in vars(definer)
    # A proof of its base does not know what a subclass changes; a bound of any __call__, as Activation's, it may keep.
    keeps_proof = has_proof and type(layer) is not definer
    if definer and (keeps_proof or _definer(definer, "__call__") not in (None, _definer(type(layer), "__call__"))):
        raise ValueError(f"{call.name}: states no Lipschitz bound of its own, only that of {definer.__name__}")
    if has_proof:
        link = layer.proof(own, size)._replace(layer="/".join(call.path))
    else:
        stated = f"stated by {type(layer).__module__}.{type(layer).__qualname__}.lipschitz_bound"
        link = Link("/".join(call.path), type(layer).__name__, float(layer.lipschitz_bound(own, size)), stated)
    if not 0 <= link.lipschitz < math.inf:
        raise ValueError(f"{call.name}: its Lipschitz bound must be a finite number >= 0, got {link.lipschitz!r}")
    return link


def _definer(layer_class: type, *names: str) -> type | None:
    """The class from which a class has an attribute, the nearest that has any of them."""
    return next((cls for cls in layer_class.__mro__ if not vars(cls).keys().isdisjoint(names)), None)


def _name(path: tuple[str, ...], layer: nn.Module) -> str:
    return f"{'/'.join(path)} ({type(layer).__name__})"


def _size(call: _Call) -> int | None:
    """Height and width of the input, None where it is no image."""
    if np.ndim(call.input) != 4:
        return None
    height, width = call.input.shape[1:3]
    if height != width:
        raise ValueError(f"{call.name}: images must be square, got {height}×{width}")
    return height


def _own(variables, path) -> dict[str, Any]:
    """The variables of the layer at a path."""
    own = {}
    for name, collection in variables.items():
        for part in path:
            collection = collection.get(part, {})
        own[name] = collection
    return own


def _replaced(tree, path, leaf):
    if not path:
        return leaf
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], leaf)}
